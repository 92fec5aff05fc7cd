package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A thousand requests with one token share one lookup, also with the cache
// turned off.
//
// Catalogue: C204.
func TestFlightServesAThousandRequests(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts []phantom.Option
	}{
		{"cached", nil},
		{"size 0", []phantom.Option{phantom.WithCacheSize(0)}}, // C222
		{"TTL 0", []phantom.Option{phantom.WithMaxTTL(0)}},     // C222
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
				m := as.middleware(tc.opts...)
				as.secret(opaqueToken)
				join := throng(1000, func(int) string { return as.try(m, opaqueToken) })
				expectEndings(t, join(), map[ending]int{{codeOK, 100 * time.Millisecond}: 1000})
				expect(t, "lookups", as.calls.Load(), 1)
			})
		})
	}
}

// A thousand tokens take a thousand lookups, 64 at once.
//
// Catalogue: C205.
func TestFlightIsOnePerToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
			time.Sleep(100 * time.Millisecond)
			return says(1)
		}}
		m := o.middleware(t)
		join := throng(1000, func(i int) string { return idOf(m, fmt.Sprintf("token-%d", i)) })
		want := map[ending]int{}
		for i := range 1000 {
			want[ending{"1", time.Duration(i/64+1) * 100 * time.Millisecond}]++ // 64 at once
		}
		expectEndings(t, join(), want)
		expect(t, "lookups", o.calls.Load(), 1000)
	})
}

// The client whose request began the lookup leaves. The others are served by
// that same lookup.
//
// Catalogue: C206.
func TestFlightOutlivesItsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		m := as.middleware()
		ctx, leave := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer leave()
		leader := throng(1, func(int) string {
			return as.send(m.Handler, get("Bearer "+as.secret(opaqueToken)).WithContext(ctx))
		})
		synctest.Wait() // the lookup is the leader's
		expect(t, "lookups", as.calls.Load(), 1)
		followers := throng(99, func(int) string { return as.try(m, opaqueToken) })
		expectEndings(t, leader(), map[ending]int{{code503A, 10 * time.Millisecond}: 1})
		expectEndings(t, followers(), map[ending]int{{codeOK, 100 * time.Millisecond}: 99})
		expect(t, "lookups", as.calls.Load(), 1)
	})
}

// All clients leave. The lookup goes on to its end or its deadline, and its
// result serves the next request.
//
// Catalogue: C207.
func TestFlightOutlivesAllItsCallers(t *testing.T) {
	for _, test := range []struct {
		name    string
		answers time.Duration
		landed  time.Duration
		lookups int64 // with the next request's
	}{
		{"it succeeds", 500 * time.Millisecond, 500 * time.Millisecond, 1},
		{"it never gets an answer", time.Hour, 2 * time.Second, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				jwt := mint("ES256", claims(nil))
				as.introspect = wait(test.answers, answerJWT(jwt))
				m := as.middleware()
				ctx, leave := context.WithTimeout(t.Context(), 10*time.Millisecond)
				defer leave()
				join := throng(100, func(int) string {
					return as.send(m.Handler, get("Bearer "+as.secret(opaqueToken)).WithContext(ctx))
				})
				expectEndings(t, join(), map[ending]int{{code503A, 10 * time.Millisecond}: 100})
				time.Sleep(test.landed - 11*time.Millisecond)
				expect(t, "under way just before the end", as.current.Load(), 1)
				time.Sleep(2 * time.Millisecond)
				expect(t, "under way just after the end", as.current.Load(), 0)
				as.introspect = answerJWT(jwt)
				expect(t, "next", as.try(m, opaqueToken), codeOK)
				expect(t, "lookups", as.calls.Load(), test.lookups)
			})
		})
	}
}

// hookedAuth is a ClientAuth that first runs the hook.
type hookedAuth struct {
	phantom.ClientAuth
	hook func()
}

func (a hookedAuth) Authenticate(req *http.Request, form url.Values) error {
	a.hook()
	return a.ClientAuth.Authenticate(req, form)
}

// flightHooks are the places where foreign code runs inside a flight. Each
// makes a Middleware that runs hook there.
var flightHooks = []struct {
	place      string
	middleware func(as *fakeAS, hook func()) *phantom.Middleware
}{
	{"RoundTripper", func(as *fakeAS, hook func()) *phantom.Middleware {
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			hook()
			answerJWT(mint("ES256", claims(nil)))(w, r)
		}
		return as.middleware()
	}},
	{placeOfTheKeys, func(as *fakeAS, hook func()) *phantom.Middleware {
		as.jwks = func(w http.ResponseWriter, r *http.Request) {
			hook()
			answer(200, "application/jwk-set+json", allKeys())(w, r)
		}
		return as.middleware()
	}},
	{"ClientAuth", func(as *fakeAS, hook func()) *phantom.Middleware {
		return as.middleware(phantom.WithClientAuth(hookedAuth{phantom.ClientSecretBasic(clientID, clientSecret), hook}))
	}},
	{"Introspector", func(as *fakeAS, hook func()) *phantom.Middleware {
		return (&oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
			hook()
			return says(1)
		}}).middleware(as.tb)
	}},
	{"KeySet", func(as *fakeAS, hook func()) *phantom.Middleware {
		return (&oracle{
			ask:    func(context.Context, string) (*phantom.Introspection, error) { return says(1) },
			verify: func(string) { hook() },
		}).middleware(as.tb)
	}},
}

const placeOfTheKeys = "RoundTripper for keys"

// A hook panics in the middle of a lookup. All who wait get a 500, and the
// next request is served.
//
// Catalogue: C208.
func TestFlightPanicFailsItsWaitersAlone(t *testing.T) {
	const secret = "what-the-panic-says"
	panics := []struct {
		kind  string
		fault func()
	}{
		{"text", func() { panic(secret) }},
		{"error", func() { panic(errors.New(secret)) }},
		{"runtime error", func() { _ = *(*string)(nil) }}, //nolint:govet // on purpose
		{"aborted", func() { panic(http.ErrAbortHandler) }},
		{"nil", func() { panic(nil) }}, //nolint:govet // on purpose
	}
	for _, hook := range flightHooks {
		for _, tc := range panics {
			t.Run(hook.place+"/"+tc.kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					as := newAS(t)
					as.secret(secret)
					var done atomic.Bool
					m := hook.middleware(as, func() {
						if !done.Swap(true) {
							time.Sleep(100 * time.Millisecond)
							tc.fault()
						}
					})
					join := throng(100, func(int) string { return as.try(m, opaqueToken) })
					expectEndings(t, join(), map[ending]int{{code500I, 100 * time.Millisecond}: 100})
					expect(t, "next", as.try(m, opaqueToken), codeOK)
				})
			})
		}
	}
}

// A hook ends its goroutine in the middle of a lookup. All who wait leave by
// the deadline, and the token can be looked up again at once.
//
// Catalogue: C209.
func TestFlightGoexitInAHookStrandsNobody(t *testing.T) {
	for _, tc := range flightHooks {
		t.Run(tc.place, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				var done atomic.Bool
				m := tc.middleware(as, func() {
					if !done.Swap(true) {
						time.Sleep(100 * time.Millisecond)
						runtime.Goexit()
					}
				})
				join := throng(100, func(int) string { return as.try(m, opaqueToken) })
				time.Sleep(200 * time.Millisecond)
				expect(t, "another token meanwhile", as.try(m, "another-opaque-token"), codeOK)
				if tc.place != placeOfTheKeys { // where the flight around it ends by its deadline
					expect(t, "the same token meanwhile", as.try(m, opaqueToken), codeOK)
				}
				expectEndings(t, join(), map[ending]int{{code503A, 2 * time.Second}: 100})
				synctest.Wait() // the flight ends at the very moment at which its waiters leave
				expect(t, "next", as.try(m, opaqueToken), codeOK)
			})
		})
	}
}

// A lookup whose hook panics or ends its goroutine gives its place back,
// every time.
//
// Catalogue: C209.
func TestFlightEndedByAHookGivesItsPlaceBack(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func()
	}{
		{"Goexit", runtime.Goexit},
		{"panic", func() { panic("x") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				healthy := false
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					if !healthy {
						tc.fault()
					}
					return says(1)
				}}
				m := o.middleware(t, phantom.WithMaxInFlight(2))
				for i := range 20 {
					idOf(m, fmt.Sprintf("token-%d", i))
				}
				synctest.Wait()
				healthy = true
				time.Sleep(2 * time.Second) // the breaker may have opened
				expect(t, "next", idOf(m, opaqueToken), "1")
			})
		})
	}
}

// An outage is the answer for all who wait, and the next request asks again.
//
// Catalogue: C210.
func TestFlightOutageReachesAllWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(100*time.Millisecond, answer(500, "", ""))
		m := as.middleware()
		join := throng(100, func(int) string { return as.try(m, opaqueToken) })
		expectEndings(t, join(), map[ending]int{{code503A, 100 * time.Millisecond}: 100})
		expect(t, "lookups", as.calls.Load(), 1)
		expect(t, "next", as.try(m, opaqueToken), code503A)
		expect(t, "lookups", as.calls.Load(), 2)
		as.introspect = nil
		expect(t, "after the outage", as.try(m, opaqueToken), codeOK)
	})
}

// A follower with a short deadline leaves when that has come. The others
// wait on and are served.
//
// Catalogue: C211.
func TestFlightFollowerLeavesByItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(500*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		m := as.middleware()
		leader := throng(1, func(int) string { return as.try(m, opaqueToken) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		hurried := throng(1, func(int) string {
			return as.send(m.Handler, get("Bearer "+opaqueToken).WithContext(ctx))
		})
		patient := throng(98, func(int) string { return as.try(m, opaqueToken) })
		expectEndings(t, hurried(), map[ending]int{{code503A, 50 * time.Millisecond}: 1})
		expectEndings(t, patient(), map[ending]int{{codeOK, 500 * time.Millisecond}: 98})
		expectEndings(t, leader(), map[ending]int{{codeOK, 500 * time.Millisecond}: 1})
		expect(t, "lookups", as.calls.Load(), 1)
	})
}

// Those who join a lookup that is nearly over wait no longer than the
// others.
func TestFlightDeadlineHoldsForLateJoiners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(time.Hour, nil)
		m := as.middleware()
		first := throng(10, func(int) string { return as.try(m, opaqueToken) })
		time.Sleep(1500 * time.Millisecond)
		second := throng(10, func(int) string { return as.try(m, opaqueToken) })
		expectEndings(t, first(), map[ending]int{{code503A, 2 * time.Second}: 10})
		expectEndings(t, second(), map[ending]int{{code503A, 500 * time.Millisecond}: 10})
		expect(t, "lookups", as.calls.Load(), 1)
	})
}

// A hook that ignores its context holds no request beyond the deadline. What
// it says after that is no answer: it is neither served nor kept.
//
// Catalogue: Z2.
func TestFlightWithADeafHookStrandsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{}
		o.ask = func(context.Context, string) (*phantom.Introspection, error) {
			id := o.calls.Load()
			if id == 1 {
				time.Sleep(5 * time.Second)
			}
			return says(id)
		}
		m := o.middleware(t, phantom.WithMaxTTL(8*time.Second), phantom.WithRefreshAhead(0))
		join := throng(100, func(int) string { return idOf(m, opaqueToken) })
		expectEndings(t, join(), map[ending]int{{code503A, 2 * time.Second}: 100})
		expect(t, "after 2 s", idOf(m, opaqueToken), "2")
		time.Sleep(3*time.Second + time.Millisecond)
		expect(t, "after 5 s", idOf(m, opaqueToken), "2")
		expect(t, "lookups", o.calls.Load(), 2)
	})
}
