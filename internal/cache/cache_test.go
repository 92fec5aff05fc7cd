package cache_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom/internal/cache"
	"github.com/phantom-token/phantom/internal/clock"
)

// The clocks of a testing/synctest bubble cannot go apart: these tests make
// instants by hand.

const second = int64(time.Second)

type value struct {
	key                      cache.Key
	retired, refreshed, left atomic.Bool
}

var key = cache.Key{1}

func valid() bool { return true }

func put(c *cache.Cache[*value], v *value, l cache.Life) {
	e := cache.NewEntry(key, v)
	c.Put(&e, l, valid)
}

func newCache(config cache.Config[*value]) *cache.Cache[*value] {
	config.Size, config.Retired = 10, func(v *value) bool { return v.retired.Load() }
	return cache.New(config)
}

// life is that of a value which may be kept for a minute and expires so many
// seconds after it was asked for.
func life(asked clock.Instant, expiry int64) cache.Life {
	return cache.NewLife(asked, time.Unix(asked.Wall/second+expiry, 0), time.Minute)
}

// An entry ends when either clock says so, however far apart they are. A clock
// that goes back never revives one: what was found too old is gone.
//
// Catalogue: C216, C218.
func TestEntriesEndOnEitherClock(t *testing.T) {
	const hour = 3600 * second
	start := clock.Instant{Wall: 1_700_000_000 * second, Mono: 1000 * second}
	at := func(wall, mono int64) clock.Instant {
		return clock.Instant{Wall: start.Wall + wall, Mono: start.Mono + mono}
	}
	type look struct {
		now  clock.Instant
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
		"wall clock jumps ahead":                  {0, []look{{at(hour, 1*second), ""}, {at(1*second, 2*second), ""}}},
		"wall clock jumps ahead, within its life": {0, []look{{at(50*second, 1*second), "token"}, {at(60*second, 11*second), ""}}},
		"wall clock is set back": {0, []look{
			{at(-hour, 1*second), "token"}, {at(-hour+52*second, 52*second), "token"}, {at(-hour+60*second, 60*second), ""},
		}},
		"wall clock is set back to the beginning": {0, []look{{clock.Instant{Mono: start.Mono + second}, "token"}, {clock.Instant{Mono: start.Mono + 60*second}, ""}}},
		"there and back":                 {0, []look{{at(-hour, second), "token"}, {at(2*second, 2*second), "token"}, {at(hour, 3*second), ""}}},
		"suspended for an hour":          {0, []look{{at(hour, 0), ""}}},
		"suspended for half of its life": {0, []look{{at(30*second, 0), "token"}, {at(60*second, 30*second), ""}}},
		"suspended and set back":         {0, []look{{at(0, 0), "token"}, {at(-second, 60*second), ""}}},
		// exp is 300 s ahead.
		"stale, nothing happens": {hourOf(1), []look{
			{at(52*second, 52*second), "token"}, {at(60*second, 60*second), "stale"},
			{at(299*second, 299*second), "stale"}, {at(300*second, 300*second), ""},
		}},
		"stale, jumps ahead, beyond exp":  {hourOf(1), []look{{at(300*second, 1*second), ""}}},
		"stale, suspended beyond exp":     {hourOf(1), []look{{at(hour, 0), ""}}},
		"stale, suspended until its life": {hourOf(1), []look{{at(100*second, 0), "stale"}}},
		"stale, its limit, wall":          {100 * time.Second, []look{{at(152*second, 0), "stale"}, {at(160*second, 0), ""}}},
		"stale, its limit, monotonic":     {100 * time.Second, []look{{at(-hour, 152*second), "stale"}, {at(-hour, 160*second), ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(cache.Config[*value]{Stale: test.stale})
			tok := &value{}
			put(c, tok, life(start, 300))
			for _, look := range test.looks {
				found := c.Get(&key, look.now)
				got := map[cache.State]string{cache.Fresh: "token", cache.Stale: "stale", cache.No: "no"}[found.State]
				if got != look.want || (found.Value == tok) != (got != "") {
					t.Errorf("at %+d s, %+d s: %q, want %q", (look.now.Wall-start.Wall)/second, (look.now.Mono-start.Mono)/second, got, look.want)
				}
			}
		})
	}
	// The word "inactive" ends in the same way.
	for name, test := range map[string]struct {
		now  clock.Instant
		want bool
	}{
		"fresh":            {at(4*second, 4*second), true},
		"over":             {at(5*second, 5*second), false},
		"jumps ahead":      {at(hour, 1*second), false},
		"is set back":      {at(-hour, 4*second), true},
		"is set back, old": {at(-hour, 5*second), false},
		"suspended":        {at(hour, 0), false},
	} {
		t.Run("inactive: "+name, func(t *testing.T) {
			c := newCache(cache.Config[*value]{})
			c.PutNo(&key, nil, start.Add(5*time.Second), valid)
			if found := c.Get(&key, test.now); (found.State == cache.No) != test.want || found.Value != nil {
				t.Errorf("%+v", found)
			}
		})
	}
}

func hourOf(n int) time.Duration { return time.Duration(n) * time.Hour }

// A life begins when the question is asked, on both clocks.
//
// Catalogue: C216.
func TestALifeIsTakenOnBothClocks(t *testing.T) {
	start := clock.Instant{Wall: 1_700_000_000 * second, Mono: 1000 * second}
	for name, test := range map[string]struct {
		expiry int64 // seconds after the start, on the wall clock
		now    clock.Instant
		served bool
	}{
		"exp reached on the wall clock alone":       {20, plusWall(start, 20*second), false},
		"not quite":                                 {20, plusWall(start, 17*second), true},
		"exp reached by the monotonic clock alone":  {20, clock.Instant{Wall: start.Wall, Mono: start.Mono + 20*second}, false},
		"expired when it was asked":                 {0, start, false},
		"expired long before it was asked":          {-1 << 40, start, false},
		"a life far beyond what a Duration can say": {1 << 36, start, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(cache.Config[*value]{})
			put(c, &value{}, life(start, test.expiry))
			if found := c.Get(&key, test.now); (found.Value != nil) != test.served {
				t.Errorf("%+v", found)
			}
		})
	}
}

func plusWall(i clock.Instant, d int64) clock.Instant {
	return clock.Instant{Wall: i.Wall + d, Mono: i.Mono}
}

// One hit behind the share of its life is told to refresh the entry: the first
// one, by the monotonic clock.
func TestOneHitRefreshesAnEntry(t *testing.T) {
	start := clock.Instant{Wall: 1_700_000_000 * second, Mono: 1000 * second}
	c := newCache(cache.Config[*value]{RefreshAhead: 0.5})
	add := func() { put(c, &value{}, life(start, 300)) }
	due := func(mono int64) bool {
		found := c.Get(&key, clock.Instant{Wall: start.Wall + mono, Mono: start.Mono + mono})
		if found.Value == nil {
			t.Errorf("after %d s: %+v", mono/second, found)
		}
		return found.Refresh
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
