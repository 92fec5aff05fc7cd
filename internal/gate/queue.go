package gate

import (
	"container/list"
	"context"
	"slices"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
)

// waitersPerPlace is how many lookups of each class may wait for each place.
const waitersPerPlace = 32

// recentAnswers is how many answers tell how long one takes.
const recentAnswers = 16

// A queue gives places to lookups. The Gate's lock guards it.
type queue struct {
	places, free int
	classes      [2]classQueue
	turns        int // taken by waiters so far
}

// A classQueue is what the queue knows of one class.
type classQueue struct {
	held    int       // places
	scouts  int       // of these: see next
	waiting list.List // of *waiter: the first to come, and to leave, in front
	took    [recentAnswers]time.Duration
	answers int // so far
}

type waiter struct {
	class    Class
	deadline time.Time
	scout    bool       // set before its turn
	turn     chan error // nil: it has a place
	element  *list.Element
}

// enter takes a place, or returns a waiter to wait with.
func (q *queue) enter(ctx context.Context, class Class) (*waiter, error) {
	c := &q.classes[class]
	if q.free > 0 { // who waits then has too little time
		q.free--
		c.held++
		return nil, nil
	}
	if c.waiting.Len() >= waitersPerPlace*q.places {
		return nil, failure.New(failure.Unavailable, "too many lookups waiting")
	}
	deadline, _ := ctx.Deadline()
	w := &waiter{class: class, deadline: deadline, turn: make(chan error, 1)}
	w.element = c.waiting.PushBack(w)
	return w, nil
}

// remove takes a waiter out, unless its turn has come.
func (q *queue) remove(w *waiter) bool {
	if w.element == nil {
		return false
	}
	q.classes[w.class].waiting.Remove(w.element)
	w.element = nil
	return true
}

// leave gives a place back. It goes to the next waiter.
func (q *queue) leave(class Class, scout bool) {
	c := &q.classes[class]
	c.held--
	if scout {
		c.scouts--
	}
	q.free++
	for q.free > 0 {
		w := q.next()
		if w == nil {
			return
		}
		q.free--
		q.classes[w.class].held++
		q.turns++
		w.turn <- nil
	}
}

// next takes the next waiter out.
func (q *queue) next() *waiter {
	first, second := KnownToken, NewToken
	if q.newComesNext() {
		first, second = NewToken, KnownToken
	}
	if w := q.nextOf(first); w != nil {
		return w
	}
	return q.nextOf(second)
}

// nextOf takes the next waiter of a class out: the first to come that has time
// enough. In an overload those who have waited for long would otherwise be
// served too late, all of them. Who is passed over and cannot be answered any
// more is refused.
//
// If the time of all is too short, the server may have become faster since it
// gave the answers by which that was judged. A few go as scouts; the others
// wait for how they fare.
func (q *queue) nextOf(class Class) *waiter {
	c := &q.classes[class]
	w := c.first(c.enough())
	if w == nil {
		w = c.first(c.shortest() + 1)
	} else {
		q.refuseBefore(w, c.shortest())
	}
	if last := c.waiting.Back(); w == nil && last != nil && c.scouts < max(1, q.places/8) {
		w, _ = last.Value.(*waiter)
		w.scout = true
		c.scouts++
	}
	if w != nil {
		q.remove(w)
	}
	return w
}

// first returns the first waiter with as much time left.
func (c *classQueue) first(left time.Duration) *waiter {
	now := time.Now()
	for e := c.waiting.Front(); e != nil; e = e.Next() {
		if w, _ := e.Value.(*waiter); w.deadline.Sub(now) >= left {
			return w
		}
	}
	return nil
}

// refuseBefore refuses the waiters in front of w that have no more time left.
func (q *queue) refuseBefore(w *waiter, left time.Duration) {
	now := time.Now()
	for e := w.element.Prev(); e != nil; {
		before, _ := e.Value.(*waiter)
		e = e.Prev()
		if before.deadline.Sub(now) <= left {
			q.remove(before)
			before.turn <- failure.New(failure.Unavailable, "no place in time")
		}
	}
}

// enough is the time that an answer has, with a margin: twice the usual.
func (c *classQueue) enough() time.Duration {
	recent := c.took[:min(c.answers, recentAnswers)]
	if len(recent) == 0 {
		return 0
	}
	sum := time.Duration(0)
	for _, took := range recent {
		sum += took
	}
	return 2 * sum / time.Duration(len(recent))
}

func (q *queue) newComesNext() bool {
	fresh := &q.classes[NewToken]
	switch {
	case fresh.waiting.Len() == 0:
		return false
	case q.classes[KnownToken].waiting.Len() == 0:
		return true
	case q.places < 4: // there is no quarter: one turn of four
		return q.turns%4 == 3
	}
	return fresh.held < q.places/4
}

// shortest is the time of the shortest recent answer; 0 if there is none.
func (c *classQueue) shortest() time.Duration {
	if c.answers == 0 {
		return 0
	}
	return slices.Min(c.took[:min(c.answers, recentAnswers)])
}

// answered takes note of how long an answer took.
func (q *queue) answered(class Class, took time.Duration) {
	c := &q.classes[class]
	c.took[c.answers%recentAnswers] = took
	c.answers++
}
