package conformance_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A mounting is a way to put a Middleware around a handler.
type mounting struct {
	name string
	wrap func(http.Handler) http.Handler
}

// mountings are the four ways. The scope that one requires is in the fixture's
// token.
func mountings(m *phantom.Middleware) []mounting {
	return []mounting{
		{"Handler", m.Handler}, {"Optional", m.Optional},
		{"Require", m.Require()}, {"RequireScopes", m.RequireScopes("read")},
	}
}

// The handlers of one Middleware can be put around each other in any order. No
// order lets a request pass unchecked, and none asks the server twice.
func TestMounting(t *testing.T) {
	type wrap = func(http.Handler) http.Handler
	for _, tc := range []struct {
		name      string
		wrap      func(m *phantom.Middleware) wrap
		anonymous string // the outcome without a token
		read      string // with the scope "read" only
		both      string // with "read admin"
	}{
		{"Handler", func(m *phantom.Middleware) wrap { return m.Handler }, code401N, codeOK, codeOK},
		{"Require nothing", func(m *phantom.Middleware) wrap { return m.Require() }, code401N, codeOK, codeOK},
		{"RequireScopes alone", func(m *phantom.Middleware) wrap { return m.RequireScopes("admin") }, code401N, code403S, codeOK},
		{"RequireScopes inside Handler", func(m *phantom.Middleware) wrap {
			return func(next http.Handler) http.Handler { return m.Handler(m.RequireScopes("admin")(next)) }
		}, code401N, code403S, codeOK},
		{"RequireScopes outside Handler", func(m *phantom.Middleware) wrap {
			return func(next http.Handler) http.Handler { return m.RequireScopes("admin")(m.Handler(next)) }
		}, code401N, code403S, codeOK},
		{"RequireScopes twice", func(m *phantom.Middleware) wrap {
			return func(next http.Handler) http.Handler {
				return m.RequireScopes("read")(m.RequireScopes("admin")(next))
			}
		}, code401N, code403S, codeOK},
		{"Handler twice", func(m *phantom.Middleware) wrap {
			return func(next http.Handler) http.Handler { return m.Handler(m.Handler(next)) }
		}, code401N, codeOK, codeOK},
		{"Optional", func(m *phantom.Middleware) wrap { return m.Optional }, codeOK, codeOK, codeOK},
		{"RequireScopes inside Optional", func(m *phantom.Middleware) wrap {
			return func(next http.Handler) http.Handler { return m.Optional(m.RequireScopes("admin")(next)) }
		}, code401N, code403S, codeOK},
		{"RequireScopes outside Optional", func(m *phantom.Middleware) wrap {
			return func(next http.Handler) http.Handler { return m.RequireScopes("admin")(m.Optional(next)) }
		}, code401N, code403S, codeOK},
		{"Handler inside Optional", func(m *phantom.Middleware) wrap {
			return func(next http.Handler) http.Handler { return m.Optional(m.Handler(next)) }
		}, code401N, codeOK, codeOK},
		{"Optional inside Handler", func(m *phantom.Middleware) wrap {
			return func(next http.Handler) http.Handler { return m.Handler(m.Optional(next)) }
		}, code401N, codeOK, codeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = func(w http.ResponseWriter, r *http.Request) {
				scope, ok := strings.CutPrefix(r.Form.Get("token"), "scope-")
				if !ok {
					answer(204, "", "")(w, r)
					return
				}
				answerJWT(mint("ES256", claims(map[string]any{"scope": strings.ReplaceAll(scope, "-", " ")})))(w, r)
			}
			m := as.middleware(phantom.WithCacheSize(0))
			for _, in := range []struct {
				authorization []string
				want          string
				calls         int64
			}{
				{nil, tc.anonymous, 0},
				{[]string{"Basic Zm9v"}, code401N, 0},
				{[]string{"Bearer a b"}, code400R, 0},
				{[]string{"Bearer unknown"}, code401T, 1},
				{[]string{"Bearer scope-read"}, tc.read, 1},
				{[]string{"Bearer scope-read-admin"}, tc.both, 1},
			} {
				before := as.calls.Load()
				if got := as.send(tc.wrap(m), get(in.authorization...)); got != in.want {
					t.Errorf("%q: %s, want %s", in.authorization, got, in.want)
				}
				if n := as.calls.Load() - before; n != in.calls {
					t.Errorf("%q: the server was asked %d times, want %d", in.authorization, n, in.calls)
				}
			}
		})
	}
}

// A Middleware believes only the tokens that it verified itself. One that
// another Middleware put into the context is no token to it.
func TestTwoMiddlewares(t *testing.T) {
	outerAS, innerAS := newAS(t), newAS(t)
	outerJWT := mint("ES256", claims(map[string]any{"sub": "outer"}))
	innerJWT := mint("ES256", claims(map[string]any{"sub": "inner", "scope": "inner"}))
	outerAS.introspect = answerJWT(outerJWT)
	innerAS.introspect = func(w http.ResponseWriter, r *http.Request) {
		if r.Form.Get("token") == outerJWT {
			answerJWT(innerJWT)(w, r)
			return
		}
		answer(204, "", "")(w, r)
	}
	outer, inner := outerAS.middleware(), innerAS.middleware()

	next := &spy{}
	rec := serve(outer.Handler(inner.Handler(next)), get("Bearer opaque-token"))
	if got := innerAS.outcome(rec, next, 0); got != codeOK {
		t.Fatalf("%s", got)
	}
	if tok := next.tokens[0]; tok.Subject() != "inner" || tok.JWT() != innerJWT {
		t.Errorf("next got the token of %s", tok.Subject())
	}
	if got := innerAS.asked(); !slices.Equal(got, []string{outerJWT}) {
		t.Errorf("the inner server was asked about %d tokens", len(got))
	}

	// The same order with a scope that only the outer token has.
	rec = serve(outer.Handler(inner.RequireScopes("read")(next)), get("Bearer opaque-token"))
	if got := innerAS.outcome(rec, next, 1); got != code403S {
		t.Errorf("%s", got)
	}
	// Around the other way the inner server has never heard of the token.
	rec = serve(inner.Handler(outer.Handler(next)), get("Bearer opaque-token"))
	if got := innerAS.outcome(rec, next, 1); got != code401T {
		t.Errorf("%s", got)
	}
	// A token in the context that is not of this Middleware is no token.
	foreign := phantom.NewContext(t.Context(), must(outer.Verify(t.Context(), "opaque-token")))
	for _, mounting := range mountings(inner) {
		want := code401N
		if mounting.name == "Optional" {
			want = codeOK // as an anonymous request
		}
		if got := innerAS.send(mounting.wrap, get().WithContext(foreign)); got != want {
			t.Errorf("%s: %s", mounting.name, got)
		}
	}
	// Nor is the zero Token, which is the result of no lookup.
	zero := phantom.NewContext(t.Context(), &phantom.Token{})
	if got := innerAS.send(inner.Handler, get().WithContext(zero)); got != code401N {
		t.Errorf("zero Token: %s", got)
	}
}

// A connection may live longer than its token. Once the token has expired, an
// inner handler refuses it.
func TestInheritedTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware()
		ctx := phantom.NewContext(t.Context(), must(m.Verify(t.Context(), "opaque-token")))
		time.Sleep(310*time.Second - time.Nanosecond)
		if got := as.send(m.RequireScopes("read"), get().WithContext(ctx)); got != codeOK {
			t.Errorf("before exp and leeway: %s", got)
		}
		time.Sleep(time.Nanosecond)
		for _, mounting := range []mounting{{"Handler", m.Handler}, {"RequireScopes", m.RequireScopes("read")}} {
			if got := as.send(mounting.wrap, get().WithContext(ctx)); got != code401T {
				t.Errorf("%s after exp and leeway: %s", mounting.name, got)
			}
		}
	})
}

// A request made by hand may have no header map at all. A verified token in its
// context lets it in.
func TestInheritedTokenWithoutHeader(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	tok := must(m.Verify(t.Context(), "opaque-token"))
	r := get().WithContext(phantom.NewContext(t.Context(), tok))
	r.Header = nil
	next := &spy{}
	if got := as.outcome(serve(m.Handler(next), r), next, 0); got != codeOK || r.Header != nil {
		t.Errorf("%s, header %v", got, r.Header)
	}
	tok.SetAuthHeader(r)
	if got := r.Header["Authorization"]; !slices.Equal(got, []string{"Bearer " + tok.JWT()}) {
		t.Errorf("Authorization %q", got)
	}
}

// A Middleware that New did not make protects nothing, so it wraps nothing.
func TestMiddlewareThatNewDidNotMake(t *testing.T) {
	var reached atomic.Bool
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) })
	for _, tc := range []struct {
		name string
		m    *phantom.Middleware
	}{{"nil", nil}, {"zero", &phantom.Middleware{}}} {
		mustPanic(t, tc.name+".Handler", func() { tc.m.Handler(next) })
		mustPanic(t, tc.name+".Optional", func() { tc.m.Optional(next) })
		mustPanic(t, tc.name+".Require", func() { tc.m.Require()(next) })
		mustPanic(t, tc.name+".RequireScopes", func() { tc.m.RequireScopes("read")(next) })
		if s := tc.m.Stats(); s.Hits+s.Misses != 0 || s.Rejected != nil {
			t.Errorf("%s: Stats %+v", tc.name, s)
		}
		for _, call := range silentCalls(t.Context(), tc.m, get("Bearer opaque-token"), "opaque-token") {
			if got := codeOf(call.do()); got != code500I {
				t.Errorf("%s.%s: %s", tc.name, call.name, got)
			}
		}
	}
	if reached.Load() {
		t.Error("next ran")
	}
}

// A wrapper of no handler panics where it is written.
func TestNilNext(t *testing.T) {
	m := newAS(t).middleware()
	for _, mounting := range mountings(m) {
		mustPanic(t, mounting.name+"(nil)", func() { mounting.wrap(nil) })
	}
}
