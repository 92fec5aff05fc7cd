package conformance_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// Where the JWT does not come for want of an answer, an old one bridges the
// outage, as with an introspection that gets no answer. A refusal is not
// bridged, nor is a token that the introspection calls inactive.
//
// Catalogue: X8, X9, C4, C5, S12.
func TestOutageOfTheJWTsSourceIsBridged(t *testing.T) {
	gone := answer(404, "text/html", "<html>")
	for _, tc := range []struct {
		name   string
		token  http.HandlerFunc
		mint   error
		active bool
		want   string
	}{
		{"500", answer(500, "", ""), phantom.ErrUnavailable, true, codeOK},
		{"404, as during a redeploy", gone, nil, true, codeOK},                    // X9
		{"a router's page", page(200, 10, ""), nil, true, codeOK},                 // X9
		{"a large page", page(404, 100<<10, ""), nil, true, codeOK},               // X9
		{"400", answer(400, "", ""), phantom.ErrUpstream, true, code502A},         // X9
		{"401", answer(401, "", ""), nil, true, code502A},                         // X9
		{"429", answer(429, "", ""), nil, true, code503A},                         // X8
		{"not JSON", answerJSON("<"), nil, true, code502A},                        // X9
		{"revoked", answer(500, "", ""), phantom.ErrUnavailable, false, code401T}, // X8
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.metadata, as.introspect = answerExchange(nil), answerMembers(nil)
				minter := newMinter()
				opts := []phantom.Option{phantom.WithMaxTTL(time.Second), phantom.WithStaleIfError(20 * time.Second), phantom.WithRefreshAhead(0)}
				ways := map[string]*phantom.Middleware{"exchange": as.exchanging(opts...)}
				if tc.mint != nil {
					ways["minter"] = as.minting(minter, opts...)
				}
				for _, m := range ways {
					if got := as.try(m, "opaque-token"); got != codeOK {
						t.Fatal(got)
					}
				}
				time.Sleep(2 * time.Second)
				as.metadata, minter.err = tc.token, tc.mint
				as.introspect = answerMembers(map[string]any{"active": tc.active})
				for name, m := range ways {
					if got := as.try(m, "opaque-token"); got != tc.want {
						t.Errorf("%s: %s, want %s", name, got, tc.want)
					}
				}
				time.Sleep(20 * time.Second)
				for name, m := range ways {
					if got := as.try(m, "opaque-token"); got == codeOK {
						t.Errorf("%s: bridged without end", name)
					}
				}
			})
		})
	}
}

// What may be a router's word, while the token endpoint is redeployed, is not
// remembered: the next request finds out that it is over. A refusal is.
//
// Catalogue: C14.
func TestRoutersWordOnAnExchangeIsNotRemembered(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"404", answer(404, "text/html", "<html>"), codeOK},
		{"405", answer(405, "", ""), codeOK},
		{"302", answer(302, "", ""), codeOK},
		{"a page", page(200, 10, ""), codeOK},
		{"a large page", page(404, 100<<10, ""), codeOK},
		{"400", answer(400, "application/json", `{"error":"invalid_grant"}`), code502A},
		{"401, by a page", page(401, 100<<10, ""), code502A},
		{"JSON that is not strict", answerJSON("{"), code502A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect, as.metadata = answerMembers(nil), tc.answer
				m := as.exchanging()
				expect(t, "meanwhile", as.try(m, "opaque-token"), code502A)
				as.metadata = answerExchange(nil)
				expect(t, "at once", as.try(m, "opaque-token"), tc.want)
				time.Sleep(6 * time.Second)
				expect(t, "later", as.try(m, "opaque-token"), codeOK)
			})
		})
	}
}

// Junk does not keep users out while the JWT's source fails for them, and none of
// it reaches that source. Users are back as soon as it is.
func TestJunkDoesNotTouchTheJWTsSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			answerMembers(map[string]any{"active": r.FormValue("token")[0] == 'u'})(w, r)
		}
		as.metadata = answer(500, "", "")
		m := as.exchanging()
		for i := range 40 {
			if got := as.try(m, "user-"+string(rune('a'+i%20))); got != code503A {
				t.Error(got)
			}
			if got := as.try(m, "junk-"+string(rune('a'+i%20))); got != code401T && got != code503A {
				t.Error(got)
			}
			time.Sleep(10 * time.Millisecond)
		}
		as.metadata = answerExchange(nil)
		time.Sleep(1100 * time.Millisecond)
		for i := range 20 {
			if got := as.try(m, "user-"+string(rune('a'+i))); got != codeOK {
				t.Errorf("user %d: %s", i, got)
			}
		}
		for _, r := range as.recorded(tokenPath) {
			if r.Form.Get("subject_token")[0] != 'u' {
				t.Errorf("exchanged %q", r.Form.Get("subject_token"))
			}
		}
	})
}

// Forget and Purge reach what a Minter made, also while it makes it.
func TestForgottenJWTIsMintedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerMembers(nil)
		minter := newMinter()
		m := as.minting(minter)
		forget := []func(){func() { m.Forget("opaque-token") }, func() { m.Purge() }}
		for i, drop := range forget {
			minter.before = func(context.Context) { drop() }
			first, err := m.Verify(t.Context(), "opaque-token")
			if err != nil {
				t.Fatal(err)
			}
			minter.before = nil
			second, err := m.Verify(t.Context(), "opaque-token")
			if err != nil || second.ID() == first.ID() && second.JWT() == first.JWT() {
				t.Errorf("%d: remembered in spite of it: %v", i, err)
			}
			drop()
		}
		if as.calls.Load() != 4 || minter.minted != 4 {
			t.Errorf("%d introspections, %d minted", as.calls.Load(), minter.minted)
		}
	})
}

// A member of a dispatcher without a JWT and one with one share a route: next
// gets the right Authorization for each, by whatever way the request came.
//
// Catalogue: W1, D1.
func TestMembersWithAndWithoutAJWT(t *testing.T) {
	a, b := newAS(t), newAS(t)
	a.introspect = answerMembers(nil)
	plain, swapped := a.claimsOnly(), b.middleware()
	d := must(phantom.Dispatch([]*phantom.Middleware{plain, swapped}, func(token string) *phantom.Middleware {
		if token[0] == 'a' {
			return plain
		}
		return swapped
	}))
	for _, chain := range []func(http.Handler) http.Handler{
		d.Handler, d.Optional,
		func(next http.Handler) http.Handler { return d.Handler(d.Optional(next)) },
		func(next http.Handler) http.Handler { return d.Optional(d.RequireScopes("read")(next)) },
	} {
		for token, as := range map[string]*fakeAS{"a-token": a, "b-token": b} {
			r := get()
			r.Header["AUTHORIZATION"] = []string{"Bearer " + as.secret(token)}
			r.Header["Connection"] = []string{"authorization, close"}
			r.Trailer = http.Header{"Authorization": {"Bearer x"}, "authorization": {"Bearer x"}}
			next := &spy{}
			if got := as.outcome(serve(chain(next), r), next, 0); got != codeOK {
				t.Fatal(got)
			}
			out := next.last()
			if len(out.Trailer) != 0 || out.Header.Get("Connection") != "close" || map[string][]string(out.Header)["AUTHORIZATION"] != nil {
				t.Errorf("%s: %v %v", token, out.Header, out.Trailer)
			}
			if next.tokens[0] == nil {
				t.Errorf("%s: anonymous", token)
			}
		}
	}
	// A token without a JWT is good for the context's own request alone.
	inside := &spy{}
	outer := &spy{serve: func(w http.ResponseWriter, r *http.Request) {
		other := httptest.NewRequestWithContext(r.Context(), http.MethodGet, "/", nil)
		other.Header.Set("Authorization", "Bearer b-token")
		d.Handler(inside).ServeHTTP(w, other)
	}}
	serve(d.Handler(outer), get("Bearer a-token"))
	if inside.calls() != 1 || inside.tokens[0].JWT() == "" {
		t.Errorf("%d calls", inside.calls())
	}
}

// A ClientAuth that appends to a parameter changes neither the next request nor
// one under way.
func TestExchangesDoNotShareTheirForm(t *testing.T) {
	as := newAS(t)
	as.introspect, as.metadata = answerMembers(nil), answerExchange(nil)
	values := make([]string, 1, 8)
	values[0] = "upstream"
	m := as.middleware(
		phantom.WithTokenExchange(issuer+tokenPath, url.Values{"audience": values}),
		phantom.WithClientAuth(appendingAuth{}),
	)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { as.try(m, "opaque-token-"+string(rune('a'+i))) })
	}
	wg.Wait()
	for _, r := range as.recorded(tokenPath) {
		if got := r.Form["audience"]; len(got) != 2 || got[0] != "upstream" || got[1] != "x" {
			t.Errorf("%q", got)
		}
	}
}

type appendingAuth struct{}

func (appendingAuth) Authenticate(_ *http.Request, form url.Values) error {
	if len(form["audience"]) > 0 {
		form["audience"][0] = "upstream"
	}
	form.Add("audience", "x")
	return nil
}
