package phantom

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// The rhythm in which documents of the authorization server, its key set and
// its metadata, are fetched.
const (
	freshByDefault = 5 * time.Minute  // without a max-age
	freshAtLeast   = time.Minute      // whatever the max-age
	freshAtMost    = time.Hour        // whatever the max-age
	staleAtMost    = time.Hour        // beyond its freshness, while refreshing fails
	refetchPause   = 10 * time.Second // between two refetches while there is a document
	recoverPause   = time.Second      // between two attempts while there is none
)

// A remote is a document of the authorization server: fetched when first
// needed, once for all who wait; kept while it is fresh; then refreshed behind
// the back of those who use it; replaced as a whole, never merged; and used for
// a bounded time while refreshing fails.
type remote[T any] struct {
	clock
	fetch   func(ctx context.Context, old *T) (doc *T, maxAge time.Duration, err error)
	failed  func(err *Error) // told of each failed attempt to renew a usable document
	flights flights[*version[T]]
	current atomic.Pointer[version[T]]

	mu        sync.Mutex
	nextTry   instant // no attempt before, after one that failed
	nextForce instant // no refetch of a fresh document before
	lastErr   error   // of the latest attempt; nil if it succeeded
}

type version[T any] struct {
	doc   *T
	asked instant // when the request for it was made
	fresh instant // until then
	dead  instant // not used from then on
}

// get returns the document.
func (d *remote[T]) get(ctx context.Context) (*version[T], error) {
	v, now := d.current.Load(), d.now()
	if v == nil || now.reached(v.dead) {
		return d.flights.do(ctx, "", d.attempt(v, false))
	}
	if now.reached(v.fresh) && d.due(now) {
		d.flights.start(ctx, "", d.attempt(v, false))
	}
	return v, nil
}

// newer returns a version that is newer than the given one, which is the given
// one itself if the document was refetched a moment ago. An error says that it
// could not be fetched.
func (d *remote[T]) newer(ctx context.Context, than *version[T]) (*version[T], error) {
	if v := d.current.Load(); v != nil && v != than {
		return v, nil
	}
	// The flight that was joined may be one that had no need to refetch.
	for range 2 {
		v, err := d.flights.do(ctx, "", d.attempt(d.current.Load(), true))
		if err != nil || v != than {
			return v, err
		}
	}
	return than, nil
}

func (d *remote[T]) due(now instant) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return now.reached(d.nextTry)
}

// attempt returns the flight that fetches the document, unless that was done
// since seen was the current one or has to wait.
func (d *remote[T]) attempt(seen *version[T], force bool) func(context.Context) (*version[T], error) {
	return func(ctx context.Context) (*version[T], error) {
		now := d.now()
		v := d.current.Load()
		usable := v != nil && !now.reached(v.dead)
		if usable && v != seen {
			return v, nil
		}
		d.mu.Lock()
		wait, lastErr := !now.reached(d.nextTry), d.lastErr
		if usable && force && lastErr == nil {
			wait = !now.reached(d.nextForce)
		}
		if !wait && force {
			d.nextForce = now.add(refetchPause)
		}
		d.mu.Unlock()
		if wait {
			return v, lastErr
		}
		if usable {
			return d.renew(ctx, v)
		}
		next, err := d.replace(ctx, v)
		if err != nil {
			d.settle(err, d.now().add(recoverPause))
		}
		return next, err
	}
}

// renew is replace while v is usable. Nobody may be waiting for its end, so
// that what goes wrong, a panic included, is told here.
func (d *remote[T]) renew(ctx context.Context, v *version[T]) (next *version[T], err error) {
	defer func() {
		if p := recover(); p != nil {
			next, err = nil, panicked(p)
		}
		if err != nil {
			d.settle(err, d.now().add(refetchPause))
			d.failed(asError(err, ReasonUnavailable, ""))
		}
	}()
	return d.replace(ctx, v)
}

// replace fetches a new version in place of v, which may be nil.
func (d *remote[T]) replace(ctx context.Context, v *version[T]) (*version[T], error) {
	var old *T
	if v != nil {
		old = v.doc
	}
	asked := d.now()
	doc, maxAge, err := d.fetch(ctx, old)
	if err != nil {
		return nil, err
	}
	if maxAge < 0 {
		maxAge = freshByDefault
	}
	now := d.now()
	fresh := now.add(min(max(maxAge, freshAtLeast), freshAtMost))
	v = &version[T]{doc: doc, asked: asked, fresh: fresh, dead: fresh.add(staleAtMost)}
	d.current.Store(v)
	d.settle(nil, now)
	return v, nil
}

func (d *remote[T]) settle(err error, nextTry instant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lastErr, d.nextTry = err, nextTry
}
