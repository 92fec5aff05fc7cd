package gate_test

import (
	"slices"
	"time"

	"github.com/phantom-token/phantom/internal/gate"
)

// This is what the reference knows of places and of who waits for them.

func (r *reference) free() int { return r.places - len(r.underWay) }

func (r *reference) held(class gate.Class) (places, scouts int) {
	for c := range r.underWay {
		if c.class == class {
			places++
			if c.scout {
				scouts++
			}
		}
	}
	return places, scouts
}

// recent is how long the recent answers to a class took, by so much of the
// history.
func recent(over []*call, class gate.Class) (took []time.Duration) {
	for _, c := range slices.Backward(over) {
		if c.class == class && c.outcome == answer {
			if took = append(took, c.ended.at-c.began.at); len(took) == 16 {
				break
			}
		}
	}
	return took
}

func shortest(over []*call, class gate.Class) time.Duration {
	if took := recent(over, class); len(took) > 0 {
		return slices.Min(took)
	}
	return 0
}

// enough is twice the time that recent answers took.
func (r *reference) enough(class gate.Class) time.Duration {
	took := recent(r.over, class)
	sum := time.Duration(0)
	for _, d := range took {
		sum += d
	}
	return 2 * sum / time.Duration(max(1, len(took)))
}

// next are those to whom a free place may go now. Those in front of the one who
// gets it leave if they have no time for any answer: tooLate.
func (r *reference) next(now time.Duration) (candidates []*call, isContended bool) {
	known, fresh := r.nextOf(gate.KnownToken, now), r.nextOf(gate.NewToken, now)
	switch held, _ := r.held(gate.NewToken); {
	case len(known) == 0 || len(fresh) == 0:
		return append(known, fresh...), false
	case r.places < 4: // there is no quarter of the places, only one of the turns
		return append(known, fresh...), true
	case held < r.places/4:
		return fresh, false
	}
	return known, false
}

func (r *reference) nextOf(class gate.Class, now time.Duration) []*call {
	waiting := r.waiting[class]
	for _, left := range []time.Duration{r.enough(class), shortest(r.over, class) + 1} {
		for _, c := range waiting {
			if c.deadline-now >= left {
				return []*call{c}
			}
		}
	}
	if _, scouts := r.held(class); scouts < max(1, r.places/8) {
		return slices.Clone(waiting) // any of them may find out
	}
	return nil
}

// tooLate are those in front of the one who gets a place that have no time for
// any answer.
func (r *reference) tooLate(c *call, now time.Duration) (out []*call) {
	if c.deadline-now < r.enough(c.class) {
		return nil
	}
	least := shortest(r.over, c.class)
	for _, before := range r.waiting[c.class] {
		if before == c {
			break
		}
		if before.deadline-now <= least {
			out = append(out, before)
		}
	}
	return out
}

func (r *reference) leave(c *call) bool {
	i := slices.Index(r.waiting[c.class], c)
	if i < 0 {
		return false
	}
	r.waiting[c.class] = slices.Delete(r.waiting[c.class], i, i+1)
	return true
}

// begin takes note that an attempt begins.
func (r *reference) begin(c *call, now time.Duration) {
	c.began, c.short = r.moment(now), c.deadline-now < r.timeout/2
	r.begun = append(r.begun, c)
	r.underWay[c] = struct{}{}
}

// mayGiveUp reports whether a waiter may leave now: if its time is over, or not
// longer than the shortest recent answer took. It must have left before, if so
// little time was left that it was not longer than the least that this ever was
// while it waited. Only who had hardly more when it came may stay to the end.
func (r *reference) mayGiveUp(c *call, now time.Duration) bool {
	left := c.deadline - now
	if left < 0 || left > 0 && left > shortest(r.over, c.class) {
		return false
	}
	least, i := shortest(r.over, c.class), len(r.over)
	for i > 0 && r.over[i-1].ended.seq > c.came.seq {
		i--
		least = min(least, shortest(r.over[:i], c.class))
	}
	hardlyMore := c.deadline-c.came.at <= 2*shortest(r.over[:i], c.class)
	return left >= least || hardlyMore
}
