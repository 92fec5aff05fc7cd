package conformance_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A member of an answer by which a token is judged does not vanish because it
// holds the token: without it, a weaker rule would apply, and no logout would
// find its session. The token need not be written as it is.
//
// Catalogue: S7, S8, W5.
func TestMemberThatHoldsTheTokenHidesNothing(t *testing.T) {
	for _, tc := range []struct {
		name    string
		token   string
		changes map[string]any
		want    string
	}{
		{"a member of no meaning", "opaque-token", map[string]any{"x": "opaque-token"}, codeOK},
		{"its id", "opaque-token", map[string]any{"jti": "opaque-token"}, codeOK},
		{"escaped", "opaque-token", map[string]any{"x": json.RawMessage(`"\u006fpaque\u002dtoken"`)}, codeOK},
		{"escaped in a name, deep", "opaque-token", map[string]any{"x": []any{map[string]any{"y": json.RawMessage(`{"\u006fpaque-token":1}`)}}}, codeOK},
		{"sub", "opaque-token", map[string]any{"sub": "opaque-token"}, code401T},
		{"its session, which a logout names", "opaque-token-of-alice", map[string]any{"sid": "s-opaque-token-of-alice"}, code401T},
		{"the name of a key", "opaque-token", map[string]any{"cnf": map[string]any{"jkt": "opaque-token"}}, code401T},
		{"kind", "refresh_token", map[string]any{"token_use": "refresh_token"}, code401T},
		{"type", "refresh_token", map[string]any{"token_type": "refresh_token"}, code401T},
		{"Keycloak's type", "Refresh", map[string]any{"typ": "Refresh"}, code401T},
		{"issuer", "other.test", map[string]any{"iss": "https://other.test"}, code401T},
		{"a short token", "cnf", map[string]any{"cnf": map[string]any{"jkt": "x"}}, code401T},
		{"another short token", "exp", map[string]any{"exp": 1}, code401T},
		{"inside a text", "opaque-token-of-alice", map[string]any{"x": "Bearer opaque-token-of-alice"}, codeOK},
		{"a kind inside a text", "opaque-token-of-alice", map[string]any{"typ": "Bearer opaque-token-of-alice"}, code401T},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerMembers(tc.changes)
			for _, m := range []*phantom.Middleware{as.claimsOnly(), as.claimsOnly(phantom.WithClientSubject("client:")), as.minting(newMinter())} {
				tok, err := m.Verify(t.Context(), tc.token)
				if got := codeOf(tok, err); got != tc.want {
					t.Errorf("%s, want %s: %v", got, tc.want, err)
				}
				var all map[string]any
				if tok != nil && tok.Introspection(&all) == nil && strings.Contains(fmt.Sprint(all, tok.ID()), tc.token) {
					t.Errorf("kept: %v", all)
				}
			}
		})
	}
}

// Members of odd types say nothing that lets a token in.
//
// Catalogue: S7, S8, S9.
func TestMembersOfOddTypesLetNobodyIn(t *testing.T) {
	noSub := map[string]any{"sub": nil, "client_id": nil}
	for _, tc := range []struct {
		name    string
		changes map[string]any
		want    string
	}{
		{"token_type an array", map[string]any{"token_type": []string{"refresh_token"}}, code401T},
		{"token_type an object", map[string]any{"token_type": map[string]any{}}, code401T},
		{"token_type null", map[string]any{"token_type": null}, codeOK},
		{"typ an array", map[string]any{"typ": []string{"Refresh"}}, code401T},
		{"purpose a number", map[string]any{"purpose": 1}, code401T},
		{"token_use an array", map[string]any{"token_use": []string{"access_token"}}, code401T},
		{"typ in another spelling", map[string]any{"Typ": "Refresh"}, code502A},
		{"purpose in another spelling", map[string]any{"PURPOSE": "refresh_token"}, code502A},
		{"sub with a long s", map[string]any{"\u017fub": "bob"}, code502A},
		{"azp a number", map[string]any{"client_id": nil, "azp": 1}, code401T},
		{"azp beside a client_id", map[string]any{"azp": "gateway"}, codeOK},
		{"nothing that says who", noSub, code401T},
		{"cnf an array", map[string]any{"cnf": []string{}}, code401T},
		{"cnf false", map[string]any{"cnf": false}, code401T},
		{"two of one name", map[string]any{"x": json.RawMessage(`{"a":1,"\u0061":2}`)}, code502A},
		{"two of one name but for case", map[string]any{"x": json.RawMessage(`{"a":1,"A":2}`)}, code502A},
		{"half a character", map[string]any{"sub": json.RawMessage(`"\ud800"`)}, code502A},
		{"exp beyond all", map[string]any{"exp": json.RawMessage("1e30")}, code502A},
		{"too deep", map[string]any{"x": json.RawMessage(strings.Repeat("[", 1000) + strings.Repeat("]", 1000))}, code502A},
		{"too long", map[string]any{"x": strings.Repeat("x", 64<<10)}, code502A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerMembers(tc.changes)
			if got := as.try(as.claimsOnly(), "opaque-token"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// No user can take a client's identity: a sub that looks like one of
// WithClientSubject's is refused, in every mode.
//
// Catalogue: S8.
func TestUserCannotBeAClient(t *testing.T) {
	for _, tc := range []struct{ sub, want string }{
		{"client:app", code401T}, {"client:", code401T}, {"client", codeOK}, {"Client:app", codeOK}, {"x-client:app", codeOK},
	} {
		as := newAS(t)
		as.introspect = answerMembers(map[string]any{"sub": tc.sub})
		subjects := phantom.WithClientSubject("client:")
		for _, m := range []*phantom.Middleware{as.claimsOnly(subjects), as.minting(newMinter(), subjects)} {
			if got := as.try(m, "opaque-token"); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.sub, got, tc.want)
			}
		}
		jwt := mint("ES256", claims(map[string]any{"sub": tc.sub}))
		as.introspect = answerJWT(jwt)
		for _, got := range []string{as.try(as.middleware(subjects), "opaque-token"), as.try(as.direct(subjects), jwt)} {
			if got != tc.want {
				t.Errorf("%s in a JWT: %s, want %s", tc.sub, got, tc.want)
			}
		}
	}
}

// A subject of any length is the same wherever it is read.
func TestSubjectIsTheSameWhereverItIsRead(t *testing.T) {
	for _, sub := range []string{"ä", "a\u0000b", "A", strings.Repeat("ü", 200), strings.Repeat("x", 5000), "<&>\u2028"} {
		for _, client := range []bool{false, true} {
			as := newAS(t)
			changes, want := map[string]any{"sub": sub}, sub
			if client {
				changes, want = map[string]any{"sub": nil, "client_id": sub}, "client:"+sub
			}
			as.introspect = answerMembers(changes)
			subjects := phantom.WithClientSubject("client:")
			for _, m := range []*phantom.Middleware{as.claimsOnly(subjects), as.minting(newMinter(), subjects)} {
				tok, err := m.Verify(t.Context(), "opaque-token")
				if err != nil {
					t.Fatal(err)
				}
				var decoded, said struct{ Sub string }
				if err := errors.Join(tok.Decode(&decoded), tok.Introspection(&said)); err != nil {
					t.Fatal(err)
				}
				if tok.Subject() != want || decoded.Sub != want || said.Sub != want {
					t.Errorf("%.20q, %.20q, %.20q, want %.20q", tok.Subject(), decoded.Sub, said.Sub, want)
				}
			}
		}
	}
}

// An error status brings no answer where a signed one is demanded, whatever its
// body says.
//
// Catalogue: B2.
func TestUnsignedInactiveIsNoVerdict(t *testing.T) {
	for _, tc := range []struct {
		status int
		body   string
		want   string
	}{
		{400, `{"active":false}`, code502A},
		{404, `{"active":false}`, code502A},
		{400, `{"active":false,"error":"invalid_token"}`, code502A},
		{400, `{"error":"unsupported_token_type"}`, code401T}, // B10
	} {
		as := newAS(t)
		as.introspect = answer(tc.status, "application/json", tc.body)
		signed := as.middleware(phantom.WithoutJWT(), phantom.WithSignedResponse(clientID))
		if got := as.try(signed, "opaque-token"); got != tc.want {
			t.Errorf("%d %s: %s, want %s", tc.status, tc.body, got, tc.want)
		}
		if got := as.try(as.claimsOnly(), "opaque-token"); got != code401T {
			t.Errorf("%d %s, not to be signed: %s", tc.status, tc.body, got)
		}
	}
}

// A verdict of one key's ends with it, also where two keys stand behind it: the
// one of the signed answer and the one of the exchanged JWT.
func TestEntryEndsWithEitherOfItsKeys(t *testing.T) {
	for _, gone := range []string{"ES256", "EdDSA"} {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			signer := "ES256" // of the answer; the JWT's is the other
			other := map[string]string{"ES256": "EdDSA", "EdDSA": "ES256"}
			as.introspect = func(w http.ResponseWriter, r *http.Request) {
				inside := map[string]any{"iss": issuer, "aud": clientID, "iat": time.Now().Unix(), "token_introspection": members(nil)}
				header := fmt.Sprintf(`{"alg":%q,"kid":"k-%s","typ":%q}`, signer, signer, signedResponseTyp)
				answer(200, signedMedia, mintHeader(signer, header, inside))(w, r)
			}
			as.metadata = func(w http.ResponseWriter, r *http.Request) {
				alg := other[signer]
				answerExchange(map[string]any{"access_token": mint(alg, claims(map[string]any{"aud": "upstream"}))})(w, r)
			}
			key := func(alg string) map[string]any { return jwk("k-"+alg, alg, keyFor(alg).Public()) }
			as.jwks = answerJSON(jwks(key("ES256"), key("EdDSA")))
			m := as.exchanging(phantom.WithSignedResponse(clientID), phantom.WithMaxTTL(time.Hour), phantom.WithRefreshAhead(0))
			for range 2 {
				if got := as.try(m, exchangeOpaqueToken); got != codeOK {
					t.Fatal(got)
				}
			}
			as.jwks = answerJSON(jwks(key(other[gone]), key("ES384")))
			time.Sleep(11 * time.Second)
			as.introspect = answer(200, signedMedia, mintHeader("ES384",
				`{"alg":"ES384","kid":"k-ES384","typ":"`+signedResponseTyp+`"}`,
				map[string]any{"iss": issuer, "aud": clientID, "iat": time.Now().Unix(), "token_introspection": members(nil)}))
			as.metadata = answer(400, "", "")
			if got := as.try(m, "another-token"); got != code502A { // has the new key set fetched
				t.Errorf("another: %s", got)
			}
			if got := as.try(m, exchangeOpaqueToken); got == codeOK {
				t.Errorf("the entry outlived the key of %s", gone)
			}
		})
	}
}
