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
	minPause       = time.Second      // between two refetches, at first
	maxPause       = 10 * time.Second // between two refetches that bring nothing new
	failedPause    = 10 * time.Second // after a failed attempt while there is a document
	recoverPause   = time.Second      // after a failed attempt while there is none
)

// A tooEarlyError says that the document was refetched a moment ago, and how
// long it is until the next time.
type tooEarlyError struct{ left time.Duration }

// Error describes the error.
func (*tooEarlyError) Error() string { return "fetched a moment ago" }

// A document of the issuer is fetched when it is first needed, once for all who
// wait. A use after it went stale refreshes it in the background. A new
// snapshot replaces the old one as a whole. While refreshing fails, the old one
// stays in use for a bounded time. The server may ask for a longer pause after
// a failed attempt.
type document[T any] struct {
	name    string // for Events
	clock   clock.Clock
	fetch   fetch[T]
	events  Events
	flights *flight.Group[*snapshot[T]]
	current atomic.Pointer[snapshot[T]]

	mu          sync.Mutex
	nextAttempt clock.Instant // no attempt before this, after a failed one
	lastErr     error         // of the latest attempt; nil if it succeeded
	failedSince clock.Instant // the first of these failures, if it failed
	failures    uint64        // so far
	refetchedAt clock.Instant
	pause       time.Duration // from then on, before the next refetch of a fresh snapshot
}

// A fetch gets the document, given the old one or nil. It returns the old one
// itself if nothing has changed.
type fetch[T any] func(ctx context.Context, old *T) (value *T, maxAge time.Duration, err error)

// A snapshot is the document as one fetch returned it.
type snapshot[T any] struct {
	value       *T
	requestedAt clock.Instant
	fresh       clock.Instant // until then
	expires     clock.Instant // not used from then on
}

func (s *snapshot[T]) usable(now clock.Instant) bool { return s != nil && !now.Reached(s.expires) }

// init prepares a document. A fetch takes the timeout at most.
func (d *document[T]) init(name string, c Config, fetch fetch[T]) {
	d.clock, d.flights = clock.New(), flight.New[*snapshot[T]](c.Timeout)
	d.name, d.fetch, d.events = name, fetch, c.Events
}

// get returns a usable snapshot.
func (d *document[T]) get(ctx context.Context) (*snapshot[T], error) {
	s, now := d.current.Load(), d.clock.Now()
	if !s.usable(now) {
		return d.flights.Do(ctx, "", d.refresh(s))
	}
	if now.Reached(s.fresh) && d.mayAttempt(now) {
		d.flights.Start("", d.refresh(s))
	}
	return s, nil
}

// newerThan returns a snapshot that is newer than s. The error says why there
// is none: the fetch failed, or it is a [*tooEarlyError].
func (d *document[T]) newerThan(ctx context.Context, s *snapshot[T]) (*snapshot[T], error) {
	if current := d.current.Load(); current != nil && current != s {
		return current, nil
	}
	// Do may join a flight that found s to be newer than what it had seen.
	for range 2 {
		next, err := d.flights.Do(ctx, "", d.refetch(d.current.Load()))
		if err != nil || next != s {
			return next, err
		}
	}
	return nil, &tooEarlyError{}
}

// unavailable returns why there is no usable snapshot and why no attempt to get
// one may be made now. It is nil if there is one, or if an attempt may be made.
func (d *document[T]) unavailable() error {
	now := d.clock.Now()
	if d.current.Load().usable(now) {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lastErr == nil || now.Reached(d.nextAttempt) {
		return nil
	}
	return d.failedBefore(now)
}

// failedBefore is the error of the last attempt, with the time that is left
// until the next one.
func (d *document[T]) failedBefore(now clock.Instant) error {
	f := *failure.From(d.lastErr, failure.Unavailable, "")
	f.Wait = now.Until(d.nextAttempt)
	return &f
}

func (d *document[T]) mayAttempt(now clock.Instant) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return now.Reached(d.nextAttempt)
}

// refresh returns a function that fetches the document, unless a fetch has
// replaced seen since, or the last attempt failed a moment ago.
func (d *document[T]) refresh(seen *snapshot[T]) func(context.Context) (*snapshot[T], error) {
	return func(ctx context.Context) (*snapshot[T], error) { return d.attempt(ctx, seen, false) }
}

// refetch is refresh for a snapshot that is still fresh. It fetches again only
// after a pause.
func (d *document[T]) refetch(seen *snapshot[T]) func(context.Context) (*snapshot[T], error) {
	return func(ctx context.Context) (*snapshot[T], error) { return d.attempt(ctx, seen, true) }
}

// attempt fetches the document if the current snapshot is still seen and no
// pause forbids it.
func (d *document[T]) attempt(ctx context.Context, seen *snapshot[T], again bool) (*snapshot[T], error) {
	s, now := d.current.Load(), d.clock.Now()
	usable := s.usable(now)
	if usable && s != seen {
		return s, nil
	}
	if err := d.mustWait(now, usable && again); err != nil {
		return nil, err
	}
	if usable {
		return d.replaceUsable(ctx, s, again)
	}
	next, err := d.replace(ctx, s, again)
	if err != nil {
		d.failed(err, recoverPause)
	}
	return next, err
}

// mustWait returns why no attempt may be made now. A refetch of a usable
// snapshot has a pause of its own.
func (d *document[T]) mustWait(now clock.Instant, refetch bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lastErr != nil && !now.Reached(d.nextAttempt) {
		return d.failedBefore(now)
	}
	next := d.refetchedAt.Add(d.pause)
	if refetch && d.lastErr == nil && !now.Reached(next) {
		return &tooEarlyError{now.Until(next)}
	}
	return nil
}

// replaceUsable is replace for an old snapshot that stays in use if the fetch
// fails. The caller may not wait for the result, so replaceUsable reports what
// goes wrong, a panic included.
func (d *document[T]) replaceUsable(
	ctx context.Context, old *snapshot[T], refetch bool,
) (next *snapshot[T], err error) {
	defer func() {
		if err != nil {
			d.failed(err, failedPause)
			d.events.NotRenewed(d.name, failure.From(err, failure.Unavailable, ""))
		}
	}()
	decided := false
	defer failure.Recover(&decided, &err)
	next, err = d.replace(ctx, old, refetch)
	decided = true
	return next, err
}

// replace fetches a new snapshot in place of the old one, which may be nil.
func (d *document[T]) replace(ctx context.Context, old *snapshot[T], refetch bool) (*snapshot[T], error) {
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
	fresh := d.clock.Now().Add(min(max(maxAge, minFresh), maxFresh))
	next := &snapshot[T]{value: value, requestedAt: requestedAt, fresh: fresh, expires: fresh.Add(maxStale)}
	d.current.Store(next)
	if lasted, failed := d.succeeded(requestedAt, refetch, value != oldValue); failed {
		d.events.Again(d.name, lasted)
	}
	return next, nil
}

// succeeded ends the pause after a failed attempt, and reports whether there
// was one and for how long. Refetches that bring nothing new make the pause
// between them longer; any news make it short again.
func (d *document[T]) succeeded(
	requestedAt clock.Instant, refetch, changed bool,
) (lasted time.Duration, failed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	failed = d.lastErr != nil
	lasted = time.Duration(d.clock.Now().Mono - d.failedSince.Mono)
	d.lastErr = nil
	if refetch {
		d.refetchedAt, d.pause = requestedAt, min(max(minPause, 2*d.pause), maxPause)
	}
	if changed {
		d.pause = min(d.pause, minPause)
	}
	return lasted, failed
}

// failed forbids attempts for the pause, or for as long as the server asked.
func (d *document[T]) failed(err error, pause time.Duration) {
	pause = max(pause, failure.From(err, failure.Unavailable, "").Wait)
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock.Now()
	if d.lastErr == nil {
		d.failedSince = now
	}
	d.lastErr, d.nextAttempt = err, now.Add(pause)
	d.failures++
}
