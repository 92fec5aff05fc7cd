// Package issuer fetches and keeps what an issuer publishes: its metadata and
// its key set. It verifies signatures with the keys.
package issuer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/flight"
)

// How often a document is fetched.
const (
	freshByDefault = 5 * time.Minute  // without a max-age
	minFresh       = time.Minute      // with any max-age
	maxFresh       = time.Hour        // with any max-age
	maxStale       = time.Hour        // beyond its freshness, while refreshing fails
	refetchPause   = 10 * time.Second // between two refetches while there is a document
	recoverPause   = time.Second      // between two attempts while there is none
)

// A document of the issuer is fetched when it is first needed, once for all who
// wait. A use after it went stale refreshes it in the background. A new
// snapshot replaces the old one as a whole. While refreshing fails, the old one
// stays in use for a bounded time.
type document[T any] struct {
	clock     clock.Clock
	fetch     func(ctx context.Context, old *T) (value *T, maxAge time.Duration, err error)
	onFailure func(*failure.Error) // told of each failed attempt to replace a usable snapshot
	flights   *flight.Group[*snapshot[T]]
	current   atomic.Pointer[snapshot[T]]

	mu          sync.Mutex
	nextAttempt clock.Instant // no attempt before this, after a failed one
	nextRefetch clock.Instant // no refetch of a fresh snapshot before this
	lastErr     error         // of the latest attempt; nil if it succeeded
}

// A snapshot is the document as one fetch returned it.
type snapshot[T any] struct {
	value       *T
	requestedAt clock.Instant
	fresh       clock.Instant // until then
	expires     clock.Instant // not used from then on
}

// init prepares a document. A fetch takes the timeout at most.
func (d *document[T]) init(
	timeout time.Duration,
	fetch func(ctx context.Context, old *T) (*T, time.Duration, error),
	onFailure func(*failure.Error),
) {
	d.clock, d.flights = clock.New(), flight.New[*snapshot[T]](timeout)
	d.fetch, d.onFailure = fetch, onFailure
}

// get returns a usable snapshot.
func (d *document[T]) get(ctx context.Context) (*snapshot[T], error) {
	s, now := d.current.Load(), d.clock.Now()
	if s == nil || now.Reached(s.expires) {
		return d.flights.Do(ctx, "", d.refresh(s))
	}
	if now.Reached(s.fresh) && d.mayAttempt(now) {
		d.flights.Start("", d.refresh(s))
	}
	return s, nil
}

// newerThan returns a snapshot that is newer than s, or s itself if the
// document was refetched a moment ago. The error says why the fetch failed.
func (d *document[T]) newerThan(ctx context.Context, s *snapshot[T]) (*snapshot[T], error) {
	if current := d.current.Load(); current != nil && current != s {
		return current, nil
	}
	// Do may join a flight that did not need to refetch.
	for range 2 {
		next, err := d.flights.Do(ctx, "", d.refetch(d.current.Load()))
		if err != nil || next != s {
			return next, err
		}
	}
	return s, nil
}

func (d *document[T]) mayAttempt(now clock.Instant) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return now.Reached(d.nextAttempt)
}

// refresh returns a function that fetches the document, unless a fetch has
// replaced seen since, or the last attempt failed a moment ago.
func (d *document[T]) refresh(seen *snapshot[T]) func(context.Context) (*snapshot[T], error) {
	return func(ctx context.Context) (*snapshot[T], error) {
		return d.attempt(ctx, seen, func(now clock.Instant, _ bool) (mayFetch bool) {
			return now.Reached(d.nextAttempt)
		})
	}
}

// refetch is refresh for a snapshot that is still fresh. It fetches again only
// after a pause.
func (d *document[T]) refetch(seen *snapshot[T]) func(context.Context) (*snapshot[T], error) {
	return func(ctx context.Context) (*snapshot[T], error) {
		return d.attempt(ctx, seen, func(now clock.Instant, usable bool) (mayFetch bool) {
			mayFetch = now.Reached(d.nextAttempt)
			if usable && d.lastErr == nil {
				mayFetch = now.Reached(d.nextRefetch)
			}
			if mayFetch {
				d.nextRefetch = now.Add(refetchPause)
			}
			return mayFetch
		})
	}
}

// attempt fetches the document if the current snapshot is still seen and
// mayFetch permits it. mayFetch runs with d locked.
func (d *document[T]) attempt(
	ctx context.Context, seen *snapshot[T], mayFetch func(now clock.Instant, usable bool) bool,
) (*snapshot[T], error) {
	s, now := d.current.Load(), d.clock.Now()
	usable := s != nil && !now.Reached(s.expires)
	if usable && s != seen {
		return s, nil
	}
	d.mu.Lock()
	fetch, lastErr := mayFetch(now, usable), d.lastErr
	d.mu.Unlock()
	switch {
	case !fetch:
		return s, lastErr
	case usable:
		return d.replaceUsable(ctx, s)
	}
	next, err := d.replace(ctx, s)
	if err != nil {
		d.record(err, d.clock.Now().Add(recoverPause))
	}
	return next, err
}

// replaceUsable is replace for an old snapshot that stays in use if the fetch
// fails. The caller may not wait for the result, so replaceUsable reports what
// goes wrong, a panic included.
func (d *document[T]) replaceUsable(ctx context.Context, old *snapshot[T]) (next *snapshot[T], err error) {
	defer func() {
		if err != nil {
			d.record(err, d.clock.Now().Add(refetchPause))
			d.onFailure(failure.From(err, failure.Unavailable, ""))
		}
	}()
	decided := false
	defer failure.Recover(&decided, &err)
	next, err = d.replace(ctx, old)
	decided = true
	return next, err
}

// replace fetches a new snapshot in place of the old one, which may be nil.
func (d *document[T]) replace(ctx context.Context, old *snapshot[T]) (*snapshot[T], error) {
	var oldValue *T
	if old != nil {
		oldValue = old.value
	}
	requestedAt := d.clock.Now()
	value, maxAge, err := d.fetch(ctx, oldValue)
	if err != nil {
		return nil, err
	}
	if maxAge < 0 {
		maxAge = freshByDefault
	}
	now := d.clock.Now()
	fresh := now.Add(min(max(maxAge, minFresh), maxFresh))
	next := &snapshot[T]{value: value, requestedAt: requestedAt, fresh: fresh, expires: fresh.Add(maxStale)}
	d.current.Store(next)
	d.record(nil, now)
	return next, nil
}

func (d *document[T]) record(err error, nextAttempt clock.Instant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lastErr, d.nextAttempt = err, nextAttempt
}
