package phantom

import (
	"math"
	"time"
)

// A clock reads both of the machine's clocks at once. Neither suffices alone:
// the wall clock can be set back, the monotonic one stands still while the
// machine is suspended. What is remembered therefore ends when either says so.
type clock struct{ base time.Time }

func newClock() clock { return clock{time.Now()} }

// An instant is a point in time on both clocks, in nanoseconds.
type instant struct{ wall, mono int64 }

func (c clock) now() instant { return c.at(time.Now()) }

func (c clock) at(t time.Time) instant {
	return instant{wall: t.UnixNano(), mono: int64(t.Sub(c.base))}
}

// add returns i moved by d, without wrapping around.
func (i instant) add(d time.Duration) instant {
	return instant{addSaturated(i.wall, int64(d)), addSaturated(i.mono, int64(d))}
}

func addSaturated(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}

// reached reports whether either clock has reached the deadline.
func (i instant) reached(deadline instant) bool {
	return i.wall >= deadline.wall || i.mono >= deadline.mono
}

// until returns the time left to the deadline on the clock that gets there
// first.
func (i instant) until(deadline instant) time.Duration {
	return time.Duration(min(addSaturated(deadline.wall, -i.wall), addSaturated(deadline.mono, -i.mono)))
}
