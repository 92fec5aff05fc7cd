package conformance_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

const (
	tokenPath           = "/token"
	exchangedAccess     = "urn:ietf:params:oauth:token-type:access_token"
	exchangeGrant       = "urn:ietf:params:oauth:grant-type:token-exchange"
	exchangeBodySecret  = "text-of-the-token-endpoint"
	signedMedia         = "application/token-introspection+jwt"
	signedResponseTyp   = "token-introspection+jwt"
	requestedJWT        = "urn:ietf:params:oauth:token-type:jwt"
	exchangeOpaqueToken = "opaque-token-of-alice"
)

// exchanging returns a Middleware that gets its JWTs by token exchange.
func (as *fakeAS) exchanging(extra ...phantom.Option) *phantom.Middleware {
	as.tb.Helper()
	return as.middleware(append([]phantom.Option{
		phantom.WithTokenExchange(issuer+tokenPath, url.Values{"audience": {"upstream"}}),
	}, extra...)...)
}

// exchangedJWT is a JWT as the token endpoint makes it, for the upstream.
func exchangedJWT(changes map[string]any) string {
	c := map[string]any{"aud": "upstream", "client_id": nil, "azp": clientID, "scope": "read write admin"}
	maps.Copy(c, changes)
	return mint("ES256", claims(c))
}

// answerExchange makes a good response of the token endpoint with changes.
func answerExchange(changes map[string]any) http.HandlerFunc {
	m := map[string]any{
		"access_token": exchangedJWT(nil), "token_type": "Bearer", "expires_in": 60,
		"issued_token_type": exchangedAccess, "refresh_token": exchangeBodySecret,
	}
	maps.Copy(m, changes)
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
	return answerJSON(string(must(json.Marshal(m))))
}

// The token endpoint gives the JWT, once the introspection said active. None of
// its refusals is the client's fault.
//
// Catalogue: C1, C2, C4, C5, C6, C8.
func TestExchangeGivesTheJWTAndNoVerdict(t *testing.T) {
	refused := func(status int, code string) http.HandlerFunc {
		return answer(status, "application/json", fmt.Sprintf(`{"error":%q,"error_description":%q}`, code, exchangeBodySecret))
	}
	jwt := func(token string) http.HandlerFunc { return answerExchange(map[string]any{"access_token": token}) }
	for _, tc := range []struct {
		name  string
		token http.HandlerFunc
		want  string
	}{
		{"good", answerExchange(nil), codeOK}, // C2
		{"N_A", answerExchange(map[string]any{"token_type": "N_A"}), codeOK},
		{"issued as a JWT", answerExchange(map[string]any{"issued_token_type": requestedJWT}), codeOK},
		{"no expires_in", answerExchange(map[string]any{"expires_in": nil}), codeOK},
		{"expires_in is text", answerExchange(map[string]any{"expires_in": "60"}), codeOK},
		{"invalid_request", refused(400, "invalid_request"), code502A}, // C4
		{"invalid_grant", refused(400, "invalid_grant"), code502A},     // C4
		{"invalid_target", refused(400, "invalid_target"), code502A},   // C4
		{"invalid_client", refused(401, "invalid_client"), code502A},   // C4
		{"forbidden", refused(403, "access_denied"), code502A},         // C4
		{"inactive in a body", answer(400, "application/json", `{"active":false}`), code502A},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, code502A},
		{"500", refused(500, "server_error"), code503A}, // C5
		{"opaque", jwt("opaque"), code502A},             // C6
		{"five parts", jwt("a.b.c.d.e"), code502A},      // C6
		{"an ID token", answerExchange(map[string]any{"issued_token_type": "urn:ietf:params:oauth:token-type:id_token"}), code502A},
		{"DPoP", answerExchange(map[string]any{"token_type": "DPoP"}), code502A},
		{"foreign key", jwt(compact("ES256", p384Key(), `{"alg":"ES256","kid":"k-ES256"}`, "{}")), code502A}, // C8
		{"other iss", jwt(exchangedJWT(map[string]any{"iss": issuer + "/"})), code502A},                      // C8
		{"other sub", jwt(exchangedJWT(map[string]any{"sub": "bob"})), code502A},                             // C8
		{"expired", jwt(exchangedJWT(map[string]any{"exp": 1})), code502A},                                   // C8
		{"bound", jwt(exchangedJWT(map[string]any{"cnf": map[string]any{"jkt": "x"}})), code502A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.secret(exchangeBodySecret)
			as.introspect, as.metadata = answerMembers(nil), tc.token
			m := as.exchanging()
			if got := as.try(m, exchangeOpaqueToken); got != tc.want {
				t.Errorf("%s, want %s: %s", got, tc.want, as.logs.String())
			}
			sent := as.recorded(tokenPath)
			if len(sent) != 1 || len(as.recorded("/elsewhere")) != 0 {
				t.Fatalf("%d requests", len(sent))
			}
			want := url.Values{ // C1
				"grant_type": {exchangeGrant}, "subject_token": {exchangeOpaqueToken}, "subject_token_type": {exchangedAccess},
				"requested_token_type": {exchangedAccess}, "audience": {"upstream"},
			}
			if sent[0].Form.Encode() != want.Encode() || sent[0].Method != http.MethodPost {
				t.Errorf("form %v", sent[0].Form)
			}
			if id, _, _ := sent[0].BasicAuth(); id != clientID {
				t.Errorf("authenticated as %q", id)
			}
		})
	}
}

// The Token speaks of the client's token, and the upstream gets the exchanged
// JWT. A hit asks nobody.
//
// Catalogue: C2, C3, C8.
func TestExchangedJWTDoesNotChangeWhoIsAuthorised(t *testing.T) {
	as := newAS(t)
	as.introspect, as.metadata = answerMembers(map[string]any{"scope": "read"}), answerExchange(nil)
	m := as.exchanging()
	next := &spy{}
	for range 2 {
		serve(m.RequireScopes("read")(next), get("Bearer "+as.secret(exchangeOpaqueToken)))
	}
	if next.calls() != 2 || as.calls.Load() != 1 || len(as.recorded(tokenPath)) != 1 {
		t.Errorf("%d served, %d introspections, %d exchanges", next.calls(), as.calls.Load(), len(as.recorded(tokenPath)))
	}
	tok := next.tokens[1]
	var jwt struct {
		Azp string
		Aud string
	}
	if err := tok.Decode(&jwt); err != nil || jwt.Azp != clientID || jwt.Aud != "upstream" || tok.ClientID() != "app" {
		t.Errorf("%+v %q %v", jwt, tok.ClientID(), err)
	}
	if got := as.send(m.RequireScopes("admin"), get("Bearer "+exchangeOpaqueToken)); got != code403S {
		t.Errorf("a scope of the exchanged JWT alone: %s", got)
	}
	as.introspect = answerMembers(map[string]any{"active": false}) // C3
	if got := as.try(m, "inactive-token"); got != code401T || len(as.recorded(tokenPath)) != 1 {
		t.Errorf("inactive: %s, %d exchanges", got, len(as.recorded(tokenPath)))
	}
}

// The exchange cannot lengthen what the introspection bounds, and its own bounds
// count too.
//
// Catalogue: C5, C10.
func TestExchangeIsBoundByTheIntrospection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.metadata = answerExchange(map[string]any{"access_token": exchangedJWT(map[string]any{"exp": time.Now().Unix() + 3600}), "expires_in": 3600})
		as.introspect = answerMembers(map[string]any{"exp": nil})
		m := as.exchanging(phantom.WithMaxTTL(time.Minute), phantom.WithRefreshAhead(0))
		if got := as.try(m, exchangeOpaqueToken); got != codeOK {
			t.Fatal(got)
		}
		as.introspect = answerMembers(map[string]any{"active": false})
		time.Sleep(time.Minute)
		if got := as.try(m, exchangeOpaqueToken); got != code401T { // C10
			t.Error(got)
		}
		as.introspect = answerMembers(nil)
		as.metadata = answerExchange(map[string]any{"expires_in": 10})
		calls := as.calls.Load()
		for range 2 {
			if got := as.try(m, "short-token"); got != codeOK {
				t.Fatal(got)
			}
			time.Sleep(10 * time.Second)
		}
		if n := as.calls.Load() - calls; n != 2 {
			t.Errorf("expires_in 10 s: %d lookups in 10 s", n)
		}
		as.metadata = func(w http.ResponseWriter, _ *http.Request) { // C5
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(http.StatusTooManyRequests)
		}
		rec := serve(m.Handler(&spy{}), get("Bearer another-token"))
		if rec.Code != 503 || rec.Header().Get("Retry-After") != "5" {
			t.Errorf("429: %d %v", rec.Code, rec.Header())
		}
	})
}

// The token endpoint comes from the metadata, and Warm says that it is missing.
//
// Catalogue: C13.
func TestTokenEndpointComesFromTheMetadata(t *testing.T) {
	as := newAS(t)
	as.introspect = answerMembers(nil)
	document := map[string]any{"issuer": issuer, "jwks_uri": issuer + jwksPath}
	as.metadata = func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/.well-known/") {
			answerJSON(string(must(json.Marshal(document))))(w, r)
			return
		}
		answerExchange(nil)(w, r)
	}
	bare := func() *phantom.Middleware { return as.middleware(phantom.WithTokenExchange("", nil)) }
	if got := as.try(bare(), exchangeOpaqueToken); got != code502A {
		t.Errorf("no token_endpoint: %s", got)
	}
	if err := bare().Warm(t.Context()); codeOf(nil, err) != code502A {
		t.Errorf("Warm: %v", err)
	}
	document["token_endpoint"] = issuer + tokenPath
	if got := as.try(bare(), exchangeOpaqueToken); got != codeOK {
		t.Errorf("found: %s", got)
	}
}

// What is wrong with a signed response is the server's fault, and missing keys
// are an outage.
//
// Catalogue: B4, B9, B10.
func TestSignedResponseThatCannotBeBelieved(t *testing.T) {
	inside := map[string]any{"iss": issuer, "aud": clientID, "iat": time.Now().Unix(), "token_introspection": members(nil)}
	payload := string(must(json.Marshal(inside)))
	header := func(alg string) string {
		return fmt.Sprintf(`{"alg":%q,"kid":"k-ES256","typ":%q}`, alg, signedResponseTyp)
	}
	good := compact("ES256", p256Key(), header("ES256"), payload)
	foreign := compact("ES384", p384Key(), header("ES384"), payload)
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		keys   http.HandlerFunc
		want   string
	}{
		{"good", answer(200, signedMedia, good), nil, codeOK},
		{"alg none", answer(200, signedMedia, b64([]byte(header("none")))+"."+b64([]byte(payload))+"."), nil, code502A},   // B4
		{"HS256", answer(200, signedMedia, b64([]byte(header("HS256")))+"."+b64([]byte(payload))+".AAAA"), nil, code502A}, // B4
		{"JWE", answer(200, signedMedia, "a.b.c.d.e"), nil, code502A},                                                     // B4
		{"foreign key with our kid", answer(200, signedMedia, foreign), nil, code502A},                                    // B4
		{"no keys", answer(200, signedMedia, good), answer(500, "", ""), code503A},                                        // B4
		{"unsupported_token_type", answer(400, "application/json", `{"error":"unsupported_token_type"}`), nil, code401T},  // B10
		{"401", answer(401, "application/json", `{"error":"invalid_client"}`), nil, code502A},                             // B10
		{"500", answer(500, "", ""), nil, code503A},                                                                       // B10
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect, as.jwks = tc.answer, tc.keys
			m := as.middleware(phantom.WithoutJWT(), phantom.WithSignedResponse(clientID))
			if got := as.try(m, exchangeOpaqueToken); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			if accepts := as.recorded(endpointPath); len(accepts) > 0 && !slices.Equal(accepts[0].Header["Accept"], []string{signedMedia}) {
				t.Errorf("Accept %q", accepts[0].Header["Accept"])
			}
		})
	}
	as := newAS(t) // B9: a client brings it as its token
	if got := as.try(as.direct(), good); got != code401T {
		t.Errorf("replayed: %s", got)
	}
}

// An answer that rests on a key ends with that key.
func TestSignedAnswerEndsWithItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		key := "ES256"
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			inside := map[string]any{"iss": issuer, "aud": clientID, "iat": time.Now().Unix(), "token_introspection": members(nil)}
			header := fmt.Sprintf(`{"alg":%q,"kid":"k-%s","typ":%q}`, key, key, signedResponseTyp)
			answer(200, signedMedia, compact(key, keyFor(key), header, string(must(json.Marshal(inside)))))(w, r)
		}
		as.jwks = answerJSON(jwks(jwk("k-ES256", "ES256", p256Key().Public())))
		m := as.middleware(phantom.WithMinter(newMinter()), phantom.WithSignedResponse(clientID), phantom.WithMaxTTL(time.Hour))
		if got := as.try(m, exchangeOpaqueToken); got != codeOK {
			t.Fatal(got)
		}
		as.jwks = answerJSON(jwks(jwk("k-EdDSA", "EdDSA", edKey().Public())))
		time.Sleep(11 * time.Second)
		key = "EdDSA"
		if got := as.try(m, "another-token"); got != codeOK { // has the new key set fetched
			t.Errorf("another: %s", got)
		}
		key = "ES256"
		if got := as.try(m, exchangeOpaqueToken); got == codeOK {
			t.Error("the entry outlived its key")
		}
	})
}

// Missing keys are no word about the introspection endpoint, which did answer:
// once the keys are there, all tokens pass at once.
//
// Catalogue: B4.
func TestMissingKeysOfSignedAnswersHoldNobodyBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			inside := map[string]any{"iss": issuer, "aud": clientID, "iat": time.Now().Unix(), "token_introspection": members(nil)}
			header := fmt.Sprintf(`{"alg":"ES256","kid":"k-ES256","typ":%q}`, signedResponseTyp)
			answer(200, signedMedia, compact("ES256", p256Key(), header, string(must(json.Marshal(inside)))))(w, r)
		}
		as.jwks = answer(500, "", "")
		m := as.middleware(phantom.WithoutJWT(), phantom.WithSignedResponse(clientID))
		for i := range 15 {
			if got := as.try(m, fmt.Sprint("early-token-", i)); got != code503A {
				t.Errorf("without keys: %s", got)
			}
			time.Sleep(1100 * time.Millisecond)
		}
		if as.calls.Load() < 11 {
			t.Fatalf("only %d lookups got as far as the keys", as.calls.Load())
		}
		as.jwks, as.introspect = nil, wait(100*time.Millisecond, as.introspect)
		var crowd sync.WaitGroup // or the first one would open the way for the others
		for i := range 20 {
			crowd.Go(func() {
				if got := as.try(m, fmt.Sprint("later-token-", i)); got != codeOK {
					t.Errorf("token %d, with keys: %s", i, got)
				}
			})
		}
		crowd.Wait()
	})
}
