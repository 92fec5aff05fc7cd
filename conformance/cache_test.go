package conformance_test

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// The server is asked once about a token that is used again and again.
//
// Catalogue: C203.
func TestCacheAsksOncePerActiveToken(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	for range 1000 {
		if got := as.try(m, opaqueToken); got != codeOK {
			t.Fatal(got)
		}
	}
	expect(t, "lookups", as.calls.Load(), 1)
}

// However a token is used, its last OK comes within the maximal lifetime of
// the last lookup that found it active.
//
// Catalogue: C214.
func TestCacheSeesARevocation(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts []phantom.Option
	}{
		{"default", nil},
		{"no refresh ahead", []phantom.Option{phantom.WithRefreshAhead(0)}},
		{"refreshed very early", []phantom.Option{phantom.WithRefreshAhead(0.01)}},
		{"a slow server", []phantom.Option{phantom.WithRefreshAhead(0)}},
		{"stale during outages", []phantom.Option{phantom.WithStaleIfError(time.Hour)}},
		{"not cached", []phantom.Option{phantom.WithMaxTTL(0)}},
		{"cached for a second", []phantom.Option{phantom.WithMaxTTL(time.Second)}},
		{"cached for an instant", []phantom.Option{phantom.WithMaxTTL(time.Millisecond)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				revoked := start.Add(100 * time.Second)
				var lastActive atomic.Int64
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					now := time.Now()
					if now.After(revoked) {
						return inactive, nil
					}
					lastActive.Store(int64(now.Sub(start)))
					if tc.name == "a slow server" {
						time.Sleep(1900 * time.Millisecond)
					}
					return says(1)
				}}
				m := o.middleware(t, tc.opts...)
				var lastOK time.Duration
				for time.Since(start) < 200*time.Second {
					switch got := idOf(m, opaqueToken); {
					case got == "1":
						lastOK = time.Since(start)
					case time.Now().Before(revoked):
						t.Fatalf("%s after %v", got, time.Since(start))
					}
					time.Sleep(100 * time.Millisecond)
				}
				limit := time.Minute
				switch tc.name {
				case "not cached", "cached for an instant":
					limit = time.Nanosecond
				case "cached for a second":
					limit = time.Second
				}
				if unseen := lastOK - time.Duration(lastActive.Load()); unseen >= limit {
					t.Errorf("OK %v after the last lookup that found it active", unseen)
				}
			})
		})
	}
}

// From its exp on, a token is never served from the cache. From exp plus
// leeway on it is never served, although the server still calls it active.
//
// Catalogue: C215.
func TestCacheEndsWithTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		answer := unsigned(map[string]any{"exp": start.Add(20 * time.Second).Unix()})
		o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return answer, nil }}
		m := o.middleware(t, phantom.WithStaleIfError(time.Hour), phantom.WithRefreshAhead(0))
		for time.Since(start) < 40*time.Second {
			calls, age := o.calls.Load(), time.Since(start)
			want := "id-1"
			if age >= 30*time.Second {
				want = code401T
			}
			if got := idOf(m, opaqueToken); got != want {
				t.Fatalf("%s after %v", got, age)
			}
			if age >= 20*time.Second && o.calls.Load() == calls {
				t.Fatalf("not asked after %v", age)
			}
			time.Sleep(250 * time.Millisecond)
		}
	})
}

// lifetime returns how long a token is served without another lookup, counted
// from the lookup that was made before.
func lifetime(t *testing.T, o *oracle, m *phantom.Middleware, step time.Duration) time.Duration {
	start, calls := time.Now(), o.calls.Load()
	for o.calls.Load() == calls {
		if time.Since(start) > 10*time.Minute {
			t.Fatal("cached for ever")
		}
		time.Sleep(step)
		idOf(m, opaqueToken)
	}
	return time.Since(start)
}

// A token is cached up to its earliest bound, less an eighth at most.
func TestCacheLifetimeIsTheEarliestBound(t *testing.T) {
	type answer struct{ exp, answerExp, maxAge time.Duration }
	const none = -time.Second
	for _, test := range []struct {
		name   string
		answer answer
		ttl    time.Duration
		want   time.Duration
	}{
		{"the cap", answer{300, none, none}, 60, 60},
		{"a longer cap", answer{300, none, none}, 200, 200},
		{"exp", answer{30, none, none}, 60, 30},
		{"the answer's exp", answer{300, 20, none}, 60, 20},
		{"the answer's exp, later", answer{30, 200, none}, 60, 30},
		{"max-age", answer{300, none, 5}, 60, 5},
		{"max-age, larger", answer{300, none, 3600}, 60, 60},
		{"max-age 0", answer{300, none, 0}, 60, 0},
		{"exp has passed, in leeway", answer{-5, none, none}, 60, 0},
		{"the answer's exp ends first", answer{300, 5, none}, 60, 5},
		{"all at once", answer{30, 25, 20}, 60, 20},
		{"far beyond what fits", answer{1e9, none, none}, 60, 60},
		{"the end of the calendar", answer{2e11, 2e11, none}, 60, 60},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					a := unsigned(map[string]any{"exp": time.Now().Unix() + int64(test.answer.exp)})
					if test.answer.answerExp != none {
						a.Expiry = time.Unix(time.Now().Unix()+int64(test.answer.answerExp), 0)
					}
					if test.answer.maxAge != none {
						a.MaxAge = cmp.Or(test.answer.maxAge*time.Second, -1)
					}
					return a, nil
				}}
				m := o.middleware(t, phantom.WithMaxTTL(test.ttl*time.Second), phantom.WithRefreshAhead(0))
				const step = 50 * time.Millisecond
				seen := map[time.Duration]bool{}
				expect(t, "first", idOf(m, opaqueToken), "id-1")
				for range 5 {
					got, want := lifetime(t, o, m, step), test.want*time.Second
					// An exp is in whole seconds.
					if got > want+step || got < (want-time.Second)*7/8 {
						t.Errorf("served for %v, want %v", got, want)
					}
					seen[got] = true
				}
				if test.want > 0 && len(seen) == 1 {
					t.Errorf("always the same: %v", seen)
				}
			})
		})
	}
}

// A stale entry bridges an outage up to the limit, the JWT's exp or the
// answer's own exp, the earliest of them.
//
// Catalogue: C231.
func TestCacheStaleEntryEndsWithTheAnswer(t *testing.T) {
	for _, test := range []struct {
		name           string
		exp, answerExp time.Duration // 0: none
		from, to       time.Duration // the last OK lies between
	}{
		{"the limit", 300, 0, 52500, 70000},
		{"exp", 35, 0, 34900, 35000},
		{"the answer's exp", 300, 25, 24900, 25000},
		{"exp that is too far off", 1e10, 0, 52500, 70000},
		{"the end of the calendar", 2e11, 2e11, 52500, 70000},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log lockedBuffer
				start := time.Now()
				o := &oracle{}
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					if o.calls.Load() > 1 {
						return nil, errors.New("outage")
					}
					a := unsigned(map[string]any{"exp": start.Unix() + int64(test.exp)})
					if test.answerExp > 0 {
						a.Expiry = time.Unix(start.Unix()+int64(test.answerExp), 0)
					}
					return a, nil
				}
				m := o.middleware(t, phantom.WithMaxTTL(20*time.Second), phantom.WithStaleIfError(50*time.Second),
					phantom.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				var last time.Duration
				for time.Since(start) < 90*time.Second {
					if idOf(m, opaqueToken) == "id-1" {
						last = time.Since(start)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if last < test.from*time.Millisecond || last >= test.to*time.Millisecond {
					t.Errorf("last OK after %v", last)
				}
				if !strings.Contains(log.String(), "level=WARN") {
					t.Errorf("no warning: %s", log.String())
				}
			})
		})
	}
}

// The server is asked once in five seconds about a token that it called
// inactive.
//
// Catalogue: C220.
func TestCacheAsksOncePerInactiveToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answer(204, "", "")
		m := as.middleware()
		for range 1000 {
			expect(t, "within 5 s", as.try(m, opaqueToken), code401T)
			time.Sleep(5 * time.Millisecond)
		}
		expect(t, "lookups", as.calls.Load(), 1)
		expect(t, "after 5 s", as.try(m, opaqueToken), code401T)
		expect(t, "lookups", as.calls.Load(), 2)
	})
}

// A token that was inactive on first sight and then becomes active is served
// within the negative TTL.
//
// Catalogue: C221.
func TestCacheSeesAnInactiveTokenBecomeActive(t *testing.T) {
	for _, test := range []struct {
		name  string
		opts  []phantom.Option
		after func(*phantom.Middleware)
		limit time.Duration
	}{
		{"by default", nil, nil, 5 * time.Second},
		{"negative TTL of 1 min", []phantom.Option{phantom.WithNegativeTTL(time.Minute)}, nil, time.Minute},
		{"negative TTL 0", []phantom.Option{phantom.WithNegativeTTL(0)}, nil, time.Second}, // C222
		{"TTL 0", []phantom.Option{phantom.WithMaxTTL(0)}, nil, time.Second},               // C222
		{"size 0", []phantom.Option{phantom.WithCacheSize(0)}, nil, time.Second},           // C222
		{"Forget", nil, func(m *phantom.Middleware) { m.Forget(opaqueToken) }, time.Second},
		{"Purge", nil, func(m *phantom.Middleware) { m.Purge() }, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					if time.Since(start) < time.Second {
						return inactive, nil
					}
					return says(1)
				}}
				m := o.middleware(t, test.opts...)
				expect(t, "on first sight", idOf(m, opaqueToken), code401T)
				time.Sleep(time.Second)
				if test.after != nil {
					test.after(m)
				}
				for idOf(m, opaqueToken) != "1" {
					time.Sleep(100 * time.Millisecond)
				}
				if got := time.Since(start); got > test.limit {
					t.Errorf("OK after %v", got)
				}
			})
		})
	}
}

// A zero turns off what it stands for, and a negative number is a mistake.
// Neither means unlimited or for ever.
//
// Catalogue: C222.
func TestCacheTurnedOffRemembersNothing(t *testing.T) {
	for _, test := range []struct {
		name             string
		option           phantom.Option
		active, inactive int64 // lookups for ten requests one second apart
		refused          bool
	}{
		{name: "size 0", option: phantom.WithCacheSize(0), active: 10, inactive: 10},
		{name: "size -1", option: phantom.WithCacheSize(-1), refused: true},
		{name: "TTL 0", option: phantom.WithMaxTTL(0), active: 10, inactive: 10},
		{name: "TTL -1", option: phantom.WithMaxTTL(-1), refused: true},
		{name: "negative TTL 0", option: phantom.WithNegativeTTL(0), active: 1, inactive: 10},
		{name: "negative TTL -1", option: phantom.WithNegativeTTL(-1), refused: true},
		{name: "size 1", option: phantom.WithCacheSize(1), active: 1, inactive: 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{}
				if test.refused {
					_, err := phantom.New(phantom.WithIssuer(issuer), phantom.WithAudience(audience),
						phantom.WithIntrospector(o), phantom.WithKeySet(o), test.option)
					var mistake *phantom.ConfigError
					if !errors.As(err, &mistake) {
						t.Error(err)
					}
					return
				}
				m := o.middleware(t, test.option)
				for _, tc := range []struct {
					name string
					want int64
				}{
					{"active", test.active},
					{"inactive", test.inactive},
				} {
					o.calls.Store(0)
					o.ask = func(context.Context, string) (*phantom.Introspection, error) {
						if tc.name == "active" {
							return says(1)
						}
						return inactive, nil
					}
					for range 10 {
						idOf(m, tc.name)
						time.Sleep(time.Second)
					}
					expect(t, tc.name, o.calls.Load(), tc.want)
				}
			})
		})
	}
}

// Tokens never share an entry, even if they resemble one another in a way
// that a careless key would overlook.
//
// Catalogue: C223.
func TestCacheEntriesAreNeverShared(t *testing.T) {
	base := strings.Repeat("abcdefghij", 6)
	tokens := []string{
		base, base + "a", "a" + base, base[:20] + "." + base[21:], base[:59] + "J", "A" + base[1:], strings.ToUpper(base),
		base[1:], base[:59], base[:20], base[40:], base + "=", base + "==", base + "/", base + "~", base + "_", base + "-",
		"0", "00", "000", "a", "A", "a.b", "a-b", "ab", "b.a", strings.Repeat("x", 344), strings.Repeat("x", 345), strings.Repeat("x", 8192),
	}
	for i := range base { // one byte changed, each in turn
		tokens = append(tokens, base[:i]+"0"+base[i+1:])
	}
	slices.Sort(tokens)
	tokens = slices.Compact(tokens)
	o := &oracle{ask: func(_ context.Context, token string) (*phantom.Introspection, error) {
		if len(token)%5 == 4 {
			return inactive, nil
		}
		return unsigned(map[string]any{"jti": token}), nil
	}}
	m := o.middleware(t)
	for range 2 { // the second time from the cache
		for _, token := range tokens {
			want := token
			if len(token)%5 == 4 {
				want = code401T
			}
			expect(t, "token", idOf(m, token), want)
		}
		expect(t, "lookups", o.calls.Load(), int64(len(tokens)))
	}
	// Forget reaches the token that it names and no other.
	m.Forget(base)
	for _, token := range tokens {
		idOf(m, token)
	}
	expect(t, "lookups after Forget", o.calls.Load(), int64(len(tokens))+1)
	for _, token := range []string{base + "|", "|" + base, base[:30] + "|" + base[30:], "a|b"} {
		if _, err := m.Verify(t.Context(), token); !errors.Is(err, phantom.ErrInvalidRequest) {
			t.Errorf("%q: %v", token, err)
		}
	}
}

// Two routes share a cached token, and each checks its own scopes.
//
// Catalogue: C225.
func TestCacheEntryServesEachRouteByItsScopes(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(mint("ES256", claims(map[string]any{"scope": "a"})))
	m := as.middleware()
	r := get("Bearer " + as.secret(opaqueToken))
	for range 3 {
		expect(t, "route A", as.send(m.RequireScopes("a"), r), codeOK)
		expect(t, "route B", as.send(m.RequireScopes("b"), r), code403S)
	}
	expect(t, "lookups", as.calls.Load(), 1)
}
