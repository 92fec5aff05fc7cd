package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// refreshing makes a token that is about to be refreshed: the next hit starts
// the lookup. It ends in 50 ms at the earliest and 800 ms at the latest.
func refreshing(t *testing.T, o *oracle, extra ...phantom.Option) *phantom.Middleware {
	ask := o.ask
	o.ask = func(ctx context.Context, token string) (*phantom.Introspection, error) {
		if o.calls.Load() == 1 {
			return says(1)
		}
		return ask(ctx, token)
	}
	// 6.4 s less an eighth at most, refreshed at 0.875 of it: between 4.9 and
	// 5.6 s.
	m := o.middleware(t, append([]phantom.Option{
		phantom.WithMaxTTL(6400 * time.Millisecond), phantom.WithRefreshAhead(0.875),
	}, extra...)...)
	expect(t, "fresh", idOf(m, opaqueToken), "1")
	for o.calls.Load() == 1 {
		time.Sleep(10 * time.Millisecond)
		expect(t, "hit", idOf(m, opaqueToken), "1")
		synctest.Wait()
	}
	return m
}

// An entry runs out while its refresh is under way. The requests that come
// then wait for that refresh.
func TestFlightRefreshIsJoinedWhenItsEntryEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
			time.Sleep(1500 * time.Millisecond) // longer than the rest of its life
			return says(2)
		}}
		m := refreshing(t, o)
		start := time.Now()
		var waited int
		for time.Since(start) < 3*time.Second {
			began := time.Since(start)
			id := idOf(m, opaqueToken)
			switch took := time.Since(start) - began; {
			case took > 0:
				waited++
				expect(t, "who waited", id, "2")
			case began < 1500*time.Millisecond:
				expect(t, "hit before", id, "1")
			default:
				expect(t, "hit after", id, "2")
			}
			time.Sleep(10 * time.Millisecond)
		}
		expect(t, "waited", waited, 1)
		expect(t, "lookups", o.calls.Load(), 2)
	})
}

// A refresh that began before Forget serves no later request and is not
// remembered.
func TestFlightRefreshBegunBeforeForgetIsDropped(t *testing.T) {
	for _, tc := range forgets {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{}
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					id := o.calls.Load()
					if id == 2 {
						time.Sleep(500 * time.Millisecond)
					}
					return says(id)
				}
				m := refreshing(t, o)
				tc.forget(m)
				expect(t, "after Forget", idOf(m, opaqueToken), "3")
				time.Sleep(time.Second)
				expect(t, "when the refresh has landed", idOf(m, opaqueToken), "3")
				expect(t, "lookups", o.calls.Load(), 3)
			})
		})
	}
}

// The hit that starts a refresh does not wait for it, and does not end it by
// leaving.
func TestFlightRefreshIsIndependentOfItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{}
		o.ask = func(ctx context.Context, _ string) (*phantom.Introspection, error) {
			id := o.calls.Load()
			if id == 1 {
				return says(1)
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(500 * time.Millisecond):
				return says(id)
			}
		}
		m := o.middleware(t, phantom.WithMaxTTL(6400*time.Millisecond), phantom.WithRefreshAhead(0.875))
		expect(t, "fresh", idOf(m, opaqueToken), "1")
		for o.calls.Load() == 1 {
			time.Sleep(10 * time.Millisecond)
			ctx, leave := context.WithCancel(t.Context())
			start := time.Now()
			if tok, err := m.Verify(ctx, opaqueToken); err != nil || tok.ID() != "1" || time.Since(start) != 0 {
				t.Fatalf("%v, %v after %v", tok, err, time.Since(start))
			}
			leave()
			synctest.Wait()
		}
		time.Sleep(600 * time.Millisecond)
		expect(t, "refreshed", idOf(m, opaqueToken), "2")
		expect(t, "lookups", o.calls.Load(), 2)
	})
}

// A crowd of hits starts one refresh. If that brings nothing, no other
// follows, and the entry serves to its end.
func TestFlightFailedRefreshIsNotRepeated(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func() (*phantom.Introspection, error)
	}{
		{"outage", func() (*phantom.Introspection, error) { return nil, errors.New("outage") }},                              // C230
		{"unusable", func() (*phantom.Introspection, error) { return nil, phantom.ErrUpstream }},                             // C230
		{"not a JWT", func() (*phantom.Introspection, error) { return &phantom.Introspection{Active: true, JWT: "x"}, nil }}, // C230
		{"nothing at all", func() (*phantom.Introspection, error) { return nil, nil }},                                       // C230
		{"panic", func() (*phantom.Introspection, error) { panic("x") }},                                                     // C208
		{"Goexit", func() (*phantom.Introspection, error) {
			runtime.Goexit()
			return nil, nil
		}}, // C209
		{"deaf", func() (*phantom.Introspection, error) {
			time.Sleep(time.Minute)
			return nil, errors.New("late")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return tc.fault() }}
				m := refreshing(t, o)
				start := time.Now()
				var end time.Duration
				for end = 0; end == 0; time.Sleep(10 * time.Millisecond) {
					lookups := o.calls.Load()
					for e := range throng(10, func(int) string { return idOf(m, opaqueToken) })() {
						switch {
						case e.what != "1":
							end = time.Since(start)
						case lookups != 2 || e.after != 0:
							t.Fatalf("lookup %d, %v", lookups, e)
						}
					}
				}
				if end < 700*time.Millisecond {
					t.Errorf("the entry ended %v after the refresh began", end)
				}
				time.Sleep(time.Minute) // until the deaf one has ended
			})
		})
	}
}

// A refresh that refuses the token ends the entry. Hits are served until
// then.
func TestFlightRefreshVerdictEndsTheEntry(t *testing.T) {
	for _, tc := range []struct {
		name   string
		claims map[string]any // nil: inactive
	}{
		{"inactive", nil},
		{"another aud", map[string]any{"aud": "https://elsewhere.test"}},
		{"bound", map[string]any{"cnf": map[string]any{"jkt": "x"}}}, // D240
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					time.Sleep(50 * time.Millisecond)
					if tc.claims == nil {
						return inactive, nil
					}
					return unsigned(tc.claims), nil
				}}
				m := refreshing(t, o, phantom.WithStaleIfError(time.Hour))
				time.Sleep(49 * time.Millisecond)
				expect(t, "while it is under way", idOf(m, opaqueToken), "1")
				time.Sleep(2 * time.Millisecond)
				expect(t, "when it has landed", idOf(m, opaqueToken), code401T)
				o.ask = func(context.Context, string) (*phantom.Introspection, error) { return nil, errors.New("outage") }
				time.Sleep(6 * time.Second)
				expect(t, "in an outage", idOf(m, opaqueToken), code503A)
			})
		})
	}
}

// Requests that wait out a failing lookup get the old entry only if nothing
// was learned meanwhile.
func TestFlightStaleEntryYieldsToNews(t *testing.T) {
	for _, test := range []struct {
		name      string
		meanwhile func(o *oracle, m *phantom.Middleware)
		want      string
	}{
		{"nothing", func(*oracle, *phantom.Middleware) {}, "1"},
		{"not an outage", func(*oracle, *phantom.Middleware) {}, code502A},
		{"Forget", func(_ *oracle, m *phantom.Middleware) { m.Forget(opaqueToken) }, code503A},
		{"Purge", func(_ *oracle, m *phantom.Middleware) { m.Purge() }, code503A},
		{"Forget, then inactive", func(o *oracle, m *phantom.Middleware) {
			m.Forget(opaqueToken)
			o.ask = func(context.Context, string) (*phantom.Introspection, error) { return inactive, nil }
			idOf(m, opaqueToken)
		}, code503A},
		{"Forget, then active", func(o *oracle, m *phantom.Middleware) {
			m.Forget(opaqueToken)
			o.ask = func(context.Context, string) (*phantom.Introspection, error) { return says(3) }
			idOf(m, opaqueToken)
		}, "3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return says(1) }}
				m := o.middleware(t, phantom.WithMaxTTL(10*time.Second), phantom.WithStaleIfError(time.Minute))
				expect(t, "fresh", idOf(m, opaqueToken), "1")
				time.Sleep(11 * time.Second)
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					time.Sleep(time.Second)
					if test.want == code502A {
						return nil, phantom.ErrUpstream
					}
					return nil, errors.New("outage")
				}
				waiting := throng(10, func(int) string { return idOf(m, opaqueToken) })
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				test.meanwhile(o, m)
				expectEndings(t, waiting(), map[ending]int{{test.want, time.Second}: 10})
			})
		})
	}
}

// A JWT whose key has left the key set is not served: not from the cache,
// not as a stale entry, and not from a lookup that was under way.
//
// Catalogue: J178.
func TestFlightDropsWhatALeftKeyVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		keySet := func(alg string) http.HandlerFunc {
			return answer(200, "application/jwk-set+json", jwks(jwk("k-"+alg, alg, keyFor(alg).Public())))
		}
		as.jwks = keySet("ES256")
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			alg := "EdDSA" // the new key
			switch r.PostForm.Get("token") {
			case "slow":
				wait(time.Second, answerJWT(mint("ES256", claims(nil))))(w, r)
				return
			case "new":
			default:
				if as.fetches.Load() < 2 {
					alg = "ES256"
				}
			}
			answerJWT(mint(alg, claims(nil)))(w, r)
		}
		m := as.middleware(
			phantom.WithMaxTTL(20*time.Second), phantom.WithStaleIfError(time.Hour), phantom.WithRefreshAhead(0))
		for i := range 10 {
			expect(t, "before", as.try(m, fmt.Sprintf("token-%d", i)), codeOK)
		}
		expect(t, "lookups", as.calls.Load(), 10)
		time.Sleep(10 * time.Second)
		expect(t, "stale one, while fresh", as.try(m, "stale"), codeOK)
		slow := later(func() string { return as.try(m, "slow") })
		synctest.Wait()
		as.jwks = keySet("EdDSA")
		expect(t, "hit before anyone knows", as.try(m, "token-0"), codeOK)
		expect(t, "the new key", as.try(m, "new"), codeOK)
		expect(t, "key set fetches", as.fetches.Load(), 2)
		calls := as.calls.Load()
		for i := range 10 {
			expect(t, "after", as.try(m, fmt.Sprintf("token-%d", i)), codeOK)
		}
		expect(t, "lookups after", as.calls.Load(), calls+10)
		expect(t, "what was on its way", slow(), code401T)
		as.introspect = answer(500, "", "")
		expect(t, "stale", as.try(m, "stale"), code503A)
	})
}
