package conformance_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
)

// direct returns a Middleware for the server's JWTs themselves.
func (as *fakeAS) direct(extra ...phantom.Option) *phantom.Middleware {
	as.tb.Helper()
	all := as.options(append([]phantom.Option{phantom.WithoutIntrospection()}, extra...)...)
	all = append(all[:4:4], all[5:]...) // no credentials
	all = append(all[:2:2], all[3:]...) // no introspection endpoint
	m, err := phantom.New(all...)
	if err != nil {
		as.tb.Fatal(err)
	}
	return m
}

// The client's own JWT is verified and handed on as it came, and every failed
// check is the client's fault.
//
// Catalogue: D13, D15.
func TestJWTOfTheClientIsVerifiedItself(t *testing.T) {
	for _, tc := range []struct {
		name  string
		token string
		want  string
	}{
		{"good", mint("ES256", claims(nil)), codeOK},
		{"expired", mint("ES256", claims(map[string]any{"exp": 1})), code401T},
		{"foreign aud", mint("ES256", claims(map[string]any{"aud": "x"})), code401T},
		{"random text", "opaque-token-of-alice", code401T},
		{"two dots", "a.b.c", code401T},
		{"bound", mint("ES256", claims(map[string]any{"cnf": map[string]any{"jkt": "x"}})), code401T}, // D15
		{"ID token", mint("ES256", claims(map[string]any{"at_hash": "x"})), code401T},                 // D15
		{"nonce", mintHeader("ES256", `{"alg":"ES256","kid":"k-ES256"}`, claims(map[string]any{"nonce": "x"})), code401T},
		{"logout token", mintHeader("ES256", `{"alg":"ES256","kid":"k-ES256","typ":"logout+jwt"}`, claims(nil)), code401T}, // D15
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			m := as.direct()
			next := &spy{}
			rec := serve(m.Handler(next), get("Bearer "+as.secret(tc.token)))
			if got := as.outcome(rec, next, 0); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			if tc.want == codeOK && next.last().Header.Get("Authorization") != "Bearer "+tc.token {
				t.Error("not handed on as it came")
			}
			if as.calls.Load() != 0 {
				t.Error("the server was asked")
			}
			if strings.Contains(as.logs.String(), "level=INFO") || strings.Contains(as.logs.String(), "level=ERROR") {
				t.Errorf("logged: %s", as.logs.String())
			}
		})
	}
}

// Each token goes to the one member that choose names, and to no other.
//
// Catalogue: D1, D2, D7.
func TestEachTokenGoesToOneMember(t *testing.T) {
	as, other := newAS(t), newAS(t)
	direct, opaque := as.direct(), other.middleware()
	byIssuer := map[string]*phantom.Middleware{issuer: direct}
	m, err := phantom.Dispatch([]*phantom.Middleware{direct, opaque}, func(token string) *phantom.Middleware {
		if iss, ok := phantom.UnverifiedIssuer(token); ok {
			return byIssuer[iss]
		}
		switch {
		case strings.HasPrefix(token, "panic"):
			panic("x")
		case strings.HasPrefix(token, "foreign"):
			return newAS(t).middleware()
		case strings.HasPrefix(token, "none"):
			return nil
		}
		return opaque
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, token, want string
		asked             int64
	}{
		{"JWT", mint("ES256", claims(nil)), codeOK, 0},
		{"opaque", "opaque-token-of-alice", codeOK, 1},
		{"JWT of another issuer", mint("ES256", claims(map[string]any{"iss": issuer + "/"})), code401T, 0}, // D2
		{"nil", "none-token", code401T, 0},                                                                 // D7
		{"foreign", "foreign-token", code401T, 0},                                                          // D7
		{"panic", "panic-token-of-alice", code500I, 0},                                                     // D7
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := other.calls.Load()
			next := &spy{}
			for _, wrap := range []func(http.Handler) http.Handler{m.Handler, m.Optional, m.RequireScopes("read")} {
				ran := next.calls()
				if got := as.outcome(serve(wrap(next), get("Bearer "+as.secret(tc.token))), next, ran); got != tc.want {
					t.Errorf("%s, want %s", got, tc.want)
				}
			}
			if got := other.calls.Load() - before; got != tc.asked {
				t.Errorf("the other server was asked %d times", got)
			}
		})
	}
}

// Dispatch refuses what cannot work, and says all of it at once.
//
// Catalogue: D8.
func TestDispatchRefusesWhatCannotWork(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	choose := func(string) *phantom.Middleware { return m }
	inner, err := phantom.Dispatch([]*phantom.Middleware{m}, choose)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		members []*phantom.Middleware
		choose  func(string) *phantom.Middleware
		opts    []phantom.Option
		faults  int
	}{
		{"no member", nil, choose, nil, 1},
		{"nil member", []*phantom.Middleware{nil}, choose, nil, 1},
		{"zero member", []*phantom.Middleware{{}}, choose, nil, 1},
		{"member twice", []*phantom.Middleware{m, m}, choose, nil, 1},
		{"dispatcher as member", []*phantom.Middleware{inner}, choose, nil, 1},
		{"nil choose", []*phantom.Middleware{m}, nil, nil, 1},
		{"option of a member", []*phantom.Middleware{m}, choose, []phantom.Option{phantom.WithIssuer(issuer)}, 1},
		{"all", []*phantom.Middleware{nil}, nil, []phantom.Option{nil, phantom.WithRealm("")}, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := phantom.Dispatch(tc.members, tc.choose, tc.opts...)
			var fault *phantom.ConfigError
			if d != nil || !errors.As(err, &fault) || strings.Count(err.Error(), "phantom: ") != tc.faults {
				t.Errorf("%v, %v", d, err)
			}
		})
	}
}
