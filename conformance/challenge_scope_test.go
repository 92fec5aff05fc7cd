package conformance_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/phantom-token/phantom"
)

// refuses returns a requirement that refuses with the Error.
func refuses(e phantom.Error) phantom.Requirement {
	return func(*phantom.Token) error {
		own := e
		own.Params = maps.Clone(e.Params)
		return &own
	}
}

// One challenge names all that a request needs, so that a client that asks for
// just that gets in.
//
// Catalogue: F1, F4.
func TestOneChallengeNamesAllThatARequestNeeds(t *testing.T) {
	stepUp := func(params map[string]string) phantom.Requirement {
		return refuses(phantom.Error{Status: 401, Code: "insufficient_user_authentication", Params: params})
	}
	panics := func(tok *phantom.Token) error {
		if !tok.HasScope("read") {
			panic("x")
		}
		return nil
	}
	const scope, auth = `Bearer realm="api", error="insufficient_scope"`, `Bearer realm="api", error="insufficient_user_authentication"`
	for _, tc := range []struct {
		name   string
		always []phantom.Requirement
		route  []phantom.Requirement
		status int
		want   string
	}{
		{"one of two", nil, []phantom.Requirement{phantom.AllScopes("read", "b")}, 403, scope + `, scope="read b"`}, // F1
		{"behind those of the Middleware", []phantom.Requirement{phantom.AllScopes("c")},
			[]phantom.Requirement{phantom.AllScopes("read", "b")}, 403, scope + `, scope="c read b"`}, // F1
		{"met ones are named", []phantom.Requirement{phantom.AllScopes("write")},
			[]phantom.Requirement{phantom.AllScopes("b"), phantom.AnyScope("read", "x")}, 403, scope + `, scope="write b read x"`},
		{"named once", []phantom.Requirement{phantom.AllScopes("b")},
			[]phantom.Requirement{phantom.AllScopes("a", "b")}, 403, scope + `, scope="b a"`},
		{"a foreign refusal", nil,
			[]phantom.Requirement{func(*phantom.Token) error { return errors.New("no") }, phantom.AllScopes("read")},
			403, scope + `, scope="read"`},
		{"parameters", nil, []phantom.Requirement{
			stepUp(map[string]string{"acr_values": "gold"}), stepUp(map[string]string{"max_age": "300"}),
		}, 401, auth + `, acr_values="gold", max_age="300"`}, // F4
		{"the stricter max_age", nil, []phantom.Requirement{
			stepUp(map[string]string{"max_age": "300"}), stepUp(map[string]string{"max_age": "60"}), stepUp(map[string]string{"max_age": "1000"}),
		}, 401, auth + `, max_age="60"`},
		{"another kind is left out", nil, []phantom.Requirement{
			stepUp(map[string]string{"acr_values": "gold"}), phantom.AllScopes("b"),
		}, 401, auth + `, acr_values="gold"`},
		{"panics are left out", nil, []phantom.Requirement{phantom.AllScopes("b"), panics}, 403, scope + `, scope="b"`},
		{"an outage stands alone", nil, []phantom.Requirement{
			func(*phantom.Token) error { return phantom.ErrUnavailable }, phantom.AllScopes("b"),
		}, 503, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			var opts []phantom.Option
			if tc.always != nil {
				opts = append(opts, phantom.WithRequirements(tc.always...))
			}
			m := as.middleware(opts...)
			for range 2 { // a miss and a hit
				next := &spy{}
				rec := serve(m.Require(tc.route...)(next), get("Bearer opaque-token"))
				if rec.Code != tc.status || rec.Header().Get("Www-Authenticate") != tc.want || next.calls() > 0 {
					t.Errorf("%d %q", rec.Code, rec.Header()["Www-Authenticate"])
				}
			}
		})
	}
}

// A client that follows resource_metadata learns from the 401 of a route which
// scopes to ask for.
//
// Catalogue: F3.
func TestScopesOfTheRouteInA401(t *testing.T) {
	const url = "https://rs.test/.well-known/oauth-protected-resource"
	with := fmt.Sprintf(`Bearer realm="api", scope="a b", resource_metadata=%q`, url)
	bad := fmt.Sprintf(`Bearer realm="api", error="invalid_token", scope="a b", resource_metadata=%q`, url)
	for _, tc := range []struct {
		name string
		opts []phantom.Option
		wrap func(m *phantom.Middleware) func(http.Handler) http.Handler
		auth []string
		want string
	}{
		{"no token", []phantom.Option{phantom.WithResourceMetadataURL(url)}, nil, nil, with},
		{"a bad token", []phantom.Option{phantom.WithResourceMetadataURL(url)}, nil, []string{"Bearer opaque-token"}, bad},
		{"no metadata", nil, nil, nil, `Bearer realm="api"`},
		{"no scopes", []phantom.Option{phantom.WithResourceMetadataURL(url)},
			func(m *phantom.Middleware) func(http.Handler) http.Handler { return m.Handler }, nil,
			fmt.Sprintf(`Bearer realm="api", resource_metadata=%q`, url)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answer(204, "", "")
			m := as.middleware(tc.opts...)
			wrap := m.RequireScopes("a", "b")
			if tc.wrap != nil {
				wrap = tc.wrap(m)
			}
			next := &spy{}
			rec := serve(wrap(next), get(tc.auth...))
			if got := rec.Header()["Www-Authenticate"]; rec.Code != 401 || len(got) != 1 || got[0] != tc.want {
				t.Errorf("%d %q, want %q", rec.Code, got, tc.want)
			}
		})
	}
}

// Reject writes what a handler would.
func TestRejectWritesWhatAHandlerWould(t *testing.T) {
	as := newAS(t)
	as.introspect = answer(204, "", "")
	m := as.middleware()
	next := &spy{}
	for _, tc := range []struct {
		name          string
		authorization []string
		err           func(r *http.Request) error
		want          string
	}{
		{"no token", nil, nil, code401N},
		{"inactive", []string{"Bearer opaque-token"}, nil, code401T},
		{"malformed", []string{"Bearer ,"}, nil, code400R},
		{"wrapped", nil, func(r *http.Request) error {
			_, err := m.Authenticate(r)
			return fmt.Errorf("router: %w", err)
		}, code401N},
		{"an Err variable", nil, func(*http.Request) error { return phantom.ErrUnavailable }, code503A},
		{"nil", nil, func(*http.Request) error { return nil }, code500I},
		{"foreign", nil, func(*http.Request) error { return errors.New("x") }, code500I},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := get(tc.authorization...)
			err := error(nil)
			if tc.err != nil {
				err = tc.err(r)
			} else if _, err = m.Authenticate(r); err == nil {
				t.Fatal("no error")
			}
			rec := httptest.NewRecorder()
			m.Reject(rec, r, err)
			if got := as.outcome(rec, next, 0); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// TokenFromHeader is the default extractor, with its outcomes.
func TestTokenFromHeaderIsTheDefaultExtractor(t *testing.T) {
	for _, authorization := range [][]string{
		nil, {"Bearer opaque-token"}, {"Basic x"}, {"Bearer"}, {"Bearer ,"}, {"Bearer a", "Bearer a"}, {"bearer  opaque-token"},
	} {
		as := newAS(t)
		plain := as.send(as.middleware().Handler, get(authorization...))
		extracted := as.send(as.middleware(phantom.WithTokenExtractor(phantom.TokenFromHeader)).Handler, get(authorization...))
		if plain != extracted {
			t.Errorf("%q: %s, want %s", authorization, extracted, plain)
		}
	}
}

// A handler that ends a session has the next request ask anew.
func TestTokenForgetsItself(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	next := &spy{serve: func(_ http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		if err := tok.Forget(); err != nil {
			t.Error(err)
		}
	}}
	for range 2 {
		serve(m.Handler(next), get("Bearer opaque-token"))
	}
	if n := as.calls.Load(); n != 2 {
		t.Errorf("the server was asked %d times", n)
	}
}
