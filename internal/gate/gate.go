// Package gate stands before the authorization server. It bounds how many
// lookups are under way and how many wait for a place (the queue), and while
// the server is down it fails lookups at once instead of sending them (the
// breaker).
package gate

import (
	"context"
	"time"

	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/httpcache"
)

// A Gate is the way to one authorization server. It is safe for concurrent use.
type Gate struct {
	clock   clock.Clock
	queue   *queue
	breaker *breaker
}

// New returns a Gate that lets so many lookups pass at once, each of which
// takes the timeout at most.
func New(places int, timeout time.Duration) *Gate {
	c := clock.New()
	return &Gate{clock: c, queue: newQueue(places), breaker: &breaker{timeout: timeout}}
}

// Do runs one lookup. A lookup with priority goes before the others. The error
// is the lookup's, or a [*failure.Error] that says why it was not run.
func (g *Gate) Do(ctx context.Context, priority bool, lookup func(context.Context) error) error {
	if err := g.breaker.allow(g.clock.Now()); err != nil {
		return err
	}
	waited, err := g.queue.acquire(ctx, priority)
	if err != nil {
		return err
	}
	defer g.queue.release()
	if waited && !g.queue.inTime(ctx, priority) {
		return failure.New(failure.Unavailable, "no place in time")
	}
	// The wait may have been long enough for the server to fail.
	probe, err := g.breaker.begin(g.clock.Now())
	if err != nil {
		return err
	}
	recorded := false
	defer func() { // a hook that panics or ends its goroutine has not answered
		if !recorded {
			g.breaker.recordOutage(probe, 0, g.clock.Now())
		}
	}()
	began := g.clock.Now()
	err = lookup(ctx)
	recorded = true
	now := g.clock.Now()
	if err != nil {
		if f := failure.From(err, failure.Unavailable, ""); f.IsOutage() {
			g.breaker.recordOutage(probe, min(f.Wait, httpcache.MaxRetryAfter), now)
			return err
		}
	}
	g.queue.recordLatency(time.Duration(now.Mono - began.Mono))
	g.breaker.recordAnswer(probe)
	return err
}
