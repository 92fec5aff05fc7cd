package conformance_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// Tests of where the JWT comes from: the claims alone, a Minter, a signed
// response, token exchange. The fixture's parts for them:
//
//   - members makes an answer without a JWT, as answerMembers serves it.
//   - claimsOnly returns a Middleware with WithoutJWT, minting one with a
//     Minter.
//   - A testMinter signs what it is told, with a key of its own.

// members returns the members of a good answer with changes; a nil value
// removes one.
func members(changes map[string]any) map[string]any {
	now := time.Now().Unix()
	m := map[string]any{
		"active": true, "iss": issuer, "aud": audience, "sub": "alice", "client_id": "app",
		"scope": "read write", "token_type": "Bearer", "iat": now, "exp": now + 300,
	}
	maps.Copy(m, changes)
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
	return m
}

func answerMembers(changes map[string]any) http.HandlerFunc {
	return answerJSON(string(must(json.Marshal(members(changes)))))
}

func (as *fakeAS) claimsOnly(extra ...phantom.Option) *phantom.Middleware {
	as.tb.Helper()
	m, err := phantom.New(append(as.withoutKeys(phantom.WithoutJWT()), extra...)...)
	if err != nil {
		as.tb.Fatal(err)
	}
	return m
}

const mintIssuer = "https://gateway.test"

// A testMinter makes JWTs with its key, or returns err.
type testMinter struct {
	name    string
	keys    phantom.KeySet
	changes map[string]any // of the claims
	header  string
	key     ed25519.PrivateKey
	before  func(ctx context.Context)
	err     error
	minted  int
	answer  *phantom.Introspection
}

func newMinter() *testMinter {
	return &testMinter{
		name: mintIssuer, key: edKey(), header: `{"alg":"EdDSA","typ":"at+jwt"}`,
		keys: phantom.StaticKeys(edKey().Public()),
	}
}

func (t *testMinter) Issuer() (string, phantom.KeySet) { return t.name, t.keys }

func (t *testMinter) Mint(ctx context.Context, _ string, answer *phantom.Introspection) (string, error) {
	t.minted++
	t.answer = answer
	if t.before != nil {
		t.before(ctx)
	}
	if t.err != nil {
		return "", t.err
	}
	var said struct{ Sub string }
	if err := json.Unmarshal(answer.Claims, &said); err != nil {
		return "", err
	}
	c := map[string]any{"iss": mintIssuer, "sub": said.Sub, "aud": "upstream", "exp": time.Now().Unix() + 60, "jti": fmt.Sprint(t.minted)}
	maps.Copy(c, t.changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return compact("EdDSA", t.key, t.header, string(must(json.Marshal(c)))), nil
}

func (as *fakeAS) minting(minter phantom.Minter, extra ...phantom.Option) *phantom.Middleware {
	as.tb.Helper()
	m, err := phantom.New(append(as.withoutKeys(phantom.WithMinter(minter)), extra...)...)
	if err != nil {
		as.tb.Fatal(err)
	}
	return m
}

// An answer without a JWT is held to the rules of a JWT, also when a Minter
// makes the JWT: it is not asked for a token that fails.
//
// Catalogue: S2, S4, S5, S7, S8, S10.
func TestAnswerWithoutJWTIsHeldToTheRulesOfAJWT(t *testing.T) {
	now := time.Now().Unix()
	for _, tc := range []struct {
		name    string
		changes map[string]any
		want    string
	}{
		{"good", nil, codeOK},
		{"iss absent", map[string]any{"iss": nil}, codeOK},                     // S4
		{"iss null", map[string]any{"iss": null}, codeOK},                      // S4
		{"iss of another", map[string]any{"iss": issuer + "/"}, code401T},      // S4
		{"iss empty", map[string]any{"iss": ""}, code401T},                     // S4
		{"iss a number", map[string]any{"iss": 1}, code401T},                   // S4
		{"aud of another", map[string]any{"aud": "https://x"}, code401T},       // S5
		{"aud absent", map[string]any{"aud": nil}, code401T},                   // S5
		{"aud null", map[string]any{"aud": null}, code401T},                    // S5
		{"aud empty", map[string]any{"aud": ""}, code401T},                     // S5
		{"aud none", map[string]any{"aud": []string{}}, code401T},              // S5
		{"aud object", map[string]any{"aud": map[string]any{}}, code401T},      // S5
		{"one of aud", map[string]any{"aud": []string{"x", audience}}, codeOK}, // S5
		{"sub absent", map[string]any{"sub": nil}, code401T},
		{"sub null", map[string]any{"sub": null}, code401T}, // S8
		{"sub empty", map[string]any{"sub": ""}, code401T},
		{"sub number", map[string]any{"sub": 7}, code401T},
		{"Sub beside sub", map[string]any{"Sub": "bob"}, code502A}, // S8
		{"client_id number", map[string]any{"client_id": 7}, code401T},
		{"exp now", map[string]any{"exp": now}, code401T},           // S10
		{"exp text", map[string]any{"exp": "1999999999"}, code502A}, // S10
		{"nbf ahead", map[string]any{"nbf": now + 60}, code401T},
		{"nbf within leeway", map[string]any{"nbf": now + 5}, codeOK},
		{"iat ahead", map[string]any{"iat": now + 60}, code401T},
		{"refresh token", map[string]any{"token_use": "refresh_token"}, code401T}, // S7
		{"token_type JWT", map[string]any{"token_type": "JWT"}, codeOK},           // S7
		{"token_type of another kind", map[string]any{"token_type": "refresh_token"}, code401T},
		{"Keycloak's refresh token", map[string]any{"typ": "Refresh"}, code401T},
		{"token_type absent", map[string]any{"token_type": nil}, codeOK},
		{"bound", map[string]any{"cnf": map[string]any{"jkt": "x"}}, code401T},
		{"a JWT member beside", map[string]any{"phantom_token": "x.y.z", "jwt": "x", "token_string": "y"}, codeOK}, // S2
		{"nonce and at_hash", map[string]any{"nonce": "n", "at_hash": "h"}, codeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerMembers(tc.changes)
			if got := as.try(as.claimsOnly(), "opaque-token-of-alice"); got != tc.want {
				t.Errorf("claims only: %s, want %s", got, tc.want)
			}
			minter := newMinter()
			if got := as.try(as.minting(minter), "opaque-token-of-alice"); got != tc.want {
				t.Errorf("minted: %s, want %s", got, tc.want)
			}
			if (minter.minted == 1) != (tc.want == codeOK) {
				t.Errorf("minted %d times", minter.minted)
			}
		})
	}
}

// A Minter's mistake is never the client's fault.
//
// Catalogue: S12, S13.
func TestMintersMistakeIsNotTheClients(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(m *testMinter)
		want   string
	}{
		{"good", func(*testMinter) {}, codeOK},
		{"unavailable", func(m *testMinter) { m.err = phantom.ErrUnavailable }, code503A},            // S12
		{"any error", func(m *testMinter) { m.err = errors.New("kms") }, code503A},                   // S12
		{"upstream", func(m *testMinter) { m.err = phantom.ErrUpstream }, code502A},                  // S12
		{"invalid token", func(m *testMinter) { m.err = phantom.ErrInvalidToken }, code401T},         // S12
		{"panic", func(m *testMinter) { m.before = func(context.Context) { panic("x") } }, code500I}, // S13
		{"other issuer", func(m *testMinter) { m.changes = map[string]any{"iss": issuer} }, code502A},
		{"other subject", func(m *testMinter) { m.changes = map[string]any{"sub": "bob"} }, code502A},
		{"no subject", func(m *testMinter) { m.changes = map[string]any{"sub": nil} }, code502A},
		{"no exp", func(m *testMinter) { m.changes = map[string]any{"exp": nil} }, code502A},
		{"expired", func(m *testMinter) { m.changes = map[string]any{"exp": 1} }, code502A},
		{"bound", func(m *testMinter) { m.changes = map[string]any{"cnf": map[string]any{"jkt": "x"}} }, code502A},
		{"an ID token", func(m *testMinter) { m.changes = map[string]any{"at_hash": "x"} }, code502A},
		{"other typ", func(m *testMinter) { m.header = `{"alg":"EdDSA","typ":"id+jwt"}` }, code502A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerMembers(nil)
			minter := newMinter()
			tc.change(minter)
			if got := as.try(as.minting(minter), "opaque-token-of-alice"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// A signed response is read, and nothing else.
//
// Catalogue: B2, B3, B5, B7.
func TestSignedResponseAloneIsRead(t *testing.T) {
	signed := func(typ string, changes map[string]any) string {
		c := map[string]any{"iss": issuer, "aud": clientID, "iat": time.Now().Unix(), "token_introspection": members(nil)}
		maps.Copy(c, changes)
		return mintHeader("ES256", fmt.Sprintf(`{"alg":"ES256","kid":"k-ES256","typ":%q}`, typ), c)
	}
	const typ, media = "token-introspection+jwt", "application/token-introspection+jwt"
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"good", answer(200, media, signed(typ, nil)), codeOK},
		{"typ in capitals", answer(200, media, signed("TOKEN-INTROSPECTION+JWT", nil)), codeOK},                 // B3
		{"typ JWT", answer(200, media, signed("JWT", nil)), code502A},                                           // B3
		{"typ of the media type", answer(200, media, signed(media, nil)), code502A},                             // B3
		{"plain JSON", answerMembers(nil), code502A},                                                            // B2
		{"plain JSON, inactive", answerJSON(`{"active":false}`), code502A},                                      // B2
		{"application/jwt", answer(200, "application/jwt", signed(typ, nil)), code502A},                         // B2
		{"204", answer(204, "", ""), code502A},                                                                  // B2
		{"other iss", answer(200, media, signed(typ, map[string]any{"iss": "x"})), code502A},                    // B5
		{"one of aud", answer(200, media, signed(typ, map[string]any{"aud": []string{"x", clientID}})), codeOK}, // B5
		{"other aud", answer(200, media, signed(typ, map[string]any{"aud": "x"})), code502A},                    // B5
		{"old", answer(200, media, signed(typ, map[string]any{"iat": 1})), code502A},
		{"inactive", answer(200, media, signed(typ, map[string]any{"token_introspection": map[string]any{"active": false}})), code401T},
		{"no answer", answer(200, media, signed(typ, map[string]any{"token_introspection": "x"})), code502A},                                // B7
		{"active text", answer(200, media, signed(typ, map[string]any{"token_introspection": map[string]any{"active": "true"}})), code502A}, // B7
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = tc.answer
			m := as.middleware(phantom.WithoutJWT(), phantom.WithSignedResponse(clientID))
			if got := as.try(m, "opaque-token-of-alice"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}
