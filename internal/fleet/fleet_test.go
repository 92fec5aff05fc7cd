package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom/internal/cache"
	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/fleet"
)

var secret = bytes.Repeat([]byte("s"), 32)

// What is sealed comes back as it was, for the same token, key, secret and
// parts alone.
func TestRecordsComeBackAsTheyWere(t *testing.T) {
	seal := fleet.NewSeal(secret, "issuer", "endpoint")
	digest := cache.Key{1, 2, 3}
	for _, want := range []fleet.Record{
		{},
		{Asked: 1, Stored: 2, TTL: 3, JWT: "a.b.c", MaxAge: -1},
		{Asked: -1, Stored: time.Hour, Signed: "x.y.z", Members: []byte(`{"a":1}`), Expiry: time.Unix(1<<40, 0)},
		{JWT: strings.Repeat("j", 100_000), Members: []byte("{}"), MaxAge: 1<<63 - 1},
	} {
		value := seal.Close("token", digest, &want)
		got, ok := seal.Open("token", digest, value)
		if !ok || fmt.Sprint(*got) != fmt.Sprint(want) {
			t.Errorf("%v, %v, want %v", got, ok, want)
		}
		if bytes.Equal(value, seal.Close("token", digest, &want)) {
			t.Error("two values are the same")
		}
		for name, opened := range map[string]func() (*fleet.Record, bool){
			"another token":  func() (*fleet.Record, bool) { return seal.Open("token2", digest, value) },
			"another digest": func() (*fleet.Record, bool) { return seal.Open("token", cache.Key{1}, value) },
			"another secret": func() (*fleet.Record, bool) {
				return fleet.NewSeal(bytes.Repeat([]byte("t"), 32), "issuer", "endpoint").Open("token", digest, value)
			},
			"other parts": func() (*fleet.Record, bool) {
				return fleet.NewSeal(secret, "issuerendpoint", "").Open("token", digest, value)
			},
			"parts cut elsewhere": func() (*fleet.Record, bool) {
				return fleet.NewSeal(secret, "issuere", "ndpoint").Open("token", digest, value)
			},
		} {
			if got, ok := opened(); ok {
				t.Errorf("%s: opened %v", name, got)
			}
		}
	}
	if seal.Close("token", digest, &fleet.Record{JWT: strings.Repeat("j", fleet.MaxValue)}) != nil {
		t.Error("a value that is too large")
	}
}

// The age of an answer is what the slower of two clocks cannot deny.
//
// Catalogue: H3, H4, H6.
func TestTheGreaterAgeCounts(t *testing.T) {
	asked := time.Unix(1_000_000, 0)
	const ttl = time.Minute
	for _, tc := range []struct {
		name  string
		clock time.Duration // how far ours is ahead
		since time.Duration // the answer was asked for
		left  time.Duration // as the store has it
		want  time.Duration
		ok    bool
	}{
		{"both agree", 0, 20 * time.Second, 40 * time.Second, 20 * time.Second, true},
		{"our clock is behind", -30 * time.Second, 59 * time.Second, time.Second, 59 * time.Second, true},     // H3
		{"behind, and just stored", -30 * time.Second, time.Second, 59 * time.Second, time.Second, true},      // H3
		{"our clock is ahead", 30 * time.Second, 30 * time.Second, 30 * time.Second, time.Minute, true},       // H4
		{"the store counts nothing", 0, 50 * time.Second, ttl, 50 * time.Second, true},                        // H5
		{"the store says more", 0, 50 * time.Second, 2 * ttl, 50 * time.Second, true},                         // H5
		{"the store says nothing is left", 0, 5 * time.Second, 0, ttl, true},                                  // H5
		{"the store says less than nothing", 0, 5 * time.Second, math.MinInt64, ttl, true},                    // H5
		{"11 s to come, the store lies", -11 * time.Second, 0, 2 * ttl, 0, false},                             // H6
		{"9 s to come, the store lies", -9 * time.Second, 0, 2 * ttl, 0, true},                                // H6
		{"an hour to come", -time.Hour, 20 * time.Second, 40 * time.Second, 20 * time.Second, false},          // H6
		{"a minute to come, by a sane store", -time.Minute, time.Second, 59 * time.Second, time.Second, true}, // H6
	} {
		r := fleet.Record{Asked: asked.UnixNano(), TTL: ttl}
		age, ok := r.Age(tc.left, asked.Add(tc.since).Add(tc.clock))
		if ok != tc.ok || age != tc.want {
			t.Errorf("%s: %v, %v, want %v, %v", tc.name, age, ok, tc.want, tc.ok)
		}
	}
	r := fleet.Record{Asked: asked.UnixNano(), TTL: ttl, Stored: 3 * time.Second}
	if age, _ := r.Age(ttl, asked); age != 3*time.Second {
		t.Errorf("stored late: %v", age)
	}
}

// A note counts once, for ten minutes, and for those who share the secret.
func TestNotesCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seal := fleet.NewSeal(secret, "issuer")
		a, b, late := fleet.NewNotes(seal), fleet.NewNotes(seal), fleet.NewNotes(seal)
		other := fleet.NewNotes(fleet.NewSeal(secret, "issuer2"))
		value := []byte("123456789012345678901234")
		note := a.Write(fleet.OneToken, value)
		time.Sleep(time.Second)
		said, ok := b.Read(note)
		if !ok || said.Kind != fleet.OneToken || said.OfToken() != cache.Key(value) || said.Age != time.Second {
			t.Errorf("%v, %v", said, ok)
		}
		for name, notes := range map[string]*fleet.Notes{"again": b, "one's own": a, "another's": other} {
			if _, ok := notes.Read(note); ok {
				t.Error(name)
			}
		}
		time.Sleep(10*time.Minute - time.Second)
		if _, ok := late.Read(note); !ok {
			t.Error("ten minutes old")
		}
		time.Sleep(time.Nanosecond)
		if _, ok := fleet.NewNotes(seal).Read(note); ok {
			t.Error("older than ten minutes")
		}
	})
}

// A note from far ahead of us is none, or it could be kept and count again when
// its nonce is forgotten.
func TestNotesOfTheFutureAreIgnored(t *testing.T) {
	seal := fleet.NewSeal(secret)
	note := fleet.NewNotes(seal).Write(fleet.AllTokens, nil)
	if _, ok := fleet.NewNotes(seal).Read(note); !ok {
		t.Error("not read at its time")
	}
	synctest.Test(t, func(t *testing.T) { // where it is the year 2000
		if _, ok := fleet.NewNotes(seal).Read(note); ok {
			t.Error("read before its time")
		}
	})
}

// Many notes of other kinds do not make a recorded Purge count again.
func TestManyNotesBringNoRecordedPurgeBack(t *testing.T) {
	seal := fleet.NewSeal(secret)
	writer, reader := fleet.NewNotes(seal), fleet.NewNotes(seal)
	purge := writer.Write(fleet.AllTokens, nil)
	if _, ok := reader.Read(purge); !ok {
		t.Fatal("not read")
	}
	for i := range 200_000 {
		kind := []fleet.Kind{fleet.OneToken, fleet.Session}[i%2]
		if _, ok := reader.Read(writer.Write(kind, nil)); !ok {
			t.Fatal("not read")
		}
	}
	if _, ok := reader.Read(writer.Write(fleet.Sessionless+1, nil)); ok {
		t.Error("a kind that is not known")
	}
	if _, ok := reader.Read(purge); ok {
		t.Error("a recorded Purge counts again")
	}
}

// Cutoffs cover what was asked for before, and nothing else; when there are too
// many, they cover everything from before.
func TestCutoffs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock.New()
		c := fleet.NewCutoffs(now, time.Minute)
		key := func(i int) cache.Key { return cache.Key{byte(i), byte(i >> 8), byte(i >> 16)} }
		time.Sleep(time.Second)
		first := now.Now()
		c.Token(key(1), first)
		if !c.CoverToken(key(1), first) || c.CoverToken(key(1), first.Add(1)) || c.CoverToken(key(2), first) {
			t.Error("one token")
		}
		back := first.Add(time.Second)
		back.Wall -= int64(time.Hour)
		if !c.CoverToken(key(1), back) {
			t.Error("a clock that was set back brings it back")
		}
		c.Token(key(1), first.Add(-time.Second))
		if !c.CoverToken(key(1), first) {
			t.Error("an older cutoff takes the place of a newer one")
		}
		c.All(first.Add(time.Second))
		if !c.CoverToken(key(3), first) || c.CoverToken(key(3), first.Add(2*time.Second)) {
			t.Error("all tokens")
		}
		time.Sleep(10 * time.Second)
		for i := range 1 << 17 {
			c.Token(key(i), now.Now())
		}
		for _, i := range []int{0, 1 << 16, 1<<17 - 1} {
			if !c.CoverToken(key(i), now.Now()) {
				t.Error("one of too many is not covered")
			}
		}
	})
}

// Whatever a Seal made before or makes at the same moment, a Claim stands for
// its kind and its text: replicas compare them, and none but the secret makes it.
func TestAClaimStandsForItsText(t *testing.T) {
	const kinds, texts = 2, 300
	seal := fleet.NewSeal(secret, "issuer")
	claim := func(s *fleet.Seal, kind, i int) fleet.Claim {
		return s.Claim(fleet.Session+fleet.Kind(kind), strings.Repeat("x", i))
	}
	var want [kinds][texts]fleet.Claim
	seen := map[fleet.Claim]bool{}
	for kind := range kinds {
		for i := range texts {
			want[kind][i] = claim(fleet.NewSeal(secret, "issuer"), kind, i)
			seen[want[kind][i]] = true
		}
	}
	if len(seen) != kinds*texts || claim(fleet.NewSeal(secret, "another"), 0, 0) == want[0][0] {
		t.Errorf("%d claims for %d texts, or one for two configurations", len(seen), kinds*texts)
	}
	var all sync.WaitGroup
	for first := range 8 {
		all.Go(func() {
			for i := range texts {
				for kind := range kinds {
					if i := (i + first*40) % texts; claim(seal, kind, i) != want[kind][i] {
						t.Errorf("kind %d, %d characters: another claim", kind, i)
					}
				}
			}
		})
	}
	all.Wait()
}

// Cutoffs of claims are gone when no answer can be so old.
func TestCutoffsOfClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now, seal := clock.New(), fleet.NewSeal(secret)
		c := fleet.NewCutoffs(now, time.Minute)
		sid, sub := seal.Claim(fleet.Session, "1"), seal.Claim(fleet.Subject, "1")
		if c.HaveClaims() || sid == sub {
			t.Error("some claims, or one for two kinds")
		}
		time.Sleep(time.Second)
		c.Claim(sid, now.Now())
		if !c.HaveClaims() || !c.CoverClaim([]fleet.Claim{sub, sid}, now.Now()) ||
			c.CoverClaim([]fleet.Claim{sub}, now.Now()) || c.CoverClaim([]fleet.Claim{sid}, now.Now().Add(1)) {
			t.Error("one claim")
		}
		time.Sleep(time.Minute + 1)
		if c.HaveClaims() {
			t.Error("too old")
		}
	})
}

// With too many cutoffs of claims, each claim counts as forgotten, for copies
// and for lookups under way.
func TestTooManyCutoffsOfClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now, seal := clock.New(), fleet.NewSeal(secret)
		c := fleet.NewCutoffs(now, time.Minute)
		time.Sleep(time.Second)
		asked, number := now.Now(), c.Claims()
		first := []fleet.Claim{seal.Claim(fleet.Session, "first")}
		c.Claim(first[0], asked)
		for i := range 1 << 16 {
			c.Claim(fleet.Claim{0: 1, 1: byte(i), 2: byte(i >> 8), 3: byte(i >> 16)}, now.Now())
		}
		if !c.HaveClaims() || !c.CoverClaim(first, asked) || !c.CoverClaimSince(first, number) {
			t.Error("one of too many is not covered")
		}
		if number = c.Claims(); c.CoverClaimSince(first, number) {
			t.Error("a lookup that began later is covered")
		}
	})
}

// Of strangers the latest are kept, for as long as an answer may serve, and
// nothing else is forgotten for them.
func TestCutoffsOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock.New()
		c := fleet.NewCutoffs(now, time.Minute)
		time.Sleep(time.Second)
		key := func(i int) cache.Key { return cache.Key{byte(i), byte(i >> 8), byte(i >> 16)} }
		const many, kept = 100_000, 10_000
		asked := now.Now()
		for i := range many {
			c.Stranger(key(i), asked)
		}
		for i := many - kept; i < many; i++ {
			if !c.CoverToken(key(i), asked) || c.CoverToken(key(i), asked.Add(1)) {
				t.Fatal("one of the latest")
			}
		}
		if c.CoverToken(key(0), asked) || c.CoverToken(key(many), asked) {
			t.Error("all of them, or another one")
		}
		time.Sleep(time.Minute)
		c.Stranger(key(many), now.Now())
		if !c.CoverToken(key(many-1), asked) {
			t.Error("one that is a minute old")
		}
	})
}

// Calls that panic, end their goroutine, or do not come back are troubles, and
// hold nobody up.
func TestCallsHaveAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := make(chan struct{})
		defer close(never)
		for name, f := range map[string]func(context.Context) (int, error){
			"panics":  func(context.Context) (int, error) { panic("x") },
			"exits":   func(context.Context) (int, error) { runtime.Goexit(); return 1, nil },
			"errs":    func(context.Context) (int, error) { return 1, errors.New("x") },
			"is deaf": func(context.Context) (int, error) { <-never; return 1, nil },
		} {
			var l fleet.Line
			start := time.Now()
			for i := range 10 {
				got, err := fleet.Call(&l, time.Second, false, f)
				if got != 0 || err == nil || (i >= 5) != errors.Is(err, fleet.ErrSkipped) {
					t.Errorf("%s: call %d: %v, %v", name, i+1, got, err)
				}
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("%s: %v", name, took)
			}
			good := func(context.Context) (int, error) { return 1, nil }
			if got, err := fleet.Call(&l, time.Second, true, good); got != 1 || err != nil {
				t.Errorf("%s: an urgent call: %v, %v", name, got, err)
			}
			if got, err := fleet.Call(&l, time.Second, false, good); got != 1 || err != nil {
				t.Errorf("%s: after one that worked: %v, %v", name, got, err)
			}
		}
		var l fleet.Line
		for i := range 300 {
			go func() {
				_, err := fleet.Call(&l, time.Hour, false, func(context.Context) (int, error) { <-never; return 1, nil })
				if i < 0 {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		if _, err := fleet.Call(&l, time.Hour, true, func(context.Context) (int, error) { return 1, nil }); err == nil {
			t.Error("more calls than there may be")
		}
	})
}
