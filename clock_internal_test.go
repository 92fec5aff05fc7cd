package phantom

import (
	"math"
	"testing"
	"time"
)

// The machine's clocks cannot be set in a test, and neither can the two in a
// testing/synctest bubble go apart. These tests make instants by hand; they are
// the only ones inside the package.

const second = int64(time.Second)

func TestClockInstants(t *testing.T) {
	c := newClock()
	first := c.now()
	if first.mono < 0 || time.Since(time.Unix(0, first.wall)).Abs() > time.Minute {
		t.Errorf("now is %+v", first)
	}
	later := c.at(c.base.Add(time.Hour))
	if later.mono != 3600*second || later.wall != c.base.Add(time.Hour).UnixNano() {
		t.Errorf("an hour after the base is %+v", later)
	}
}

func TestClockAdd(t *testing.T) {
	const most, least = math.MaxInt64, math.MinInt64
	for _, test := range []struct {
		from instant
		d    time.Duration
		want instant
	}{
		{instant{5, 3}, 0, instant{5, 3}},
		{instant{5, 3}, 2, instant{7, 5}},
		{instant{5, 3}, -4, instant{1, -1}},
		{instant{most - 1, 3}, 1, instant{most, 4}},
		{instant{most - 1, 3}, 2, instant{most, 5}},
		{instant{most, most}, most, instant{most, most}},
		{instant{1, 0}, most, instant{most, most}},
		{instant{-1, 0}, least, instant{least, least}},
		{instant{least, 0}, -1, instant{least, -1}},
		{instant{least + 1, 0}, -1, instant{least, -1}},
		{instant{least, least}, most, instant{-1, -1}},
	} {
		if got := test.from.add(test.d); got != test.want {
			t.Errorf("%v + %d = %v, want %v", test.from, test.d, got, test.want)
		}
	}
}

func TestClockReachedAndUntil(t *testing.T) {
	deadline := instant{100, 50}
	for _, test := range []struct {
		now     instant
		reached bool
		until   time.Duration
	}{
		{instant{99, 49}, false, 1},
		{instant{90, 49}, false, 1},
		{instant{99, 40}, false, 1},
		{instant{100, 49}, true, 0},
		{instant{99, 50}, true, 0},
		{instant{100, 50}, true, 0},
		{instant{0, 51}, true, -1},    // the wall clock was set back
		{instant{200, 0}, true, -100}, // the monotonic one stood still
		{instant{-100, 0}, false, 50},
		{instant{math.MaxInt64, math.MaxInt64}, true, 50 - math.MaxInt64},
	} {
		if got := test.now.reached(deadline); got != test.reached {
			t.Errorf("%v reached: %v", test.now, got)
		}
		if got := test.now.until(deadline); got != test.until {
			t.Errorf("%v until: %d, want %d", test.now, got, test.until)
		}
	}
	never := instant{}.add(math.MaxInt64)
	if c := newClock(); c.now().reached(never) || c.now().until(never) <= 0 {
		t.Error("the end of time was reached")
	}
}

// TestC216C218ClocksApart: an entry ends when either clock says so, however far
// they have gone apart, and is never revived by a clock that goes back: what is
// found too old is gone.
func TestC216C218ClocksApart(t *testing.T) {
	const hour = 3600 * second
	start := instant{wall: 1_700_000_000 * second, mono: 1000 * second}
	at := func(wall, mono int64) instant { return instant{start.wall + wall, start.mono + mono} }
	type look struct {
		now  instant
		want string
	}
	for name, test := range map[string]struct {
		stale time.Duration
		looks []look
	}{
		"nothing happens": {0, []look{
			{at(1*second, 1*second), "token"}, {at(52*second, 52*second), "token"},
			{at(60*second, 60*second), ""},
		}},
		"C216 wall clock jumps ahead":                  {0, []look{{at(hour, 1*second), ""}, {at(1*second, 2*second), ""}}},
		"C216 wall clock jumps ahead, within its life": {0, []look{{at(50*second, 1*second), "token"}, {at(60*second, 11*second), ""}}},
		"C216 wall clock is set back": {0, []look{
			{at(-hour, 1*second), "token"}, {at(-hour+52*second, 52*second), "token"}, {at(-hour+60*second, 60*second), ""},
		}},
		"C216 wall clock is set back to the beginning": {0, []look{{instant{0, start.mono + second}, "token"}, {instant{0, start.mono + 60*second}, ""}}},
		"C216 there and back":                          {0, []look{{at(-hour, second), "token"}, {at(2*second, 2*second), "token"}, {at(hour, 3*second), ""}}},
		"C218 suspended for an hour":                   {0, []look{{at(hour, 0), ""}}},
		"C218 suspended for half of its life":          {0, []look{{at(30*second, 0), "token"}, {at(60*second, 30*second), ""}}},
		"C218 suspended and set back":                  {0, []look{{at(0, 0), "token"}, {at(-second, 60*second), ""}}},
		// exp is 300 s ahead.
		"stale, nothing happens": {hourOf(1), []look{
			{at(52*second, 52*second), "token"}, {at(60*second, 60*second), "stale"},
			{at(299*second, 299*second), "stale"}, {at(300*second, 300*second), ""},
		}},
		"stale, C216 jumps ahead, beyond exp":  {hourOf(1), []look{{at(300*second, 1*second), ""}}},
		"stale, C218 suspended beyond exp":     {hourOf(1), []look{{at(hour, 0), ""}}},
		"stale, C218 suspended until its life": {hourOf(1), []look{{at(100*second, 0), "stale"}}},
		"stale, its limit, wall":               {100 * time.Second, []look{{at(152*second, 0), "stale"}, {at(160*second, 0), ""}}},
		"stale, its limit, monotonic":          {100 * time.Second, []look{{at(-hour, 152*second), "stale"}, {at(-hour, 160*second), ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(10, cacheTimes{maxTTL: time.Minute, negativeTTL: time.Minute, stale: test.stale})
			d := c.digest("token")
			tok := &Token{expiry: start.wall/second + 300}
			c.add(d, c.generation(d), tok, start, &Introspection{MaxAge: -1})
			for _, look := range test.looks {
				found := c.get(d, look.now)
				got := ""
				switch {
				case found.stale:
					got = "stale"
				case found.token == tok:
					got = "token"
				}
				if got != look.want || found.inactive {
					t.Errorf("at %+d s, %+d s: %q, want %q", (look.now.wall-start.wall)/second, (look.now.mono-start.mono)/second, got, look.want)
				}
			}
		})
	}
	// The word "inactive" ends in the same way.
	for name, test := range map[string]struct {
		now  instant
		want bool
	}{
		"fresh":                 {at(4*second, 4*second), true},
		"over":                  {at(5*second, 5*second), false},
		"C216 jumps ahead":      {at(hour, 1*second), false},
		"C216 is set back":      {at(-hour, 4*second), true},
		"C216 is set back, old": {at(-hour, 5*second), false},
		"C218 suspended":        {at(hour, 0), false},
	} {
		t.Run("inactive: "+name, func(t *testing.T) {
			c := newCache(10, cacheTimes{maxTTL: time.Minute, negativeTTL: 5 * time.Second})
			d := c.digest("token")
			c.addInactive(d, c.generation(d), start)
			if found := c.get(d, test.now); found.inactive != test.want || found.token != nil {
				t.Errorf("%+v", found)
			}
		})
	}
}

func hourOf(n int) time.Duration { return time.Duration(n) * time.Hour }

// TestC216AskedWhileTheClockJumps: what counts is the moment of asking, and
// each bound is taken on the clock that it belongs to.
func TestC216AskedWhileTheClockJumps(t *testing.T) {
	start := instant{wall: 1_700_000_000 * second, mono: 1000 * second}
	for name, test := range map[string]struct {
		expiry int64 // seconds after the start, on the wall clock
		now    instant
		served bool
	}{
		"exp reached on the wall clock alone":       {20, start.add(0).plusWall(20 * second), false},
		"not quite":                                 {20, start.add(0).plusWall(17 * second), true},
		"exp reached by the monotonic clock alone":  {20, instant{start.wall, start.mono + 20*second}, false},
		"expired when it was asked":                 {0, start, false},
		"expired long before it was asked":          {-1 << 40, start, false},
		"a life far beyond what a Duration can say": {1 << 36, start, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(10, cacheTimes{maxTTL: time.Minute})
			d := c.digest("token")
			c.add(d, c.generation(d), &Token{expiry: start.wall/second + test.expiry}, start, &Introspection{MaxAge: -1})
			if found := c.get(d, test.now); (found.token != nil) != test.served {
				t.Errorf("%+v", found)
			}
		})
	}
}

func (i instant) plusWall(d int64) instant { return instant{i.wall + d, i.mono} }

// TestCacheRefreshDueOnce: the first hit behind the share of its life, by the
// monotonic clock, is told to refresh the entry, and no other.
func TestCacheRefreshDueOnce(t *testing.T) {
	start := instant{wall: 1_700_000_000 * second, mono: 1000 * second}
	c := newCache(10, cacheTimes{maxTTL: time.Minute, refreshAhead: 0.5})
	d := c.digest("token")
	add := func() {
		c.add(d, c.generation(d), &Token{expiry: start.wall/second + 300}, start, &Introspection{MaxAge: -1})
	}
	due := func(mono int64) bool {
		found := c.get(d, instant{start.wall + mono, start.mono + mono})
		if found.token == nil {
			t.Errorf("after %d s: %+v", mono/second, found)
		}
		return found.refresh
	}
	for range 3 {
		add()
		if due(26 * second) { // half of 52.5 s at the earliest
			t.Error("due too early")
		}
		if !due(30 * second) {
			t.Error("not due")
		}
		for range 10 {
			if due(31 * second) {
				t.Error("due again")
			}
		}
	}
}
