package gate

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
)

// waitersPerPlace is how many lookups may wait for each one under way.
const waitersPerPlace = 32

// A queue gives places to lookups. Those with priority wait in a queue of their
// own, which gets three of four places that become free: a crowd of others does
// not keep them waiting.
type queue struct {
	places   chan struct{} // holds one element for each place that is taken
	priority chan struct{} // hands a place over to a lookup with priority
	waiting  struct{ priority, others atomic.Int64 }
	released atomic.Uint64 // places that became free so far
	latency  atomic.Int64  // the time that answers take, in ns, smoothed
}

func newQueue(places int) *queue {
	return &queue{places: make(chan struct{}, places), priority: make(chan struct{})}
}

// acquire takes a place, or waits for one.
func (q *queue) acquire(ctx context.Context, priority bool) (waited bool, err error) {
	select {
	case q.places <- struct{}{}:
		return false, nil
	default:
	}
	waiting, handed := &q.waiting.others, (chan struct{})(nil)
	if priority {
		waiting, handed = &q.waiting.priority, q.priority
	}
	defer waiting.Add(-1)
	if waiting.Add(1) > int64(waitersPerPlace*cap(q.places)) {
		return false, failure.New(failure.Unavailable, "too many lookups waiting")
	}
	select {
	case q.places <- struct{}{}:
		return true, nil
	case <-handed:
		return true, nil
	case <-ctx.Done():
		return false, failure.Because(failure.Unavailable, "no place in time", ctx.Err())
	}
}

// release gives the place to the next lookup.
func (q *queue) release() {
	if q.released.Add(1)%4 != 0 {
		select {
		case q.priority <- struct{}{}:
			return
		default:
		}
	}
	<-q.places
}

// inTime reports whether a lookup that had to wait can still be answered. One
// without priority must have twice the usual time left: a lookup that is sent
// in vain keeps others from a place.
func (q *queue) inTime(ctx context.Context, priority bool) bool {
	needed := time.Duration(q.latency.Load())
	if !priority {
		needed *= 2
	}
	deadline, _ := ctx.Deadline() // which a flight always has
	return ctx.Err() == nil && time.Until(deadline) >= needed
}

// recordLatency takes an eighth of each answer's time into account, so that one
// slow answer does not turn all waiters away.
func (q *queue) recordLatency(d time.Duration) {
	before, latest := q.latency.Load(), int64(d)
	if before != 0 {
		latest = before + (latest-before)/8
	}
	q.latency.Store(latest)
}
