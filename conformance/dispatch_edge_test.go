package conformance_test

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// cookieToken is an extractor that reads the cookie "token".
func cookieToken(r *http.Request) (string, error) {
	c, err := r.Cookie("token")
	if err != nil {
		return "", phantom.ErrNoToken
	}
	return c.Value, nil
}

// A dispatcher asks choose about tokens alone, and what a token looks like is
// the business of the dispatcher's extractor, not of the members'.
//
// Catalogue: D7.
func TestDispatcherJudgesTheFormOfATokenFirst(t *testing.T) {
	for _, tc := range []struct {
		name       string
		member     []phantom.Option
		dispatcher []phantom.Option
		token      string
		want       string
	}{
		{"a token", nil, nil, "opaque-token", codeOK},
		{"not a b64token", nil, nil, "opaque|token", code400R},
		{"a space", nil, nil, "opaque token", code400R},
		{"the member's extractor does not count", []phantom.Option{phantom.WithTokenExtractor(cookieToken)}, nil, "opaque|token", code400R},
		{"the dispatcher's does", nil, []phantom.Option{phantom.WithTokenExtractor(phantom.TokenFromHeader)}, "opaque-token", codeOK},
		{"and permits more", nil, []phantom.Option{phantom.WithTokenExtractor(cookieToken)}, "opaque|token", codeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			member := as.middleware(tc.member...)
			var asked atomic.Int64
			d := must(phantom.Dispatch([]*phantom.Middleware{member}, func(string) *phantom.Middleware {
				asked.Add(1)
				return member
			}, tc.dispatcher...))
			r := get("Bearer " + tc.token)
			r.Header["Cookie"] = []string{"token=" + tc.token}
			if got := as.send(d.Handler, r); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			tok, err := d.Verify(t.Context(), tc.token)
			if got := codeOf(tok, err); got != tc.want {
				t.Errorf("Verify: %s, want %s", got, tc.want)
			}
			want := int64(2)
			if tc.want != codeOK {
				want = 0
			}
			if asked.Load() != want || as.calls.Load() != want/2 {
				t.Errorf("choose asked %d times, the server %d times", asked.Load(), as.calls.Load())
			}
		})
	}
}

// Whatever lies between the dispatcher and another member's handler, its server
// is shown neither the token nor the JWT that stands in for it.
func TestOtherMembersServerNeverSeesTheToken(t *testing.T) {
	hide := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(phantom.NewContext(r.Context(), nil)))
		})
	}
	cookies := phantom.WithTokenExtractor(cookieToken)
	for _, tc := range []struct {
		name  string
		a, b  []phantom.Option
		edge  []phantom.Option
		chain func(d, a, b *phantom.Middleware, next http.Handler) http.Handler
	}{
		{"at once", nil, nil, nil, func(d, _, b *phantom.Middleware, next http.Handler) http.Handler {
			return d.Handler(b.Handler(next))
		}},
		{"behind the right member", nil, nil, nil, func(d, a, b *phantom.Middleware, next http.Handler) http.Handler {
			return d.Handler(a.Require()(b.Handler(next)))
		}},
		{"optional", nil, nil, nil, func(d, _, b *phantom.Middleware, next http.Handler) http.Handler {
			return d.Optional(b.Optional(next))
		}},
		{"the token is hidden", nil, nil, nil, func(d, _, b *phantom.Middleware, next http.Handler) http.Handler {
			return d.Handler(hide(b.Handler(next)))
		}},
		{"a cookie", nil, []phantom.Option{cookies}, []phantom.Option{cookies}, func(d, _, b *phantom.Middleware, next http.Handler) http.Handler {
			return d.Handler(b.Handler(next))
		}},
		{"a cookie without a JWT", []phantom.Option{phantom.WithoutJWT()}, []phantom.Option{cookies}, []phantom.Option{cookies},
			func(d, _, b *phantom.Middleware, next http.Handler) http.Handler { return d.Handler(b.Handler(next)) }},
		{"an optional cookie", []phantom.Option{phantom.WithoutJWT()}, []phantom.Option{cookies}, []phantom.Option{cookies},
			func(d, _, b *phantom.Middleware, next http.Handler) http.Handler { return d.Handler(b.Optional(next)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := newAS(t), newAS(t)
			var ma *phantom.Middleware
			if tc.a == nil {
				ma = a.middleware()
			} else {
				a.introspect = answerMembers(nil)
				ma = a.claimsOnly()
			}
			mb := b.middleware(tc.b...)
			d := must(phantom.Dispatch([]*phantom.Middleware{ma, mb}, func(string) *phantom.Middleware { return ma }, tc.edge...))
			r := get("Bearer a-token")
			r.Header["Cookie"] = []string{"token=a-token"}
			chain := func(next http.Handler) http.Handler { return tc.chain(d, ma, mb, next) }
			if got := a.send(chain, r); got != code401T || b.calls.Load() != 0 {
				t.Errorf("%s, %d introspections at the other server", got, b.calls.Load())
			}
		})
	}
}

// The dispatcher's log lines about one member's token name its issuer, whoever
// refuses it.
func TestLogOfARequirementNamesTheMembersIssuer(t *testing.T) {
	as := newAS(t)
	member := as.middleware()
	log := phantom.WithLogger(slog.New(slog.NewTextHandler(&as.logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	d := must(phantom.Dispatch([]*phantom.Middleware{member}, func(string) *phantom.Middleware { return member }, log))
	for _, requirement := range []phantom.Requirement{
		phantom.AllScopes("admin"),
		func(*phantom.Token) error { return errors.New("no") },
		func(*phantom.Token) error { return phantom.ErrUnavailable },
	} {
		before := len(as.logs.String())
		serve(d.Require(requirement)(&spy{}), get("Bearer opaque-token"))
		if line := as.logs.String()[before:]; !strings.Contains(line, "issuer="+issuer) {
			t.Errorf("%q", line)
		}
	}
}

// What is no JWT is refused also while there are no keys: no key could make it
// one. What may be one is not.
//
// Catalogue: D13, D14.
func TestTokenThatIsNoJWTIsRefusedWithoutKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.jwks = answer(500, "", "")
		m := as.direct()
		for range 3 {
			for _, tc := range []struct{ token, want string }{
				{mint("ES256", claims(nil)), code503A},
				{"opaque-token-of-alice", code401T},
				{mintHeader("ES256", `{"alg":"ES256","kid":"k-ES256","typ":"logout+jwt"}`, claims(nil)), code401T},
			} {
				if got := as.try(m, tc.token); got != tc.want {
					t.Errorf("%s, want %s", got, tc.want)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := as.fetches.Load(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

// A Middleware serves in several dispatchers, and a token is good inside both.
func TestMemberServesInTwoDispatchers(t *testing.T) {
	d1, ma, mb, a, b := twoServers(t, nil, nil)
	d2 := must(phantom.Dispatch([]*phantom.Middleware{ma, mb}, func(token string) *phantom.Middleware {
		if strings.HasPrefix(token, "b") {
			return mb
		}
		return ma
	}, phantom.WithRequirements(phantom.AllScopes("read"))))
	for _, token := range []string{"a-token", "b-token"} {
		if got := a.send(func(next http.Handler) http.Handler { return d1.Handler(d2.Handler(next)) }, get("Bearer "+token)); got != codeOK {
			t.Errorf("%s: %s", token, got)
		}
	}
	if a.calls.Load() != 1 || b.calls.Load() != 1 {
		t.Errorf("%d and %d introspections", a.calls.Load(), b.calls.Load())
	}
}
