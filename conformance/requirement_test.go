package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// scopeChallenge begins the challenge of a token that may too little.
const scopeChallenge = `Bearer realm="api", error="insufficient_scope"`

// AllScopes and AnyScope compare whole scopes. A 403 names the scopes that are
// missing, and the token stays in the cache.
func TestScopeRequirements(t *testing.T) {
	for _, tc := range []struct {
		name        string
		scope       any // of the token: "read write"
		requirement phantom.Requirement
		want        string // the challenge; empty: let through
	}{
		{"both", "read write", phantom.AllScopes("write", "read"), ""},
		{"one is missing", "read write", phantom.AllScopes("read", "admin"), scopeChallenge + `, scope="read admin"`},
		{"both are missing", "other", phantom.AllScopes("read", "admin"), scopeChallenge + `, scope="read admin"`},
		{"any, the first", "read", phantom.AnyScope("read", "admin"), ""},
		{"any, the last", "admin", phantom.AnyScope("read", "admin"), ""},
		{"any, neither", "write", phantom.AnyScope("read", "admin"), scopeChallenge + `, scope="read admin"`},
		{"any, no scope at all", nil, phantom.AnyScope("read"), scopeChallenge + `, scope="read"`},
		{"a part of one", "orders:read:all", phantom.AllScopes("orders:read"), scopeChallenge + `, scope="orders:read"`},
		{"a URL", "https://rs.test/orders.read", phantom.AllScopes("https://rs.test/orders.read"), ""},
		{"all visible characters", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", phantom.AllScopes("!#$%&'()*+,-./:;<=>?@[]^_`{|}~"), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(mint("ES256", claims(map[string]any{"scope": tc.scope})))
			m := as.middleware()
			for range 2 { // a miss and a hit
				next := &spy{}
				rec := serve(m.Require(tc.requirement)(next), get("Bearer opaque-token"))
				got, want := as.outcome(rec, next, 0), codeOK
				if tc.want != "" {
					want = code403S
				}
				if got != want || rec.Header().Get("Www-Authenticate") != tc.want {
					t.Errorf("%s %q, want %q", got, rec.Header().Get("Www-Authenticate"), tc.want)
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

// A requirement of no scope, or of one that cannot exist, panics where it is
// written.
func TestScopesThatMeanNothing(t *testing.T) {
	m := newAS(t).middleware()
	for _, scopes := range [][]string{
		nil, {}, {""}, {"read", ""}, {"read write"}, {"read\n"}, {`a"b`}, {`a\b`}, {"ö"}, {"\x7f"},
	} {
		mustPanic(t, fmt.Sprintf("AllScopes%q", scopes), func() { phantom.AllScopes(scopes...) })
		mustPanic(t, fmt.Sprintf("AnyScope%q", scopes), func() { phantom.AnyScope(scopes...) })
		mustPanic(t, fmt.Sprintf("RequireScopes%q", scopes), func() { m.RequireScopes(scopes...) })
	}
	mustPanic(t, "Require(nil)", func() { m.Require(nil) })
	mustPanic(t, "Require(f, nil)", func() { m.Require(phantom.AllScopes("read"), nil) })
}

// A route requires what it was given. Changes of the caller's slices come too
// late.
func TestScopesAreCopied(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	scopes := []string{"admin", "root"}
	requirements := []phantom.Requirement{phantom.AllScopes(scopes...)}
	all, anyOf, route := phantom.AllScopes(scopes...), phantom.AnyScope(scopes...), m.RequireScopes(scopes...)
	list, option := m.Require(requirements...), phantom.WithRequirements(requirements...)
	scopes[0], scopes[1], requirements[0] = "read", "write", func(*phantom.Token) error { return nil }
	for _, mounting := range []mounting{
		{"AllScopes", m.Require(all)}, {"AnyScope", m.Require(anyOf)}, {"RequireScopes", route}, {"Require", list},
		{"WithRequirements", as.middleware(option).Handler},
	} {
		if got := as.send(mounting.wrap, get("Bearer opaque-token")); got != code403S {
			t.Errorf("%s: %s", mounting.name, got)
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

// Requirements run for each request in their order, hit or miss. The first
// refusal decides; after it the others are only asked what they need. An
// anonymous request meets none of them.
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
	for _, tc := range []struct {
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
			want, ran := codeOK, tc.want
			if !allow {
				want, ran = code403S, options
			}
			if got := tc.do(); got != want || len(order) < len(ran) || !slices.Equal(order[:len(ran)], ran) ||
				allow && len(order) > len(ran) {
				t.Errorf("%s, allowed: %v: %s after %q", tc.name, allow, got, order)
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
	return map[int]string{
		400: code400R, 401: code401T, 403: code403S, 500: code500I, 502: code502A, 503: code503A,
	}[e.StatusCode()]
}

// A silentCall is a way to have a token judged that writes no answer.
type silentCall struct {
	name string
	do   func() (*phantom.Token, error)
}

// silentCalls are both ways: with the request, and with its token alone.
func silentCalls(ctx context.Context, m *phantom.Middleware, r *http.Request, token string) []silentCall {
	return []silentCall{
		{"Authenticate", func() (*phantom.Token, error) { return m.Authenticate(r) }},
		{"Verify", func() (*phantom.Token, error) { return m.Verify(ctx, token) }},
	}
}

// Verify and Authenticate return the error that a request would be answered
// with. It matches the sentinel of its kind, if there is one, and shows no
// secret.
func TestErrors(t *testing.T) {
	sentinels := []struct {
		code string
		err  error
	}{
		{code400R, phantom.ErrInvalidRequest}, {code401N, phantom.ErrNoToken}, {code401T, phantom.ErrInvalidToken},
		{code403S, phantom.ErrInsufficientScope}, {code502A, phantom.ErrUpstream}, {code503A, phantom.ErrUnavailable},
	}
	for _, s := range rejectedSetups {
		t.Run(s.code, func(t *testing.T) {
			as := s.server(t)
			m := as.middleware(s.options...)
			r := get(s.authorization...)
			before := snapshot(r)
			token := ""
			if len(s.authorization) > 0 {
				token = strings.TrimPrefix(s.authorization[0], "Bearer ")
			}
			for _, call := range silentCalls(t.Context(), m, r, token) {
				tok, err := call.do()
				if got := codeOf(tok, err); got != s.code {
					t.Errorf("%s: %s", call.name, got)
				}
				for _, sentinel := range sentinels {
					if errors.Is(err, sentinel.err) != (sentinel.code == s.code) {
						t.Errorf("%s: errors.Is(%v, %v) is wrong", call.name, err, sentinel.err)
					}
				}
				if found := as.leaks(fmt.Sprintf("%v %+v %#v", err, err, err)); found != nil {
					t.Errorf("%s: the error shows %q", call.name, found)
				}
			}
			if after := snapshot(r); after != before {
				t.Errorf("the request was changed: %s", after)
			}
		})
	}
}

// Verify holds a token to the same syntax as the Authorization field.
func TestVerifySyntax(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	for _, tc := range []struct{ token, want string }{
		{"", code401N},
		{" ", code400R},
		{"a b", code400R},
		{"Bearer token", code400R},
		{"token\n", code400R},
		{"=", code400R},
		{longestToken + "t", code400R},
	} {
		if got := codeOf(m.Verify(t.Context(), tc.token)); got != tc.want {
			t.Errorf("%.20q: %s, want %s", tc.token, got, tc.want)
		}
	}
	if n := as.calls.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
	if got := codeOf(m.Verify(t.Context(), longestToken)); got != codeOK {
		t.Errorf("the longest token: %s", got)
	}
}

// jwtText stands for the token's own JWT in the error of a requirement.
const jwtText = "THE JWT"

// stepUp asks for a better login (RFC 9470), and stepUpChallenge is what the
// client gets to see of it.
var stepUp = &phantom.Error{
	Status: 401, Code: "insufficient_user_authentication",
	Params: map[string]string{"acr_values": "urn:acr:high urn:acr:mid", "max_age": "300"},
}

const stepUpChallenge = `Bearer realm="api", error="insufficient_user_authentication", ` +
	`acr_values="urn:acr:high urn:acr:mid", max_age="300"`

// requirementErrors are what a requirement can return, with the answers that
// come of it.
var requirementErrors = []struct {
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
}

// A requirement chooses the answer within limits. Any error becomes a rejection
// with a challenge that can be sent, and its text stays inside.
func TestRequirementErrors(t *testing.T) {
	for _, tc := range requirementErrors {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			next := &spy{}
			h := as.middleware().Require(func(*phantom.Token) error { return tc.err })(next)
			for range 20 { // the order of a map must not show
				rec := serve(h, get("Bearer opaque-token"))
				want := http.Header{
					"Cache-Control": {"no-store"}, "Content-Type": {"application/problem+json"},
					"Content-Length": {fmt.Sprint(rec.Body.Len())},
				}
				if tc.challenge != "" {
					want["Www-Authenticate"] = []string{tc.challenge}
				}
				if tc.retry != "" {
					want["Retry-After"] = []string{tc.retry}
				}
				if rec.Code != tc.status || !reflect.DeepEqual(rec.Header(), want) {
					t.Fatalf("got  %d %v\nwant %d %v", rec.Code, rec.Header(), tc.status, want)
				}
				if strings.Contains(rec.Body.String(), jwtText) {
					t.Errorf("the body shows the error: %s", rec.Body)
				}
			}
			if next.calls() != 0 {
				t.Error("next ran")
			}
		})
	}
}

// A requirement may return one error value to all requests. Each request gets a
// copy.
func TestRequirementErrorIsShared(t *testing.T) {
	as := newAS(t)
	shared := &phantom.Error{
		Status: 401, Code: "step_up", Params: map[string]string{"max_age": "1"}, Scopes: []string{"a"},
	}
	const challenge = `Bearer realm="api", error="step_up", scope="a", max_age="1"`
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
			if got := rec.Header().Get("Www-Authenticate"); rec.Code != 401 || got != challenge {
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

// All requests with one token share its facts. Each route still decides for
// itself.
//
// Catalogue: C225.
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
