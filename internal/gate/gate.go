// Package gate stands before the authorization server. It decides which lookup
// may go to the server, and when.
//
// # Two classes
//
// Anybody can make up tokens, and a server may fail on those that it cannot
// parse. So there are two classes of lookups: those of known tokens, which were
// verified here before, and those of new ones. What happens to new tokens never
// keeps a known one out.
//
// # Places
//
// A bounded number of lookups is under way at once. The others wait, each class
// in a bounded queue of its own. A place that becomes free goes to a known
// token, unless new ones wait and hold less than a quarter of the places.
// Within its class it goes to the first to come who has at least twice the time
// left that recent answers took; if none has, to the first to come.
//
// A lookup leaves the queue when it has no more time left than the shortest of
// the recent answers to its class took, at once if that is so when it comes. If
// answers turn out that slow only while it waits, it waits until its time is
// over; meanwhile an eighth of the places may be used to find out whether the
// server has become faster.
//
// # Lanes
//
// Each class has a lane. Three things can happen to a lookup that was sent:
//
//	answer   the server answered about the token, be it by a refusal
//	fault    the server answered that it failed, by a status such as 500, which
//	         may be the token's doing
//	silence  all else: no connection, no answer in time, 429, 502, 503, 504
//
// A lookup that ran out of time, but had less than half of it left when it was
// sent, tells nothing. One that ends in a panic is a fault. Faults and silences
// are outages.
//
// A lane is clear, narrow or closed. A closed lane lets one lookup pass each
// second, as a probe. A narrow one lets 95 pass a second.
//
//	known tokens  closed  after outages in a row of 10 different known tokens
//	new tokens    narrow  after 10 outages of new tokens since the last answer
//	                      to either class
//	              closed  after as many, if there was no answer in 10 s, or if
//	                      the narrow lane keeps out two of three;
//	                      after 10 silences in a row of new tokens, unless a
//	                      known one was answered in the last 5 s
//
// A server may fail on one known token alone, each time. So a known token that
// has met an outage has a lane of its own as well. It closes after 10 outages
// of that token, and is gone after an answer to any known token, or when the
// lane of all known tokens closes.
//
// An answer clears the lane of its class, and one to a known token that of new
// ones too. But it clears a closed lane only if its lookup began after the lane
// closed: an older one is no news.
//
// # Waiting
//
// Only 429 and 503 with Retry-After ask others to wait too, for 30 s at most:
// new tokens, and known ones as well if the server asked it of a known one.
// Meanwhile about one lookup a second passes, and known tokens may half a
// second before new ones. Its answer ends the wait, and so does any to a known
// token: the server has more to give than it said.
package gate

import (
	"context"
	"sync"
	"time"

	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
)

// A Class is a kind of token.
type Class uint8

// The classes.
const (
	NewToken   Class = iota // anything that somebody sent
	KnownToken              // verified here before
)

// A Gate is the way to one authorization server. It is safe for concurrent use.
type Gate struct {
	// Opened, if it is not nil, is told when the lane of a class was closed and
	// none is any more, for how long that lasted. It is set before the first Do.
	Opened func(lasted time.Duration)

	clock   clock.Clock
	timeout time.Duration // of a lookup

	mu    sync.Mutex
	queue queue
	lanes lanes
}

// New returns a Gate that lets so many lookups pass at once, each of which
// takes the timeout at most.
func New(places int, timeout time.Duration) *Gate {
	return &Gate{
		clock:   clock.New(),
		timeout: timeout,
		queue:   queue{places: places, free: places},
		lanes:   lanes{timeout: timeout},
	}
}

// Do runs one lookup of the token, whose context must have a deadline. The
// error is the lookup's or that of a refusal, always a [*failure.Error].
func (g *Gate) Do(ctx context.Context, class Class, token Token, lookup func(context.Context) error) error {
	if err := g.check(class, token); err != nil {
		return err
	}
	scout, err := g.enter(ctx, class)
	if err != nil {
		return err
	}
	attempt, err := g.begin(ctx, class, token, scout)
	if err != nil {
		return err
	}
	var f *failure.Error
	outcome := fault // of a hook that panics or ends its goroutine
	defer func() { g.end(attempt, outcome, f) }()
	if err := lookup(ctx); err != nil {
		f = failure.From(err, failure.Unavailable, "")
	}
	outcome = attempt.outcome(ctx, f)
	if f == nil {
		return nil
	}
	if outcome == untold && f.Unanswered {
		own := *f
		own.Unanswered = false // its time went in our own queue
		f = &own
	}
	return f
}

// check refuses at once what would be refused after a wait.
func (g *Gate) check(class Class, token Token) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Now()
	if f := g.lanes.refusal(class, token, now); f != nil {
		return f
	}
	if f := g.lanes.squeeze(class, now); f != nil {
		return f
	}
	return nil
}

// Closed says why a lookup of the token that came now would be refused; nil if
// it would not.
func (g *Gate) Closed(class Class, token Token) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.lanes.refusal(class, token, g.clock.Now()); f != nil {
		return f
	}
	return nil
}

// enter takes a place, or waits for one until its time is too short for any
// recent answer.
func (g *Gate) enter(ctx context.Context, class Class) (scout bool, err error) {
	g.mu.Lock()
	w, err := g.queue.enter(ctx, class)
	g.mu.Unlock()
	if w == nil {
		return false, err
	}
	for left := g.untilTooLate(w); left > 0; left = g.untilTooLate(w) {
		select {
		case err := <-w.turn:
			return w.scout, err
		case <-time.After(left): // unless the server has become faster
		case <-ctx.Done():
			return false, g.giveUp(w)
		}
	}
	return false, g.giveUp(w)
}

func (g *Gate) untilTooLate(w *waiter) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Until(w.deadline) - g.queue.classes[w.class].shortest()
}

// giveUp takes a waiter out of the queue. If its turn has come at the same
// moment, it gives its place back.
func (g *Gate) giveUp(w *waiter) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.queue.remove(w) && <-w.turn == nil {
		g.queue.leave(w.class, w.scout)
	}
	return failure.Because(failure.Unavailable, "no place in time", context.DeadlineExceeded)
}

// An attempt is a lookup that was sent.
type attempt struct {
	class Class
	token Token
	order uint64 // among all attempts
	began clock.Instant
	short bool // less than half of its time was left
	scout bool
}

// begin sends a lookup that has a place. The wait may have been long enough for
// the server to fail.
func (g *Gate) begin(ctx context.Context, class Class, token Token, scout bool) (attempt, error) {
	deadline, _ := ctx.Deadline()
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Now()
	if f := g.lanes.refusal(class, token, now); f != nil {
		g.queue.leave(class, scout)
		return attempt{}, f
	}
	return attempt{
		class: class,
		token: token,
		order: g.lanes.begin(class, token, now),
		began: now,
		short: time.Until(deadline) < g.timeout/2,
		scout: scout,
	}, nil
}

// outcome says what the end of an attempt tells of the server.
func (a *attempt) outcome(ctx context.Context, f *failure.Error) outcome {
	switch {
	case f == nil || !f.IsOutage():
		return answer
	case a.short && ctx.Err() != nil:
		return untold
	case f.Faulted:
		return fault
	}
	return silence
}

// end takes note of the outcome and gives the place away.
func (g *Gate) end(a attempt, o outcome, f *failure.Error) {
	if lasted := g.take(a, o, f); lasted > 0 && g.Opened != nil {
		g.Opened(lasted)
	}
}

// take does what end says, and returns for how long a lane was closed, if none
// is any more.
func (g *Gate) take(a attempt, o outcome, f *failure.Error) (lasted time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Now()
	since := g.lanes.closedSince()
	g.lanes.record(a, o, f, now)
	if o == answer {
		g.queue.answered(a.class, time.Duration(now.Mono-a.began.Mono))
	}
	g.queue.leave(a.class, a.scout)
	if since == nil || g.lanes.closedSince() != nil {
		return 0
	}
	return max(time.Duration(now.Mono-since.Mono), 1) // on a coarse clock, too
}

// Stats returns how many places are held, how many lookups of each class wait
// for one, and whether a lane is closed.
func (g *Gate) Stats() (held, waitNew, waitKnown int, isClosed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	held = g.queue.places - g.queue.free
	waitNew, waitKnown = g.queue.classes[NewToken].waiting.Len(), g.queue.classes[KnownToken].waiting.Len()
	return held, waitNew, waitKnown, g.lanes.lane[NewToken].closed || g.lanes.lane[KnownToken].closed
}
