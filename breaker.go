package phantom

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/httpcache"
)

// The breaker's measures.
const (
	breakerThreshold = 10          // outages in a row that open it
	probeInterval    = time.Second // between two probes while it is open
	queuePerSlot     = 32          // lookups that may wait for each one under way
)

// errAskedToWait marks an answer with Retry-After.
var errAskedToWait = errors.New("asked to wait")

// A breaker stands before the authorization server. It bounds the lookups
// under way and those that wait for a place; and when lookups keep failing, or
// the server asks to wait, it fails the others at once and sends one probe at a
// time until the server is back.
type breaker struct {
	clock
	timeout time.Duration // of a lookup
	slots   chan struct{}
	handed  chan struct{}   // a place that goes to a known token, before others
	queued  [2]atomic.Int64 // of unknown tokens and of known ones
	given   atomic.Uint64   // places given away so far
	took    atomic.Int64    // the time that answers take, in ns, smoothed

	mu       sync.Mutex
	failures int     // in a row
	open     bool    // one probe at a time
	next     instant // no probe before
	asked    instant // no lookup before: the server asked to wait
}

func newBreaker(inFlight int, timeout time.Duration) *breaker {
	return &breaker{
		clock: newClock(), timeout: timeout,
		slots: make(chan struct{}, inFlight), handed: make(chan struct{}),
	}
}

// do runs one lookup, of a token that is known to have been good or of another.
func (b *breaker) do(ctx context.Context, known bool, lookup func(context.Context) (*Introspection, error)) (*Introspection, error) {
	if _, err := b.admit(false); err != nil {
		return nil, err
	}
	waited, err := b.enter(ctx, known)
	if err != nil {
		return nil, err
	}
	defer b.leave()
	if waited && !b.inTime(ctx, known) {
		return nil, rejection(ReasonUnavailable, "no place in time")
	}
	// The wait may have been long enough for the server to fail.
	probe, err := b.admit(true)
	if err != nil {
		return nil, err
	}
	settled := false
	defer func() { // a hook that panics or ends its goroutine has not answered
		if !settled {
			b.settle(probe, false, 0)
		}
	}()
	began := b.now()
	answer, err := lookup(ctx)
	var e *Error
	switch outage := err != nil && asError(err, ReasonUnavailable, "").StatusCode() == kinds[ReasonUnavailable].status; {
	case !outage:
		// One slow answer among others is not to turn all away who wait.
		before, latest := b.took.Load(), b.now().mono-began.mono
		if before != 0 {
			latest = before + (latest-before)/8
		}
		b.took.Store(latest)
		b.settle(probe, true, 0)
	case errors.As(err, &e) && (errors.Is(err, errAskedToWait) || e.RetryAfter > retryAfterDefault):
		b.settle(probe, false, min(e.RetryAfter, httpcache.MaxRetryAfter))
	default:
		b.settle(probe, false, 0)
	}
	settled = true
	return answer, err
}

// enter takes a place, or waits for one in a bounded queue. Tokens that are
// known to have been good have a queue of their own, which is served first:
// junk does not keep them waiting.
func (b *breaker) enter(ctx context.Context, known bool) (waited bool, err error) {
	select {
	case b.slots <- struct{}{}:
		return false, nil
	default:
	}
	queued, handed := &b.queued[0], (chan struct{})(nil)
	if known {
		queued, handed = &b.queued[1], b.handed
	}
	defer queued.Add(-1)
	if queued.Add(1) > int64(queuePerSlot*cap(b.slots)) {
		return false, rejection(ReasonUnavailable, "too many lookups waiting")
	}
	select {
	case b.slots <- struct{}{}:
		return true, nil
	case <-handed:
		return true, nil
	case <-ctx.Done():
		return false, rejectionOf(ReasonUnavailable, "no place in time", ctx.Err())
	}
}

// inTime reports whether a lookup that had to wait can still be answered. Those
// of unknown tokens want some margin: what is sent in vain keeps others from a
// place.
func (b *breaker) inTime(ctx context.Context, known bool) bool {
	took := time.Duration(b.took.Load())
	if !known {
		took *= 2
	}
	deadline, _ := ctx.Deadline() // which a flight always has
	return ctx.Err() == nil && time.Until(deadline) >= took
}

// leave gives the place away: three of four to known tokens, if any wait.
func (b *breaker) leave() {
	if b.given.Add(1)%4 != 0 {
		select {
		case b.handed <- struct{}{}:
			return
		default:
		}
	}
	<-b.slots
}

// admit refuses while the breaker is open, but for one probe at a time, and
// while the server wants to be left alone; to begin is to be that probe.
func (b *breaker) admit(begin bool) (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	wait := time.Duration(0)
	if !now.reached(b.asked) {
		wait = now.until(b.asked)
	}
	if b.open && !now.reached(b.next) {
		wait = max(wait, now.until(b.next))
	}
	if wait > 0 {
		e := rejection(ReasonUnavailable, "breaker open")
		e.RetryAfter = min(max(wait, time.Second), httpcache.MaxRetryAfter)
		return false, e
	}
	if !b.open || !begin {
		return false, nil
	}
	b.next = now.add(b.timeout + probeInterval) // also if it never ends
	return true, nil
}

// settle takes note of how a lookup ended; wait is what the server asked for.
func (b *breaker) settle(probe, answered bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if answered {
		// A late success of a lookup from before says nothing of the server now.
		if probe || !b.open {
			b.failures, b.open = 0, false
		}
		return
	}
	now := b.now()
	// A shorter wait, told to another lookup, does not undo a longer one.
	if until := now.add(wait); wait > 0 && until.reached(b.asked) {
		b.asked = until
	}
	b.failures++
	if wait == 0 && !b.open && b.failures < breakerThreshold {
		return
	}
	if !b.open || probe {
		b.open, b.next = true, now.add(probeInterval)
	}
}
