package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

const scopeChallenge = `Bearer realm="api", error="insufficient_scope"`

func TestScopeRequirements(t *testing.T) {
	for _, c := range []struct {
		name        string
		scope       any // of the token: "read write"
		requirement phantom.Requirement
		want        string // the challenge; empty: let through
	}{
		{"both", "read write", phantom.AllScopes("write", "read"), ""},
		{"one is missing", "read write", phantom.AllScopes("read", "admin"), scopeChallenge + `, scope="admin"`},
		{"both are missing", "other", phantom.AllScopes("read", "admin"), scopeChallenge + `, scope="read admin"`},
		{"any, the first", "read", phantom.AnyScope("read", "admin"), ""},
		{"any, the last", "admin", phantom.AnyScope("read", "admin"), ""},
		{"any, neither", "write", phantom.AnyScope("read", "admin"), scopeChallenge + `, scope="read admin"`},
		{"any, no scope at all", nil, phantom.AnyScope("read"), scopeChallenge + `, scope="read"`},
		{"a part of one", "orders:read:all", phantom.AllScopes("orders:read"), scopeChallenge + `, scope="orders:read"`},
		{"a URL", "https://rs.test/orders.read", phantom.AllScopes("https://rs.test/orders.read"), ""},
		{"all visible characters", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", phantom.AllScopes("!#$%&'()*+,-./:;<=>?@[]^_`{|}~"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(mint("ES256", claims(map[string]any{"scope": c.scope})))
			m := as.middleware()
			for range 2 { // a miss and a hit
				next := &spy{}
				rec := serve(m.Require(c.requirement)(next), get("Bearer opaque-token"))
				got, want := as.outcome(rec, next, 0), codeOK
				if c.want != "" {
					want = code403S
				}
				if got != want || rec.Header().Get("Www-Authenticate") != c.want {
					t.Errorf("%s %q, want %q", got, rec.Header().Get("Www-Authenticate"), c.want)
				}
			}
			if n := as.calls.Load(); n != 1 {
				t.Errorf("the server was asked %d times", n)
			}
		})
	}
}

// mustPanic reports a call that returns.
func mustPanic(t *testing.T, name string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s does not panic", name)
		}
	}()
	f()
}

func TestScopesThatMeanNothing(t *testing.T) {
	m := newAS(t).middleware()
	for _, scopes := range [][]string{nil, {}, {""}, {"read", ""}, {"read write"}, {"read\n"}, {`a"b`}, {`a\b`}, {"ö"}, {"\x7f"}} {
		mustPanic(t, fmt.Sprintf("AllScopes%q", scopes), func() { phantom.AllScopes(scopes...) })
		mustPanic(t, fmt.Sprintf("AnyScope%q", scopes), func() { phantom.AnyScope(scopes...) })
		mustPanic(t, fmt.Sprintf("RequireScopes%q", scopes), func() { m.RequireScopes(scopes...) })
	}
	mustPanic(t, "Require(nil)", func() { m.Require(nil) })
	mustPanic(t, "Require(f, nil)", func() { m.Require(phantom.AllScopes("read"), nil) })
}

// What was required is what counts, not what the caller's slice holds later.
func TestScopesAreCopied(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	scopes := []string{"admin", "root"}
	requirements := []phantom.Requirement{phantom.AllScopes(scopes...)}
	all, anyOf, route := phantom.AllScopes(scopes...), phantom.AnyScope(scopes...), m.RequireScopes(scopes...)
	list, option := m.Require(requirements...), phantom.WithRequirements(requirements...)
	scopes[0], scopes[1], requirements[0] = "read", "write", func(*phantom.Token) error { return nil }
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"AllScopes": m.Require(all), "AnyScope": m.Require(anyOf), "RequireScopes": route, "Require": list,
		"WithRequirements": as.middleware(option).Handler,
	} {
		if got := as.send(wrap, get("Bearer opaque-token")); got != code403S {
			t.Errorf("%s: %s", name, got)
		}
	}
	// Nor does an error give the requirement's own slice away.
	for _, requirement := range []phantom.Requirement{all, anyOf} {
		tok := must(m.Verify(t.Context(), "opaque-token"))
		for range 2 {
			var e *phantom.Error
			if err := requirement(tok); !errors.As(err, &e) || !slices.Equal(e.Scopes, []string{"admin", "root"}) {
				t.Fatalf("%v", err)
			}
			e.Scopes[0] = "read"
		}
	}
}

// TestMounting has the orders in which the handlers of one Middleware can be
// put around each other. None lets a request pass unchecked, and none asks
// twice: without a cache each authentication is a call.
func TestMounting(t *testing.T) {
	type wrap = func(http.Handler) http.Handler
	for _, c := range []struct {
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
		t.Run(c.name, func(t *testing.T) {
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
				{nil, c.anonymous, 0},
				{[]string{"Basic Zm9v"}, code401N, 0},
				{[]string{"Bearer a b"}, code400R, 0},
				{[]string{"Bearer unknown"}, code401T, 1},
				{[]string{"Bearer scope-read"}, c.read, 1},
				{[]string{"Bearer scope-read-admin"}, c.both, 1},
			} {
				before := as.calls.Load()
				if got := as.send(c.wrap(m), get(in.authorization...)); got != in.want {
					t.Errorf("%q: %s, want %s", in.authorization, got, in.want)
				}
				if n := as.calls.Load() - before; n != in.calls {
					t.Errorf("%q: the server was asked %d times, want %d", in.authorization, n, in.calls)
				}
			}
		})
	}
}

// Another Middleware's token is nobody's: each believes only what it verified.
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
	if got := innerAS.outcome(serve(outer.Handler(inner.Handler(next)), get("Bearer opaque-token")), next, 0); got != codeOK {
		t.Fatalf("%s", got)
	}
	if tok := next.tokens[0]; tok.Subject() != "inner" || tok.JWT() != innerJWT {
		t.Errorf("next got the token of %s", tok.Subject())
	}
	if got := innerAS.asked(); !slices.Equal(got, []string{outerJWT}) {
		t.Errorf("the inner server was asked about %d tokens", len(got))
	}

	// The same order with a scope that only the outer token has.
	rec := serve(outer.Handler(inner.RequireScopes("read")(next)), get("Bearer opaque-token"))
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
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"Handler": inner.Handler, "Require": inner.Require(), "RequireScopes": inner.RequireScopes("read"),
	} {
		if got := innerAS.send(wrap, get().WithContext(foreign)); got != code401N {
			t.Errorf("%s: %s", name, got)
		}
	}
	// Nor is the zero Token, which nobody verified.
	zero := phantom.NewContext(t.Context(), &phantom.Token{})
	if got := innerAS.send(inner.Handler, get().WithContext(zero)); got != code401N {
		t.Errorf("zero Token: %s", got)
	}
}

// An inner handler of a connection that lives longer than its token.
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
		for name, wrap := range map[string]func(http.Handler) http.Handler{
			"Handler": m.Handler, "RequireScopes": m.RequireScopes("read"),
		} {
			if got := as.send(wrap, get().WithContext(ctx)); got != code401T {
				t.Errorf("%s after exp and leeway: %s", name, got)
			}
		}
	})
}

// A request made by hand may have no header map at all.
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

func TestRequirementsRunOnEveryRequest(t *testing.T) {
	as := newAS(t)
	var order []string
	allow := true
	note := func(name string) phantom.Requirement {
		return func(tok *phantom.Token) error {
			order = append(order, name)
			if tok.Subject() != "alice" {
				t.Errorf("%s got the token of %q", name, tok.Subject())
			}
			if !allow && name == "option 2" {
				return errors.New("no")
			}
			return nil
		}
	}
	m := as.middleware(phantom.WithRequirements(note("option 1")), phantom.WithRequirements(note("option 2")))
	route := m.Require(note("route 1"), note("route 2"))
	all := []string{"option 1", "option 2", "route 1", "route 2"}
	options := all[:2]
	for _, c := range []struct {
		name string
		do   func() string
		want []string
	}{
		{"a miss", func() string { return as.send(route, get("Bearer opaque-token")) }, all},
		{"a hit", func() string { return as.send(route, get("Bearer opaque-token")) }, all},
		{"Handler", func() string { return as.send(m.Handler, get("Bearer opaque-token")) }, options},
		{"Optional", func() string { return as.send(m.Optional, get("Bearer opaque-token")) }, options},
		{"Verify", func() string { return codeOf(m.Verify(t.Context(), "opaque-token")) }, options},
		{"Authenticate", func() string { return codeOf(m.Authenticate(get("Bearer opaque-token"))) }, options},
	} {
		for _, allow = range []bool{true, false} {
			order = nil
			want, ran := codeOK, c.want
			if !allow {
				want, ran = code403S, options
			}
			if got := c.do(); got != want || !slices.Equal(order, ran) {
				t.Errorf("%s, allowed: %v: %s after %q", c.name, allow, got, order)
			}
		}
	}
	order = nil
	if got := as.send(m.Optional, get()); got != codeOK || order != nil {
		t.Errorf("anonymous: %s after %q", got, order)
	}
	if n := as.calls.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

// codeOf names the outcome of a call that writes nothing.
func codeOf(tok *phantom.Token, err error) string {
	var e *phantom.Error
	switch {
	case err == nil && tok != nil:
		return codeOK
	case tok != nil || !errors.As(err, &e):
		return fmt.Sprintf("token %v, error %v", tok, err)
	case errors.Is(err, phantom.ErrNoToken):
		return code401N
	}
	return map[int]string{400: code400R, 401: code401T, 403: code403S, 500: code500I, 502: code502A, 503: code503A}[e.StatusCode()]
}

// TestErrors has the errors of Verify and Authenticate, which are those that
// requests are answered with.
func TestErrors(t *testing.T) {
	sentinels := map[string]error{
		code400R: phantom.ErrInvalidRequest, code401N: phantom.ErrNoToken, code401T: phantom.ErrInvalidToken,
		code403S: phantom.ErrInsufficientScope, code502A: phantom.ErrUpstream, code503A: phantom.ErrUnavailable, code500I: nil,
	}
	for _, s := range rejectedSetups {
		t.Run(s.code, func(t *testing.T) {
			as := newAS(t)
			as.secret("opaque-token")
			jwt := as.secret(mint("ES256", claims(nil)))
			if as.introspect = s.introspect; as.introspect == nil {
				as.introspect = answerJWT(jwt)
			}
			m := as.middleware(s.options...)
			r := get(s.authorization...)
			before := snapshot(r)
			token := ""
			if len(s.authorization) > 0 {
				token = strings.TrimPrefix(s.authorization[0], "Bearer ")
			}
			for name, call := range map[string]func() (*phantom.Token, error){
				"Authenticate": func() (*phantom.Token, error) { return m.Authenticate(r) },
				"Verify":       func() (*phantom.Token, error) { return m.Verify(t.Context(), token) },
			} {
				tok, err := call()
				if got := codeOf(tok, err); got != s.code {
					t.Errorf("%s: %s", name, got)
				}
				for code, sentinel := range sentinels {
					if sentinel != nil && errors.Is(err, sentinel) != (code == s.code) {
						t.Errorf("%s: errors.Is(%v, %v) is wrong", name, err, sentinel)
					}
				}
				if found := as.leaks(fmt.Sprintf("%v %+v %#v", err, err, err)); found != nil {
					t.Errorf("%s: the error shows %q", name, found)
				}
			}
			if after := snapshot(r); after != before {
				t.Errorf("the request was changed: %s", after)
			}
		})
	}
}

func TestVerifySyntax(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	for token, want := range map[string]string{
		"":                 code401N,
		" ":                code400R,
		"a b":              code400R,
		"Bearer token":     code400R,
		"token\n":          code400R,
		"=":                code400R,
		longestToken + "t": code400R,
	} {
		if got := codeOf(m.Verify(t.Context(), token)); got != want {
			t.Errorf("%.20q: %s, want %s", token, got, want)
		}
	}
	if n := as.calls.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
	if got := codeOf(m.Verify(t.Context(), longestToken)); got != codeOK {
		t.Errorf("the longest token: %s", got)
	}
}

// TestRequirementErrors has what a requirement can return, and the whole
// answer that comes of it.
func TestRequirementErrors(t *testing.T) {
	const jwtText = "THE JWT" // stands for the token's own JWT in an error
	stepUp := &phantom.Error{
		Status: 401, Code: "insufficient_user_authentication",
		Params: map[string]string{"acr_values": "urn:acr:high urn:acr:mid", "max_age": "300"},
	}
	const stepUpChallenge = `Bearer realm="api", error="insufficient_user_authentication", acr_values="urn:acr:high urn:acr:mid", max_age="300"`
	for _, c := range []struct {
		name      string
		err       error
		status    int
		challenge string
		retry     string
	}{
		{"any error", errors.New(jwtText), 403, scopeChallenge, ""},
		{"empty Error", &phantom.Error{}, 403, scopeChallenge, ""},
		{"scopes", &phantom.Error{Reason: phantom.ReasonScope, Scopes: []string{"b", "a"}}, 403, scopeChallenge + `, scope="b a"`, ""},
		{"scopes that cannot be sent", &phantom.Error{Scopes: []string{"a b", "", `x"`, "ö", "a\r\nX: y", "ok"}}, 403, scopeChallenge + `, scope="ok"`, ""},
		{"no scope that can be sent", &phantom.Error{Scopes: []string{"a b"}}, 403, scopeChallenge, ""},
		{"step-up", stepUp, 401, stepUpChallenge, ""},
		{"step-up, wrapped", fmt.Errorf("%s: %w", jwtText, stepUp), 401, stepUpChallenge, ""},
		{"step-up, joined", errors.Join(errors.New(jwtText), stepUp), 401, stepUpChallenge, ""},
		{"401", &phantom.Error{Reason: phantom.ReasonScope, Status: 401}, 401, scopeChallenge, ""},
		{"403 in words of its own", &phantom.Error{Status: 403, Code: "too_young"}, 403, `Bearer realm="api", error="too_young"`, ""},
		{"reason of its own", &phantom.Error{Reason: "step_up", Detail: "acr"}, 403, scopeChallenge, ""},
		{"status 200", &phantom.Error{Status: 200}, 403, scopeChallenge, ""},
		{"status 302", &phantom.Error{Status: 302}, 403, scopeChallenge, ""},
		{"status 418", &phantom.Error{Status: 418}, 403, scopeChallenge, ""},
		{"status 500", &phantom.Error{Status: 500}, 403, scopeChallenge, ""},
		{"status -1", &phantom.Error{Status: -1}, 403, scopeChallenge, ""},
		{"status 99999", &phantom.Error{Status: 99999}, 403, scopeChallenge, ""},
		{"parameters that are ours", &phantom.Error{Params: map[string]string{
			"realm": "x", "Realm": "x", "error": "x", "ERROR_DESCRIPTION": "x", "scope": "x", "Resource_Metadata": "x", "max_age": "1",
		}}, 403, scopeChallenge + `, max_age="1"`, ""},
		{"parameters that cannot be sent", &phantom.Error{Params: map[string]string{
			"": "x", "a b": "x", "a\r\nX": "x", `a"`: "x", "a=b": "x", "ö": "x",
			"lf": "x\nX: y", "cr": "x\ry", "nul": "\x00", "tab": "\t", "utf8": "ö", "del": "\x7f", "fine": "",
		}}, 403, scopeChallenge + `, fine=""`, ""},
		{"parameters to be escaped", &phantom.Error{Params: map[string]string{"a": `say "hi"`, "b": `c:\d`, "c": `\"`}}, 403,
			scopeChallenge + `, a="say \"hi\"", b="c:\\d", c="\\\""`, ""},
		{"one parameter in two cases", &phantom.Error{Params: map[string]string{"Max_Age": "1", "max_age": "2"}}, 403, scopeChallenge + `, max_age="1"`, ""},
		{"code that cannot be sent", &phantom.Error{Code: "x\r\nSet-Cookie: a=b"}, 403, `Bearer realm="api"`, ""},
		{"code with a quote", &phantom.Error{Code: `a"b`}, 403, `Bearer realm="api"`, ""},
		{"ErrNoToken", phantom.ErrNoToken, 401, challenges[code401N], ""},
		{"ErrInvalidRequest", phantom.ErrInvalidRequest, 400, challenges[code400R], ""},
		{"ErrInvalidToken", fmt.Errorf("%s: %w", jwtText, phantom.ErrInvalidToken), 401, challenges[code401T], ""},
		{"ErrInsufficientScope", phantom.ErrInsufficientScope, 403, scopeChallenge, ""},
		{"ErrUpstream", fmt.Errorf("%s: %w", jwtText, phantom.ErrUpstream), 502, "", ""},
		{"ErrUnavailable", fmt.Errorf("%s: %w", jwtText, phantom.ErrUnavailable), 503, "", "1"},
		{"ReasonInternal", &phantom.Error{Reason: phantom.ReasonInternal}, 500, "", ""},
		{"no time", &phantom.Error{Reason: phantom.ReasonUnavailable}, 503, "", "1"},
		{"negative time", &phantom.Error{Reason: phantom.ReasonUnavailable, RetryAfter: -time.Hour}, 503, "", "1"},
		{"part of a second", &phantom.Error{Reason: phantom.ReasonUnavailable, RetryAfter: 1200 * time.Millisecond}, 503, "", "2"},
		{"hours", &phantom.Error{Reason: phantom.ReasonUnavailable, RetryAfter: 1<<63 - 1}, 503, "", "30"},
		{"typed nil", (*phantom.Error)(nil), 500, "", ""},
		{"context", context.DeadlineExceeded, 403, scopeChallenge, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			as.secret(jwtText)
			next := &spy{}
			h := as.middleware().Require(func(*phantom.Token) error { return c.err })(next)
			for range 20 { // the order of a map must not show
				rec := serve(h, get("Bearer opaque-token"))
				want := http.Header{
					"Cache-Control": {"no-store"}, "Content-Type": {"application/problem+json"},
					"Content-Length": {fmt.Sprint(rec.Body.Len())},
				}
				if c.challenge != "" {
					want["Www-Authenticate"] = []string{c.challenge}
				}
				if c.retry != "" {
					want["Retry-After"] = []string{c.retry}
				}
				if rec.Code != c.status || !reflect.DeepEqual(rec.Header(), want) {
					t.Fatalf("got  %d %v\nwant %d %v", rec.Code, rec.Header(), c.status, want)
				}
				if found := as.leaks(rec.Body.String()); found != nil {
					t.Errorf("the body shows %q", found)
				}
			}
			if next.calls() != 0 {
				t.Error("next ran")
			}
		})
	}
}

// One error value may serve all requests; each gets a copy.
func TestRequirementErrorIsShared(t *testing.T) {
	as := newAS(t)
	shared := &phantom.Error{Status: 401, Code: "step_up", Params: map[string]string{"max_age": "1"}, Scopes: []string{"a"}}
	before := fmt.Sprint(*shared)
	m := as.middleware(
		phantom.WithRequirements(func(*phantom.Token) error { return shared }),
		phantom.WithErrorHandler(func(_ http.ResponseWriter, _ *http.Request, e *phantom.Error) {
			if e == shared {
				t.Error("the handler got the requirement's own error")
			}
			e.Reason, e.Status, e.Code, e.Params, e.Scopes = phantom.ReasonInternal, 403, "", nil, nil
		}))
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			next := &spy{}
			rec := serve(m.Handler(next), get("Bearer opaque-token"))
			if got := rec.Header().Get("Www-Authenticate"); rec.Code != 401 || got != `Bearer realm="api", error="step_up", scope="a", max_age="1"` {
				t.Errorf("%d %q", rec.Code, got)
			}
			if _, err := m.Verify(t.Context(), "opaque-token"); err == error(shared) {
				t.Error("Verify returned the requirement's own error")
			}
		})
	}
	group.Wait()
	if after := fmt.Sprint(*shared); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

// TestHooksThatPanic has a panic in each hook that runs while a request is
// judged. The value may hold anything, so it is not shown.
func TestHooksThatPanic(t *testing.T) {
	values := map[string]func(){
		"a string":        func() { panic("a secret value") },
		"an error":        func() { panic(errors.New("a secret value")) },
		"ErrAbort":        func() { panic(http.ErrAbortHandler) },
		"nil":             func() { panic(nil) },
		"a runtime panic": func() { var v any = "a secret value"; _ = v.(int) },
	}
	for what, boom := range values {
		for hook, options := range map[string][]phantom.Option{
			"requirement": {phantom.WithRequirements(func(*phantom.Token) error { boom(); return nil })},
			"extractor":   {phantom.WithTokenExtractor(func(*http.Request) (string, error) { boom(); return "", nil })},
			"client":      {phantom.WithHTTPClient(&http.Client{Transport: transportHook(func(*http.Request) (*http.Response, error) { boom(); return nil, nil })})},
			"key set":     {phantom.WithKeySet(keySetHook(func(context.Context, string) ([]byte, error) { boom(); return nil, nil }))},
			"client auth": {phantom.WithClientAuth(phantom.BearerToken(func(context.Context) (string, error) { boom(); return "", nil }))},
		} {
			t.Run(hook+" with "+what, func(t *testing.T) {
				as := newAS(t)
				as.secret("a secret value")
				opts := as.options(options...)
				if hook == "key set" {
					opts = slices.Delete(opts, 3, 4) // the URL of the key set
				}
				m := must(phantom.New(opts...))
				for name, wrap := range map[string]func(http.Handler) http.Handler{
					"Handler": m.Handler, "Optional": m.Optional, "RequireScopes": m.RequireScopes("read"),
				} {
					next := &spy{}
					rec := serve(wrap(next), get("Bearer opaque-token"))
					delete(rec.Header(), "Vary")
					checkRejection(t, rec, code500I, false)
					if next.calls() != 0 {
						t.Errorf("%s: next ran", name)
					}
				}
				for name, err := range map[string]error{
					"Authenticate": errorOf(m.Authenticate(get("Bearer opaque-token"))),
					"Verify":       errorOf(m.Verify(t.Context(), "opaque-token")),
				} {
					if name == "Verify" && hook == "extractor" {
						continue
					}
					var e *phantom.Error
					if !errors.As(err, &e) || e.StatusCode() != 500 || e.Reason != phantom.ReasonInternal || as.leaks(err.Error()) != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
				if log := as.logs.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "reason=internal") ||
					!strings.Contains(log, "requirement_test.go") {
					t.Errorf("the log does not tell where it happened: %s", log)
				}
			})
		}
	}
}

func errorOf[T any](_ T, err error) error { return err }

type transportHook func(*http.Request) (*http.Response, error)

func (f transportHook) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type keySetHook func(context.Context, string) ([]byte, error)

func (f keySetHook) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	return f(ctx, jwt)
}

// A requirement that ends its goroutine ends the request with it, unserved.
func TestRequirementThatExits(t *testing.T) {
	as := newAS(t)
	next := &spy{}
	h := as.middleware().Require(func(*phantom.Token) error { runtime.Goexit(); return nil })(next)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		serve(h, get("Bearer opaque-token"))
	}()
	<-ended
	if next.calls() != 0 {
		t.Error("next ran")
	}
}

// The facts are shared by all requests with a token, the decisions by none.
func TestRoutesDecideForThemselves(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(mint("ES256", claims(map[string]any{"scope": "a"})))
	m := as.middleware()
	for range 3 {
		if got := as.send(m.RequireScopes("a"), get("Bearer opaque-token")); got != codeOK {
			t.Errorf("route a: %s", got)
		}
		if got := as.send(m.RequireScopes("b"), get("Bearer opaque-token")); got != code403S {
			t.Errorf("route b: %s", got)
		}
	}
	if n := as.calls.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

// A Middleware that New did not make protects nothing, so it wraps nothing.
func TestMiddlewareThatNewDidNotMake(t *testing.T) {
	var reached atomic.Bool
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) })
	for name, m := range map[string]*phantom.Middleware{"nil": nil, "zero": {}} {
		mustPanic(t, name+".Handler", func() { m.Handler(next) })
		mustPanic(t, name+".Optional", func() { m.Optional(next) })
		mustPanic(t, name+".Require", func() { m.Require()(next) })
		mustPanic(t, name+".RequireScopes", func() { m.RequireScopes("read")(next) })
		for call, do := range map[string]func() (*phantom.Token, error){
			"Authenticate": func() (*phantom.Token, error) { return m.Authenticate(get("Bearer opaque-token")) },
			"Verify":       func() (*phantom.Token, error) { return m.Verify(t.Context(), "opaque-token") },
		} {
			if got := codeOf(do()); got != code500I {
				t.Errorf("%s.%s: %s", name, call, got)
			}
		}
	}
	if reached.Load() {
		t.Error("next ran")
	}
}

func TestNilNext(t *testing.T) {
	m := newAS(t).middleware()
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"Handler": m.Handler, "Optional": m.Optional, "Require": m.Require(), "RequireScopes": m.RequireScopes("read"),
	} {
		mustPanic(t, name+"(nil)", func() { wrap(nil) })
	}
}
