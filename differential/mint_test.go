package differential_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/phantom-token/phantom"
	jwtmint "github.com/phantom-token/phantom/mint" // mint is what makes the test tokens
)

// go-oidc needs the issuer alone: it reads the metadata and the key set of one
// replica, and verifies the JWT of another with the same keys.
//
// Catalogue: A18.
func TestGoOIDCVerifiesMintedJWTs(t *testing.T) {
	keys := []jwtmint.Key{{Signer: p256Key()}, {Signer: edKey()}, {Signer: rsaKey()}, {Algorithm: "PS256", ID: "ps", Signer: otherRSA()}}
	for _, path := range []string{"", "/tenant/a"} {
		var replica http.Handler
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { replica.ServeHTTP(w, r) }))
		defer server.Close()
		replica = newMinter(t, server.URL+path, keys...)
		ctx := oidc.ClientContext(t.Context(), server.Client())
		provider, err := oidc.NewProvider(ctx, server.URL+path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range keys {
			jwt := minted(t, newMinter(t, server.URL+path, append(keys[i:i+1:i+1], keys[:i]...)...))
			tok, err := provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, jwt)
			if err != nil || tok.Subject != "alice" || tok.Issuer != server.URL+path || time.Until(tok.Expiry) > 5*time.Minute {
				t.Errorf("%q, key %d: %v, %v", path, i, tok, err)
			}
			if _, err := provider.Verifier(&oidc.Config{ClientID: "https://other.test"}).Verify(ctx, jwt); err == nil {
				t.Errorf("%q, key %d: another audience", path, i)
			}
			if _, err := provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, swapSubject(jwt)); err == nil {
				t.Errorf("%q, key %d: another subject", path, i)
			}
		}
	}
}

// go-oidc takes a Minter for a key set, and follows it through a rotation.
func TestMinterInGoOIDC(t *testing.T) {
	m := newMinter(t, issuer, jwtmint.Key{Signer: p256Key()})
	verifier := oidc.NewVerifier(issuer, m, &oidc.Config{ClientID: audience, SupportedSigningAlgs: []string{oidc.ES256, oidc.EdDSA}})
	before := minted(t, m)
	if _, err := verifier.Verify(t.Context(), before); err != nil {
		t.Error(err)
	}
	if err := m.SetKeys(jwtmint.Key{Signer: edKey()}); err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(t.Context(), minted(t, m)); err != nil {
		t.Error(err)
	}
	if _, err := verifier.Verify(t.Context(), before); err == nil {
		t.Error("a removed key still verifies")
	}
}

func newMinter(t *testing.T, name string, keys ...jwtmint.Key) *jwtmint.Minter {
	t.Helper()
	m, err := jwtmint.New(name, keys, jwtmint.WithAudience(audience))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func minted(t *testing.T, m *jwtmint.Minter) string {
	t.Helper()
	jwt, err := m.Mint(context.Background(), "", &phantom.Introspection{
		Active: true, Claims: []byte(`{"sub":"alice","client_id":"app","scope":"read"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	return jwt
}

// swapSubject puts another subject under the same signature.
func swapSubject(jwt string) string {
	parts := strings.Split(jwt, ".")
	payload := string(must(base64.RawURLEncoding.DecodeString(parts[1])))
	parts[1] = b64([]byte(strings.Replace(payload, "alice", "mallory", 1)))
	return strings.Join(parts, ".")
}
