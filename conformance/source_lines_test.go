package conformance_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A signed response that lacks what it must have is the server's fault.
//
// Catalogue: B3, B5, B7.
func TestSignedResponseLacksNothing(t *testing.T) {
	const absent, typ = "absent", `"typ":"` + signedResponseTyp + `"`
	inside := func(change map[string]any) map[string]any {
		c := map[string]any{"iss": issuer, "aud": clientID, "iat": time.Now().Unix(), "token_introspection": members(nil)}
		for name, value := range change {
			if c[name] = value; value == absent {
				delete(c, name)
			}
		}
		return c
	}
	for _, tc := range []struct {
		name, header string
		change       map[string]any
	}{
		{"no typ", `"x":1`, nil},                        // B3
		{"at+jwt", `"typ":"at+jwt"`, nil},               // B3
		{"no iss", typ, map[string]any{"iss": absent}},  // B5
		{"no aud", typ, map[string]any{"aud": absent}},  // B5
		{"aud a number", typ, map[string]any{"aud": 1}}, // B5
		{"no iat", typ, map[string]any{"iat": absent}},
		{"iat ahead", typ, map[string]any{"iat": time.Now().Unix() + 60}},
		{"exp past", typ, map[string]any{"exp": time.Now().Unix() - 1}},
		{"nbf ahead", typ, map[string]any{"nbf": time.Now().Unix() + 60}},
		{"Token_introspection beside", typ, map[string]any{"Token_introspection": members(nil)}},
		{"no answer", typ, map[string]any{"token_introspection": absent}},                                 // B7
		{"no active", typ, map[string]any{"token_introspection": members(map[string]any{"active": nil})}}, // B7
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answer(200, signedMedia, mintHeader("ES256", `{"alg":"ES256","kid":"k-ES256",`+tc.header+`}`, inside(tc.change)))
			m := as.middleware(phantom.WithoutJWT(), phantom.WithSignedResponse(clientID))
			if got := as.try(m, "opaque-token"); got != code502A {
				t.Errorf("%s, want 502A", got)
			}
		})
	}
}

// An unknown issuer, in whatever likeness of a known one, is asked of nobody, and
// a JWE goes where configuration sends it.
//
// Catalogue: D2, D5, D7.
func TestIssuerIsComparedByteByByte(t *testing.T) {
	as, other := newAS(t), newAS(t)
	direct, opaque := as.direct(), other.middleware()
	inner := must(phantom.Dispatch([]*phantom.Middleware{direct}, func(string) *phantom.Middleware { return direct }))
	d := must(phantom.Dispatch([]*phantom.Middleware{direct, opaque}, func(token string) *phantom.Middleware {
		switch iss, ok := phantom.UnverifiedIssuer(token); {
		case ok:
			return map[string]*phantom.Middleware{issuer: direct}[iss]
		case strings.HasPrefix(token, "dispatch"):
			return inner
		case strings.HasPrefix(token, "eyJhbGciOiJBMjU2R0NNS1ci"):
			return opaque
		}
		return nil
	}))
	of := func(iss string) string { return mint("ES256", claims(map[string]any{"iss": iss})) }
	for _, tc := range []struct{ name, token, want string }{
		{"known", of(issuer), codeOK},
		{"a slash more", of(issuer + "/"), code401T},              // D2
		{"in capitals", of(strings.ToUpper(issuer)), code401T},    // D2
		{"a space more", of(issuer + " "), code401T},              // D2
		{"a dispatcher is no member", "dispatch-token", code401T}, // D7
		{"a JWE", "eyJhbGciOiJBMjU2R0NNS1ci.a.b.c.d", codeOK},     // D5
	} {
		for _, wrap := range []func(http.Handler) http.Handler{d.Handler, d.Optional, d.RequireScopes("read")} {
			if got := as.send(wrap, get("Bearer "+as.secret(tc.token))); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
			}
		}
	}
	if as.calls.Load() != 0 || other.calls.Load() != 1 {
		t.Errorf("%d and %d introspections", as.calls.Load(), other.calls.Load())
	}
}

// A token endpoint that never answers gives its places back, and a Minter's
// verdict is remembered.
//
// Catalogue: C5, S12.
func TestSourceThatHangsHoldsNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect, as.metadata = answerMembers(nil), wait(time.Hour, answerExchange(nil))
		m := as.exchanging(phantom.WithMaxInFlight(1))
		for i := range 3 {
			if got := as.try(m, fmt.Sprintf("opaque-token-%d", i)); got != code503A {
				t.Error(got)
			}
		}
		synctest.Wait() // for the last lookup to end
		as.metadata = answerExchange(nil)
		if got := as.try(m, "opaque-token"); got != codeOK {
			t.Error(got)
		}
		minter := newMinter()
		minter.err = phantom.ErrInvalidToken
		minting := as.minting(minter)
		for range 3 {
			if got := as.try(minting, "opaque-token"); got != code401T {
				t.Error(got)
			}
		}
		if minter.minted != 1 {
			t.Errorf("asked %d times", minter.minted)
		}
	})
}

// A hit gets the JWT that was minted before, and a refresh ahead a new one.
func TestRefreshMintsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) { answerMembers(nil)(w, r) }
		minter := newMinter()
		m := as.minting(minter, phantom.WithMaxTTL(20*time.Second), phantom.WithRefreshAhead(0.5))
		var ids []string
		var jwts []string
		for _, pause := range []time.Duration{0, time.Second, 11 * time.Second, time.Second} {
			time.Sleep(pause)
			tok, err := m.Verify(t.Context(), "opaque-token")
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			jwts = append(jwts, tok.JWT())
			ids = append(ids, fmt.Sprint(minter.minted))
		}
		if jwts[0] != jwts[1] || jwts[1] != jwts[2] || jwts[2] == jwts[3] || strings.Join(ids, " ") != "1 1 2 2" {
			t.Errorf("minted %q", ids)
		}
	})
}
