package conformance_test

import (
	"crypto/ed25519"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A minted JWT serves all replicas that verify it, and no others.
//
// Catalogue: H42.
func TestReplicasShareWhatAMinterMakes(t *testing.T) {
	_, other, _ := ed25519.GenerateKey(nil)
	for _, tc := range []struct {
		name    string
		change  func(*testMinter)
		lookups int64
		minted  int
	}{
		{"the same keys", func(*testMinter) {}, 1, 0},
		{"both keys, another one signs", func(m *testMinter) {
			m.key, m.keys = other, phantom.StaticKeys(other.Public(), edKey().Public())
		}, 1, 0},
		{"other keys", func(m *testMinter) { m.key, m.keys = other, phantom.StaticKeys(other.Public()) }, 2, 1},
		{"another name", func(m *testMinter) {
			m.name, m.changes = "https://other.test", map[string]any{"iss": "https://other.test"}
		}, 2, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				as.introspect = answerMembers(nil)
				shared := phantom.WithStore(store, fleetSecret)
				a, b := newMinter(), newMinter()
				tc.change(b)
				as.admits(t, "A", as.minting(a, shared), codeOK)
				as.admits(t, "B", as.minting(b, shared), codeOK)
				expect(t, "lookups", as.calls.Load(), tc.lookups)
				expect(t, "minted by A", a.minted, 1)
				expect(t, "minted by B", b.minted, tc.minted)
			})
		})
	}
}

// An answer without a JWT is judged anew: a rule that made something of it at
// one replica does not hold at another.
//
// Catalogue: H43.
func TestSharedMembersAreJudgedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		as.introspect = answerMembers(map[string]any{"sub": nil})
		shared := phantom.WithStore(store, fleetSecret)
		as.admits(t, "A", as.claimsOnly(shared, phantom.WithClientSubject("client:")), codeOK)
		expect(t, "writes", store.sets.Load(), 1)
		as.admits(t, "B", as.claimsOnly(shared), code401T)
		as.admits(t, "C", as.claimsOnly(shared, phantom.WithClientSubject("client:")), codeOK)
		expect(t, "lookups", as.calls.Load(), 2)
	})
}

// A signed answer is shared with its signature. It must have been young when it
// came, and need not be so when it is loaded.
//
// Catalogue: H44.
func TestReplicasShareSignedAnswers(t *testing.T) {
	for _, tc := range []struct {
		name    string
		keys    string
		lookups int64
		code    string
	}{
		{"the same keys", allKeys(), 1, codeOK},
		{"its key has left", jwks(jwk("k-EdDSA", "EdDSA", keyFor("EdDSA").Public())), 2, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				as.introspect = answer(200, "application/token-introspection+jwt", mintHeader("ES256",
					`{"alg":"ES256","kid":"k-ES256","typ":"token-introspection+jwt"}`, map[string]any{
						"iss": issuer, "aud": clientID, "iat": time.Now().Unix(), "token_introspection": members(nil),
					}))
				replica := func() *phantom.Middleware {
					return as.middleware(phantom.WithoutJWT(), phantom.WithSignedResponse(clientID),
						phantom.WithMaxTTL(5*time.Minute), phantom.WithStore(store, fleetSecret))
				}
				as.admits(t, "A", replica(), codeOK)
				time.Sleep(100 * time.Second)
				as.jwks = answer(200, "application/jwk-set+json", tc.keys)
				got := as.try(replica(), opaqueToken)
				synctest.Wait()
				if tc.code != "" {
					expect(t, "B", got, tc.code)
				} else if got == codeOK {
					t.Error("admitted without the key")
				}
				expect(t, "lookups", as.calls.Load(), tc.lookups)
			})
		})
	}
}
