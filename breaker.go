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
	slots  chan struct{}
	queued atomic.Int64

	mu       sync.Mutex
	failures int     // in a row
	open     bool    // refusing
	until    instant // no probe before
	probing  bool    // one is under way
}

func newBreaker(inFlight int) *breaker {
	return &breaker{clock: newClock(), slots: make(chan struct{}, inFlight)}
}

// do runs one lookup.
func (b *breaker) do(ctx context.Context, lookup func(context.Context) (*Introspection, error)) (*Introspection, error) {
	if _, err := b.admit(false); err != nil {
		return nil, err
	}
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer func() { <-b.slots }()
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
	answer, err := lookup(ctx)
	var e *Error
	outage := err != nil && asError(err, ReasonUnavailable, "").StatusCode() == kinds[ReasonUnavailable].status
	wait := time.Duration(0)
	if errors.Is(err, errAskedToWait) && errors.As(err, &e) {
		wait = e.RetryAfter
	}
	settled = true
	b.settle(probe, !outage, wait)
	return answer, err
}

// enter takes a place, or waits for one in the bounded queue.
func (b *breaker) enter(ctx context.Context) error {
	select {
	case b.slots <- struct{}{}:
		return nil
	default:
	}
	if b.queued.Add(1) > int64(queuePerSlot*cap(b.slots)) {
		b.queued.Add(-1)
		return rejection(ReasonUnavailable, "too many lookups waiting")
	}
	defer b.queued.Add(-1)
	select {
	case b.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return rejectionOf(ReasonUnavailable, "no place in time", ctx.Err())
	}
}

// admit refuses while the breaker is open, but for one probe at a time; to
// begin is to be that probe.
func (b *breaker) admit(begin bool) (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return false, nil
	}
	now := b.now()
	if b.probing || !now.reached(b.until) {
		e := rejection(ReasonUnavailable, "breaker open")
		e.RetryAfter = min(max(now.until(b.until), time.Second), httpcache.MaxRetryAfter)
		return false, e
	}
	b.probing = begin
	return begin, nil
}

// settle takes note of how a lookup ended; wait is what the server asked for.
func (b *breaker) settle(probe, answered bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	if answered {
		// A late success of a lookup from before says nothing of the server
		// now, and one that asked to wait is not hurried.
		if probe || !b.open {
			b.failures, b.open = 0, false
		}
		return
	}
	b.failures++
	if wait == 0 && !b.open && b.failures < breakerThreshold {
		return
	}
	// A shorter wait, told to another lookup, does not undo a longer one.
	if until := b.now().add(max(wait, probeInterval)); !b.open || probe || wait > 0 && until.reached(b.until) {
		b.open, b.until = true, until
	}
}
