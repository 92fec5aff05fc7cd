package conformance_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/phantom-token/phantom"
)

const opaqueToken = "opaque-token-of-alice"

// An oracle is an authorization server without HTTP and cryptography, for
// tests of many lookups: the Introspector and the KeySet of its Middleware.
type oracle struct {
	ask    func(ctx context.Context, token string) (*phantom.Introspection, error)
	verify func(jwt string) // what checking a signature does besides believing it
	calls  atomic.Int64
}

func (o *oracle) Introspect(ctx context.Context, token string) (*phantom.Introspection, error) {
	o.calls.Add(1)
	return o.ask(ctx, token)
}

func (o *oracle) VerifySignature(_ context.Context, jwt string) ([]byte, error) {
	if o.verify != nil {
		o.verify(jwt)
	}
	return base64.RawURLEncoding.DecodeString(strings.Split(jwt, ".")[1])
}

func (o *oracle) middleware(tb testing.TB, extra ...phantom.Option) *phantom.Middleware {
	tb.Helper()
	m, err := phantom.New(append([]phantom.Option{
		phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithTimeout(2 * time.Second),
		phantom.WithIntrospector(o), phantom.WithKeySet(o),
	}, extra...)...)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// unsigned returns an answer whose JWT has a signature that nobody made.
func unsigned(changes map[string]any) *phantom.Introspection {
	jwt := b64([]byte(`{"alg":"ES256","typ":"at+jwt"}`)) + "." + b64(must(json.Marshal(claims(changes)))) + "." + b64(make([]byte, 64))
	return &phantom.Introspection{Active: true, JWT: jwt, MaxAge: -1}
}

// says makes an oracle's answers: the jti tells the lookup that it came from.
func says(id int64) (*phantom.Introspection, error) {
	return unsigned(map[string]any{"jti": fmt.Sprint(id)}), nil
}

var inactive = &phantom.Introspection{MaxAge: -1}

// idOf verifies the token and returns the ID of its JWT, or what kind of error
// came instead.
func idOf(m *phantom.Middleware, token string) string {
	tok, err := m.Verify(context.Background(), token)
	switch {
	case err == nil:
		return tok.ID()
	case errors.Is(err, phantom.ErrInvalidToken):
		return code401T
	case errors.Is(err, phantom.ErrUnavailable):
		return code503A
	case errors.Is(err, phantom.ErrUpstream):
		return code502A
	}
	return err.Error()
}

// later runs f in a goroutine; the returned function waits for its result.
func later[T any](f func() T) func() T {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return func() T { return <-result }
}

// An ending is how a request ended, and how long after its start.
type ending struct {
	what  string
	after time.Duration
}

// throng runs n requests at once; the returned function waits for them and
// counts how they ended.
func throng(n int, request func(i int) string) func() map[ending]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	endings := map[ending]int{}
	for i := range n {
		wg.Go(func() {
			start := time.Now()
			what := request(i)
			mu.Lock()
			defer mu.Unlock()
			endings[ending{what, time.Since(start)}]++
		})
	}
	return func() map[ending]int {
		wg.Wait()
		return endings
	}
}

func expectEndings(tb testing.TB, got, want map[ending]int) {
	tb.Helper()
	if !maps.Equal(got, want) {
		tb.Errorf("endings %v, want %v", got, want)
	}
}

func expect[T comparable](tb testing.TB, what string, got, want T) {
	tb.Helper()
	if got != want {
		tb.Errorf("%s: %v, want %v", what, got, want)
	}
}

// countGoroutines returns how many goroutines there are. If these seem to be
// more than limit, it stops the world and counts again: the runtime's number is
// off while it moves dead ones from list to list.
func countGoroutines(limit int) int {
	if n := runtime.NumGoroutine(); n <= limit {
		return n
	}
	stacks := make([]byte, 16<<20)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("\n\ngoroutine ")) + 1
}

func TestC204OneFlightForAThousand(t *testing.T) {
	for name, opts := range map[string][]phantom.Option{
		"cached":      nil,
		"C222 size 0": {phantom.WithCacheSize(0)},
		"C222 TTL 0":  {phantom.WithMaxTTL(0)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
				m := as.middleware(opts...)
				as.secret(opaqueToken)
				join := throng(1000, func(int) string { return as.try(m, opaqueToken) })
				expectEndings(t, join(), map[ending]int{{codeOK, 100 * time.Millisecond}: 1000})
				expect(t, "lookups", as.calls.Load(), 1)
			})
		})
	}
}

func TestC205AThousandTokensAThousandFlights(t *testing.T) {
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

func TestC206LeaderLeaves(t *testing.T) {
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

func TestC207AllLeave(t *testing.T) {
	for name, test := range map[string]struct {
		answers time.Duration
		landed  time.Duration
		lookups int64 // with the next request's
	}{
		"it succeeds":             {500 * time.Millisecond, 500 * time.Millisecond, 1},
		"it never gets an answer": {time.Hour, 2 * time.Second, 2},
	} {
		t.Run(name, func(t *testing.T) {
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
var flightHooks = map[string]func(as *fakeAS, hook func()) *phantom.Middleware{
	"RoundTripper": func(as *fakeAS, hook func()) *phantom.Middleware {
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			hook()
			answerJWT(mint("ES256", claims(nil)))(w, r)
		}
		return as.middleware()
	},
	"RoundTripper for keys": func(as *fakeAS, hook func()) *phantom.Middleware {
		as.jwks = func(w http.ResponseWriter, r *http.Request) {
			hook()
			answer(200, "application/jwk-set+json", allKeys())(w, r)
		}
		return as.middleware()
	},
	"ClientAuth": func(as *fakeAS, hook func()) *phantom.Middleware {
		return as.middleware(phantom.WithClientAuth(hookedAuth{phantom.ClientSecretBasic(clientID, clientSecret), hook}))
	},
	"Introspector": func(as *fakeAS, hook func()) *phantom.Middleware {
		return (&oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
			hook()
			return says(1)
		}}).middleware(as.tb)
	},
	"KeySet": func(as *fakeAS, hook func()) *phantom.Middleware {
		return (&oracle{
			ask:    func(context.Context, string) (*phantom.Introspection, error) { return says(1) },
			verify: func(string) { hook() },
		}).middleware(as.tb)
	},
}

func TestC208Panics(t *testing.T) {
	const secret = "what-the-panic-says"
	panics := map[string]func(){
		"text":          func() { panic(secret) },
		"error":         func() { panic(errors.New(secret)) },
		"runtime error": func() { _ = *(*string)(nil) }, //nolint:govet // on purpose
		"aborted":       func() { panic(http.ErrAbortHandler) },
		"nil":           func() { panic(nil) }, //nolint:govet // on purpose
	}
	for place, middleware := range flightHooks {
		for kind, fault := range panics {
			t.Run(place+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					as := newAS(t)
					as.secret(secret)
					var done atomic.Bool
					m := middleware(as, func() {
						if !done.Swap(true) {
							time.Sleep(100 * time.Millisecond)
							fault()
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

func TestC209Goexit(t *testing.T) {
	for place, middleware := range flightHooks {
		t.Run(place, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				var done atomic.Bool
				m := middleware(as, func() {
					if !done.Swap(true) {
						time.Sleep(100 * time.Millisecond)
						runtime.Goexit()
					}
				})
				join := throng(100, func(int) string { return as.try(m, opaqueToken) })
				time.Sleep(200 * time.Millisecond)
				expect(t, "another token meanwhile", as.try(m, "another-opaque-token"), codeOK)
				if place != "RoundTripper for keys" { // where the flight around it ends by its deadline
					expect(t, "the same token meanwhile", as.try(m, opaqueToken), codeOK)
				}
				expectEndings(t, join(), map[ending]int{{code503A, 2 * time.Second}: 100})
				synctest.Wait() // the flight ends at the very moment at which its waiters leave
				expect(t, "next", as.try(m, opaqueToken), codeOK)
			})
		})
	}
}

// TestC209PlacesComeBack: what ends its goroutine gives its place among the
// lookups back, every time.
func TestC209PlacesComeBack(t *testing.T) {
	for name, fault := range map[string]func(){"Goexit": runtime.Goexit, "panic": func() { panic("x") }} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				healthy := false
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					if !healthy {
						fault()
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

func TestC210OutageForAll(t *testing.T) {
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

func TestC211FollowersDeadline(t *testing.T) {
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

// TestFlightDeadlineIsTheLookups: who joins a flight that is nearly over does
// not wait longer than the others.
func TestFlightDeadlineIsTheLookups(t *testing.T) {
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

// TestFlightDeafHook: a hook that does not listen to its context strands
// nobody, and what it says in the end counts from when it was asked.
func TestFlightDeafHook(t *testing.T) {
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
		time.Sleep(3*time.Second + time.Millisecond)
		expect(t, "after 5 s", idOf(m, opaqueToken), "1")
		time.Sleep(3 * time.Second)
		expect(t, "after 8 s", idOf(m, opaqueToken), "2")
	})
}

func TestC213PurgeDuringFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
			time.Sleep(100 * time.Millisecond)
			return says(1)
		}}
		m := o.middleware(t, phantom.WithMaxInFlight(1000))
		request := func(i int) string { return idOf(m, fmt.Sprintf("token-%d", i)) }
		all := func(after time.Duration) map[ending]int { return map[ending]int{{"1", after}: 1000} }
		join := throng(1000, request)
		time.Sleep(50 * time.Millisecond)
		for range 100 {
			go m.Purge()
		}
		expectEndings(t, join(), all(100*time.Millisecond))
		expectEndings(t, throng(1000, request)(), all(100*time.Millisecond)) // nothing was remembered
		expect(t, "lookups", o.calls.Load(), 2000)
		expectEndings(t, throng(1000, request)(), all(0)) // but this was
		synctest.Wait()
		if after := countGoroutines(before + 10); after > before+10 {
			t.Errorf("%d goroutines before, %d after", before, after)
		}
	})
}

// hookedContext runs a hook when it is asked whether it has ended.
type hookedContext struct {
	context.Context
	hook func()
}

func (c hookedContext) Err() error {
	c.hook()
	return c.Context.Err()
}

// TestFlightLandsBeforeTheJoin: a request that saw nothing in the cache, and
// comes to join the flight when that has just ended, finds what it brought.
func TestFlightLandsBeforeTheJoin(t *testing.T) {
	outage := errors.New("outage")
	for name, test := range map[string]struct {
		answer  *phantom.Introspection
		err     error
		want    string
		lookups int64
	}{
		"active":   {unsigned(map[string]any{"jti": "1"}), nil, "1", 1},
		"inactive": {inactive, nil, code401T, 1},
		"outage":   {nil, outage, code503A, 2}, // no verdict: nothing to find
	} {
		t.Run(name, func(t *testing.T) {
			o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return test.answer, test.err }}
			m := o.middleware(t)
			hooked := 0
			ctx := hookedContext{t.Context(), func() {
				if hooked++; hooked == 1 {
					expect(t, "the flight", idOf(m, opaqueToken), test.want)
				}
			}}
			tok, err := m.Verify(ctx, opaqueToken)
			if test.want == "1" && (err != nil || tok.ID() != "1") || test.want != "1" && err == nil {
				t.Errorf("late: %v, %v", tok, err)
			}
			if hooked == 0 {
				t.Error("the hook did not run")
			}
			expect(t, "lookups", o.calls.Load(), test.lookups)
		})
	}
}

// forgets are the two ways to forget a token.
var forgets = map[string]func(*phantom.Middleware){
	"Forget": func(m *phantom.Middleware) { m.Forget(opaqueToken) },
	"Purge":  (*phantom.Middleware).Purge,
}

// TestFlightForget: who begins after Forget is never served by a lookup that
// began before it, whichever of the two ends first; who began before still is.
func TestFlightForget(t *testing.T) {
	type timing struct{ asking, verifying time.Duration }
	for how, forget := range forgets {
		for name, test := range map[string]struct {
			old, renewed timing
			forget       time.Duration
		}{
			"while asking, the old one lands first":    {timing{100, 0}, timing{200, 0}, 50},
			"while asking, the old one lands last":     {timing{400, 0}, timing{100, 0}, 50},
			"while asking, both land at once":          {timing{400, 0}, timing{350, 0}, 50},
			"while verifying, the old one lands first": {timing{100, 200}, timing{400, 0}, 200},
			"while verifying, the old one lands last":  {timing{100, 800}, timing{0, 100}, 200},
			"both are verified":                        {timing{100, 500}, timing{0, 400}, 200},
			"at the start":                             {timing{100, 0}, timing{100, 0}, 0},
		} {
			t.Run(how+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := &oracle{}
					takes := map[bool]timing{true: test.old, false: test.renewed}
					first := active(1)
					o.ask = func(context.Context, string) (*phantom.Introspection, error) {
						id := o.calls.Load()
						time.Sleep(takes[id == 1].asking * time.Millisecond)
						if id == 1 {
							return first, nil
						}
						return active(id), nil
					}
					o.verify = func(jwt string) { time.Sleep(takes[jwt == first.JWT].verifying * time.Millisecond) }
					m := o.middleware(t)
					before := later(func() string { return idOf(m, opaqueToken) })
					synctest.Wait()
					time.Sleep(test.forget * time.Millisecond)
					forget(m)
					after := throng(10, func(int) string { return idOf(m, opaqueToken) })
					for range 50 { // one after another, whatever has landed by then
						expect(t, "who comes later", idOf(m, opaqueToken), "2")
						time.Sleep(20 * time.Millisecond)
					}
					expect(t, "who came before", before(), "1")
					for e := range after() {
						expect(t, "who came after", e.what, "2")
					}
					expect(t, "lookups", o.calls.Load(), 2)
				})
			})
		}
	}
}

// active is says for an answer that is made in advance.
func active(id int64) *phantom.Introspection {
	answer, _ := says(id)
	return answer
}

// TestFlightForgetAgain: each Forget counts, in the middle of the lookup that
// an earlier one caused too.
func TestFlightForgetAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{}
		o.ask = func(context.Context, string) (*phantom.Introspection, error) {
			id := o.calls.Load()
			time.Sleep(time.Duration(11-id) * 100 * time.Millisecond) // each lands before the one that began earlier
			return says(id)
		}
		m := o.middleware(t)
		var waiting []func() string
		for range 10 {
			waiting = append(waiting, later(func() string { return idOf(m, opaqueToken) }))
			synctest.Wait()
			m.Forget(opaqueToken)
		}
		for i, join := range waiting {
			expect(t, "waiter", join(), fmt.Sprint(i+1))
		}
		expect(t, "nothing was remembered", idOf(m, opaqueToken), "11")
	})
}

// TestFlightLateVerdicts: a flight that lands after a younger one does not
// bring back what the younger one knows better.
func TestFlightLateVerdicts(t *testing.T) {
	for how, forget := range forgets {
		t.Run(how+": inactive meanwhile", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{}
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					id := o.calls.Load()
					if id > 1 {
						return inactive, nil
					}
					time.Sleep(500 * time.Millisecond)
					return says(id)
				}
				m := o.middleware(t, phantom.WithStaleIfError(time.Hour))
				late := later(func() string { return idOf(m, opaqueToken) })
				time.Sleep(100 * time.Millisecond)
				forget(m)
				expect(t, "the younger one", idOf(m, opaqueToken), code401T)
				expect(t, "the late one, which began before", late(), "1")
				for range 30 { // longer than the negative entry
					expect(t, "afterwards", idOf(m, opaqueToken), code401T)
					time.Sleep(time.Second)
				}
			})
		})
		t.Run(how+": active meanwhile", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{}
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					id := o.calls.Load()
					if id > 1 {
						return says(id)
					}
					time.Sleep(500 * time.Millisecond)
					return inactive, nil
				}
				m := o.middleware(t)
				late := later(func() string { return idOf(m, opaqueToken) })
				time.Sleep(100 * time.Millisecond)
				forget(m)
				expect(t, "the younger one", idOf(m, opaqueToken), "2")
				expect(t, "the late one, which began before", late(), code401T)
				// Refusing is always safe, and so is asking once more; a
				// negative entry from before Forget would not be.
				if id := idOf(m, opaqueToken); id != "2" && id != "3" {
					t.Errorf("afterwards %s", id)
				}
			})
		})
		t.Run(how+": active meanwhile, then revoked", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				o := &oracle{}
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					id := o.calls.Load()
					if id == 1 {
						time.Sleep(500 * time.Millisecond) // on the way there
					}
					if time.Since(start) > 300*time.Millisecond {
						return inactive, nil
					}
					return says(id)
				}
				m := o.middleware(t)
				late := later(func() string { return idOf(m, opaqueToken) })
				time.Sleep(100 * time.Millisecond)
				forget(m)
				expect(t, "the one that was answered first", idOf(m, opaqueToken), "2")
				expect(t, "the one that was answered last", late(), code401T)
				expect(t, "afterwards", idOf(m, opaqueToken), code401T)
			})
		})
	}
}

// TestFlightForgetAsItLands lets a lookup land and forgets its token at the
// same time, many times: whichever comes first, nothing of it is left.
func TestFlightForgetAsItLands(t *testing.T) {
	for how, forget := range forgets {
		t.Run(how, func(t *testing.T) {
			land := make(chan struct{})
			o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
				<-land
				return unsigned(nil), nil
			}}
			answered := make(chan struct{}, 1)
			o.verify = func(string) { answered <- struct{}{} } // the rest takes about as long as Forget
			m := o.middleware(t, phantom.WithTimeout(time.Minute))
			for i := range int64(20_000 / scale) {
				first := later(func() string { return idOf(m, opaqueToken) })
				land <- struct{}{}
				<-answered
				for range i % 64 * 8 { // not always at the same moment
					runtime.KeepAlive(i)
				}
				forget(m)
				second := make(chan string, 1)
				go func() { second <- idOf(m, opaqueToken) }()
				select {
				case land <- struct{}{}:
				case <-second:
					t.Fatalf("round %d: served by the lookup from before", i)
				}
				<-answered
				expect(t, "first", first(), "id-1")
				expect(t, "second", <-second, "id-1")
				forget(m)
			}
		})
	}
}

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
	// 6.4 s less an eighth at most, refreshed at 0.875 of it: between 4.9 and 5.6 s.
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

// TestFlightRefreshAtTheEnd: the entry runs out while its refresh is under
// way: who comes then waits for that one.
func TestFlightRefreshAtTheEnd(t *testing.T) {
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

// TestFlightRefreshAndForget: a refresh that began before Forget serves nobody
// who came after it, and is not remembered.
func TestFlightRefreshAndForget(t *testing.T) {
	for how, forget := range forgets {
		t.Run(how, func(t *testing.T) {
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
				forget(m)
				expect(t, "after Forget", idOf(m, opaqueToken), "3")
				time.Sleep(time.Second)
				expect(t, "when the refresh has landed", idOf(m, opaqueToken), "3")
				expect(t, "lookups", o.calls.Load(), 3)
			})
		})
	}
}

// TestFlightRefreshBelongsToNobody: the hit that starts a refresh does not wait
// for it and does not end it.
func TestFlightRefreshBelongsToNobody(t *testing.T) {
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

// TestFlightRefreshOnce: a crowd of hits starts one refresh, and when that
// brings nothing there is no other: the entry serves to its end.
func TestFlightRefreshOnce(t *testing.T) {
	for name, fault := range map[string]func() (*phantom.Introspection, error){
		"C230 outage":         func() (*phantom.Introspection, error) { return nil, errors.New("outage") },
		"C230 unusable":       func() (*phantom.Introspection, error) { return nil, phantom.ErrUpstream },
		"C230 not a JWT":      func() (*phantom.Introspection, error) { return &phantom.Introspection{Active: true, JWT: "x"}, nil },
		"C230 nothing at all": func() (*phantom.Introspection, error) { return nil, nil },
		"C208 panic":          func() (*phantom.Introspection, error) { panic("x") },
		"C209 Goexit": func() (*phantom.Introspection, error) {
			runtime.Goexit()
			return nil, nil
		},
		"deaf": func() (*phantom.Introspection, error) {
			time.Sleep(time.Minute)
			return nil, errors.New("late")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return fault() }}
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

// TestFlightRefreshVerdict: a refresh that finds the token inactive ends the
// entry, and hits are served until then.
func TestFlightRefreshVerdict(t *testing.T) {
	for name, answer := range map[string]*phantom.Introspection{
		"inactive":    inactive,
		"another aud": unsigned(map[string]any{"aud": "https://elsewhere.test"}),
		"bound":       unsigned(map[string]any{"cnf": map[string]any{"jkt": "x"}}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					time.Sleep(50 * time.Millisecond)
					return answer, nil
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

// TestFlightStaleAndVerdict: whoever waits for the outage to be confirmed gets
// the old entry only if nothing was learned meanwhile.
func TestFlightStaleAndVerdict(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(o *oracle, m *phantom.Middleware)
		want      string
	}{
		"nothing":       {func(*oracle, *phantom.Middleware) {}, "1"},
		"not an outage": {func(*oracle, *phantom.Middleware) {}, code502A},
		"Forget":        {func(_ *oracle, m *phantom.Middleware) { m.Forget(opaqueToken) }, code503A},
		"Purge":         {func(_ *oracle, m *phantom.Middleware) { m.Purge() }, code503A},
		"Forget, then inactive": {func(o *oracle, m *phantom.Middleware) {
			m.Forget(opaqueToken)
			o.ask = func(context.Context, string) (*phantom.Introspection, error) { return inactive, nil }
			idOf(m, opaqueToken)
		}, code503A},
		"Forget, then active": {func(o *oracle, m *phantom.Middleware) {
			m.Forget(opaqueToken)
			o.ask = func(context.Context, string) (*phantom.Introspection, error) { return says(3) }
			idOf(m, opaqueToken)
		}, "3"},
	} {
		t.Run(name, func(t *testing.T) {
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

// TestFlightKeyRotation: what was verified with a key that has left the key set
// is not served, whether it is remembered, stale, or still on its way.
func TestFlightKeyRotation(t *testing.T) {
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
		m := as.middleware(phantom.WithMaxTTL(20*time.Second), phantom.WithStaleIfError(time.Hour), phantom.WithRefreshAhead(0))
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

// TestFlightKeepsValues: the lookup sees the values of the context that began
// it, for tracing, whatever becomes of that context.
func TestFlightKeepsValues(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		var seen []any
		o := &oracle{}
		o.ask = func(ctx context.Context, _ string) (*phantom.Introspection, error) {
			time.Sleep(100 * time.Millisecond)
			seen = append(seen, ctx.Value(key{}), ctx.Err())
			_, limited := ctx.Deadline()
			seen = append(seen, limited)
			return says(1)
		}
		m := o.middleware(t)
		ctx, leave := context.WithCancel(context.WithValue(t.Context(), key{}, "trace"))
		first := later(func() error { _, err := m.Verify(ctx, opaqueToken); return err })
		synctest.Wait()
		second := later(func() string { return idOf(m, opaqueToken) })
		leave()
		if err := first(); !errors.Is(err, phantom.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("leader: %v", err)
		}
		expect(t, "follower", second(), "1")
		if fmt.Sprint(seen) != "[trace <nil> true]" {
			t.Errorf("the lookup saw %v", seen)
		}
	})
}

// TestFlightKeepsNoRequest: while a lookup goes on whose caller has left, and
// when its result is remembered, nothing of the caller's request is kept.
func TestFlightKeepsNoRequest(t *testing.T) {
	proceed := make(chan struct{})
	o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
		<-proceed
		return says(1)
	}}
	m := o.middleware(t, phantom.WithTimeout(time.Minute))
	leave := leaveDuringLookup(m, o)
	if kept := leave.kept(); kept != "" {
		t.Errorf("kept during the lookup: %s", kept)
	}
	close(proceed)
	served := leaveAfterLookup(m)
	if kept := served.kept(); kept != "" {
		t.Errorf("kept after the lookup: %s", kept)
	}
	expect(t, "lookups", o.calls.Load(), 1)
	runtime.KeepAlive(m)
}

// remains are weak pointers to the parts of a request.
type remains struct {
	request weak.Pointer[http.Request]
	header  weak.Pointer[string] // a value in its header map
	body    weak.Pointer[bytesBody]
	writer  weak.Pointer[plainWriter]
}

type bytesBody struct {
	io.Reader
	_ [1 << 10]byte // too large for the allocator of tiny objects
}

func (*bytesBody) Close() error { return nil }

type plainWriter struct {
	http.ResponseWriter
	status int
}

func (*plainWriter) Header() http.Header { return http.Header{} }

func (w *plainWriter) WriteHeader(status int) { w.status = status }

func (*plainWriter) Write(p []byte) (int, error) { return len(p), nil }

// kept names what the garbage collector could not free.
func (r remains) kept() string {
	var kept string
	for range 100 {
		runtime.GC()
		kept = ""
		for name, alive := range map[string]bool{
			"request ": r.request.Value() != nil,
			"header ":  r.header.Value() != nil,
			"body ":    r.body.Value() != nil,
			"writer ":  r.writer.Value() != nil,
		} {
			if alive {
				kept += name
			}
		}
		if kept == "" {
			break
		}
		runtime.Gosched()
	}
	return kept
}

//go:noinline
func sendOff(m *phantom.Middleware, ctx context.Context) remains { //nolint:revive // a test's context comes where it is used
	body, w, values := &bytesBody{Reader: strings.NewReader("x")}, &plainWriter{}, []string{strings.Repeat("x", 100)}
	r := get("Bearer " + strings.Clone(opaqueToken)).WithContext(ctx)
	r.Body, r.Header["X-Marker"] = body, values
	m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
	return remains{weak.Make(r), weak.Make(&values[0]), weak.Make(body), weak.Make(w)}
}

func leaveDuringLookup(m *phantom.Middleware, o *oracle) remains {
	ctx, leave := context.WithCancel(context.Background())
	sent := later(func() remains { return sendOff(m, ctx) })
	for o.calls.Load() == 0 {
		runtime.Gosched()
	}
	leave()
	return sent()
}

func leaveAfterLookup(m *phantom.Middleware) remains { return sendOff(m, context.Background()) }
