package clock_test

import (
	"math"
	"testing"
	"time"

	"github.com/phantom-token/phantom/internal/clock"
)

// The machine's clocks cannot be set in a test, and the two in a
// testing/synctest bubble cannot go apart: these tests make instants by hand.

const second = int64(time.Second)

func TestInstantsOfATime(t *testing.T) {
	c := clock.New()
	first := c.Now()
	if first.Mono < 0 || time.Since(time.Unix(0, first.Wall)).Abs() > time.Minute {
		t.Errorf("now is %+v", first)
	}
	now := time.Now()
	from, to := c.At(now), c.At(now.Add(time.Hour))
	if to.Mono-from.Mono != 3600*second || to.Wall != now.Add(time.Hour).UnixNano() {
		t.Errorf("an hour later than %+v is %+v", from, to)
	}
}

func TestAddDoesNotWrapAround(t *testing.T) {
	const most, least = math.MaxInt64, math.MinInt64
	for _, test := range []struct {
		from clock.Instant
		d    time.Duration
		want clock.Instant
	}{
		{clock.Instant{5, 3}, 0, clock.Instant{5, 3}},
		{clock.Instant{5, 3}, 2, clock.Instant{7, 5}},
		{clock.Instant{5, 3}, -4, clock.Instant{1, -1}},
		{clock.Instant{most - 1, 3}, 1, clock.Instant{most, 4}},
		{clock.Instant{most - 1, 3}, 2, clock.Instant{most, 5}},
		{clock.Instant{most, most}, most, clock.Instant{most, most}},
		{clock.Instant{1, 0}, most, clock.Instant{most, most}},
		{clock.Instant{-1, 0}, least, clock.Instant{least, least}},
		{clock.Instant{least, 0}, -1, clock.Instant{least, -1}},
		{clock.Instant{least + 1, 0}, -1, clock.Instant{least, -1}},
		{clock.Instant{least, least}, most, clock.Instant{-1, -1}},
	} {
		if got := test.from.Add(test.d); got != test.want {
			t.Errorf("%v + %d = %v, want %v", test.from, test.d, got, test.want)
		}
	}
}

func TestEitherClockReachesADeadline(t *testing.T) {
	deadline := clock.Instant{100, 50}
	for _, test := range []struct {
		now     clock.Instant
		reached bool
		until   time.Duration
	}{
		{clock.Instant{99, 49}, false, 1},
		{clock.Instant{90, 49}, false, 1},
		{clock.Instant{99, 40}, false, 1},
		{clock.Instant{100, 49}, true, 0},
		{clock.Instant{99, 50}, true, 0},
		{clock.Instant{100, 50}, true, 0},
		{clock.Instant{0, 51}, true, -1},    // the wall clock was set back
		{clock.Instant{200, 0}, true, -100}, // the monotonic one stood still
		{clock.Instant{-100, 0}, false, 50},
		{clock.Instant{math.MaxInt64, math.MaxInt64}, true, 50 - math.MaxInt64},
	} {
		if got := test.now.Reached(deadline); got != test.reached {
			t.Errorf("%v reached: %v", test.now, got)
		}
		if got := test.now.Until(deadline); got != test.until {
			t.Errorf("%v until: %d, want %d", test.now, got, test.until)
		}
	}
	never := clock.Instant{}.Add(math.MaxInt64)
	if c := clock.New(); c.Now().Reached(never) || c.Now().Until(never) <= 0 {
		t.Error("the end of time was reached")
	}
}
