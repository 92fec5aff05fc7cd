// Package clock reads both of the machine's clocks at once. Neither suffices
// alone: the wall clock can be set back, and the monotonic one stands still
// while the machine is suspended. What is remembered therefore ends when the
// first of them says so.
package clock

import (
	"math"
	"time"
)

// A Clock makes instants. Instants of two Clocks cannot be compared.
type Clock struct{ base time.Time }

// New returns a Clock.
func New() Clock { return Clock{time.Now()} }

// An Instant is a point in time on both clocks, in nanoseconds.
type Instant struct{ Wall, Mono int64 }

// Now returns the present.
func (c Clock) Now() Instant { return c.At(time.Now()) }

// At returns the instant of t, which must have a monotonic reading.
func (c Clock) At(t time.Time) Instant {
	return Instant{Wall: t.UnixNano(), Mono: int64(t.Sub(c.base))}
}

// Add returns i moved by d, without wrapping around.
func (i Instant) Add(d time.Duration) Instant {
	return Instant{addSaturated(i.Wall, int64(d)), addSaturated(i.Mono, int64(d))}
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

// Reached reports whether either clock has reached the deadline.
func (i Instant) Reached(deadline Instant) bool {
	return i.Wall >= deadline.Wall || i.Mono >= deadline.Mono
}

// Until returns the time left to the deadline on the clock that gets there
// first.
func (i Instant) Until(deadline Instant) time.Duration {
	return time.Duration(min(addSaturated(deadline.Wall, -i.Wall), addSaturated(deadline.Mono, -i.Mono)))
}
