package fleet

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A Line is the way to the store for calls of one kind. Calls that the store
// does not answer cost their callers a bounded time, the first few of them, and
// none after that: five troubles in a row shut the Line, which lets one call
// pass each second then. A Line is safe for concurrent use.
//
// A stall of the machine fails many calls at once. Calls that began before the
// last trouble are therefore the same trouble.
type Line struct {
	// Again, if it is not nil, is told when a call has worked after troubles, for
	// how long there had been nothing else. It is set before the first call.
	Again func(lasted time.Duration)

	mu       sync.Mutex
	calls    int // that have not come back
	troubles int // in a row
	first    time.Time
	last     time.Time
	tried    time.Time // when a shut Line last let one pass
}

const (
	maxCalls    = 256
	maxTroubles = 5
	pause       = time.Second // between two calls while the Line is shut
)

// ErrSkipped says that the store was not called.
var ErrSkipped = errors.New("skipped")

// errBroken is the error of a call that panicked or ended its goroutine.
var errBroken = errors.New("panic")

// Call calls the store and waits for the time of budget at most, also if f is
// deaf to its context. It skips the call if the Line is shut, unless the call
// is urgent, and if too many calls do not come back.
func Call[T any](l *Line, budget time.Duration, urgent bool, f func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	began := time.Now()
	if !l.enter(began, urgent) {
		return *new(T), ErrSkipped
	}
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	results := make(chan result, 1)
	go func() {
		defer l.leave()
		defer cancel()
		r := result{err: errBroken} // if f ends the goroutine
		defer func() {
			if recover() != nil {
				r = result{err: errBroken}
			}
			results <- r
		}()
		r.value, r.err = f(ctx)
	}()
	var r result
	select {
	case r = <-results:
	case <-ctx.Done():
		select {
		case r = <-results: // after which the context ends as well
		default:
			r.err = context.DeadlineExceeded
		}
	}
	if lasted := l.record(began, r.err); lasted > 0 && l.Again != nil {
		l.Again(lasted)
	}
	if r.err != nil {
		return *new(T), r.err
	}
	return r.value, nil
}

func (l *Line) enter(now time.Time, urgent bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls >= maxCalls {
		return false
	}
	if l.troubles >= maxTroubles && !urgent {
		if now.Sub(l.tried) < pause {
			return false
		}
		l.tried = now
	}
	l.calls++
	return true
}

func (l *Line) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls--
}

// record takes note of the end of a call. It returns for how long there had
// been troubles, if they are over.
func (l *Line) record(began time.Time, err error) (lasted time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case err == nil && l.troubles > 0:
		l.troubles = 0
		return max(now.Sub(l.first), 1) // on a coarse clock, too
	case err == nil, l.troubles > 0 && began.Before(l.last):
		return 0
	case l.troubles == 0:
		l.first = now
	}
	l.troubles++
	l.last, l.tried = now, now
	return 0
}
