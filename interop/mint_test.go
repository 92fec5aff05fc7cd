package interop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/ory/fosite"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/mint"
)

// settled is longer than the pause of this library between two fetches of a
// key set that has not become stale.
const settled = 1100 * time.Millisecond

// A verifier is what an upstream knows a JWT by. All it has is the issuer.
type verifier func(t *testing.T, jwt string) error

// newVerifiers are three upstreams that share no code.
func newVerifiers(t *testing.T, issuer string) map[string]verifier {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	// go-oidc reads the algorithms in the metadata once, when it starts. A key
	// for another algorithm needs them listed here, or an upstream that starts
	// anew after the key was appended.
	goOIDC := provider.Verifier(&oidc.Config{ClientID: upstreamName, SupportedSigningAlgs: []string{"ES256", "RS256", "EdDSA"}})
	library, err := phantom.New(phantom.WithIssuer(issuer), phantom.WithAudience(upstreamName),
		phantom.WithoutIntrospection(), phantom.WithRFC9068(), phantom.WithMaxTTL(0))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]verifier{
		"go-oidc": func(t *testing.T, jwt string) error {
			_, err := goOIDC.Verify(t.Context(), jwt)
			return err
		},
		"this library": func(t *testing.T, jwt string) error {
			_, err := library.Verify(t.Context(), jwt)
			return err
		},
		"the standard library": func(t *testing.T, jwt string) error { return verifyByHand(t, issuer, jwt) },
	}
}

// TestMintedJWTsThroughARotationAndALeak runs two gateways that share their
// keys. One makes the JWTs, for tokens of fosite's; the other serves the
// documents by which the upstreams verify them.
//
// Catalogue: A10, A15, A17, A18.
func TestMintedJWTsThroughARotationAndALeak(t *testing.T) {
	t.Parallel()
	old, next, safe := mint.Key{ID: "old", Signer: newP256(t)}, mint.Key{ID: "next", Signer: newRSA()}, mint.Key{ID: "safe", Signer: newEd25519(t)}
	serving := newReplica(t)
	issuer, _ := serving.minter.Issuer()
	making := newMinter(t, issuer, old)
	setKeys := func(keys ...mint.Key) func() {
		return func() {
			for _, minter := range []*mint.Minter{serving.minter, making} {
				if err := minter.SetKeys(keys...); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	setKeys(old)()
	s := newFosite(t, &fosite.Config{DisableRefreshTokenValidation: true})
	gateway := s.middleware(t, phantom.WithMinter(making), phantom.WithMaxTTL(time.Hour), phantom.WithRFC9068())
	token, _ := s.issue(t)
	upstreams := newVerifiers(t, issuer)

	var jwts []string // one of each step
	for _, tc := range []struct {
		what   string
		before func()
		kid    string
		served []string
		gone   bool // the JWTs of the steps before verify no longer
	}{
		{what: "one key", before: func() {}, kid: "old", served: []string{"old"}},
		{what: "the new one appended", before: setKeys(old, next), kid: "old", served: []string{"old", "next"}},
		{what: "moved to the front", before: setKeys(next, old), kid: "old", served: []string{"next", "old"}}, // the cached JWT
		{what: "a new lookup", before: func() { _ = gateway.Purge() }, kid: "next", served: []string{"next", "old"}},
		{what: "the old one removed", before: setKeys(next), kid: "next", served: []string{"next"}},
		{what: "a leak", before: func() { time.Sleep(settled); setKeys(safe)(); _ = gateway.Purge() }, kid: "safe", served: []string{"safe"}, gone: true},
	} {
		tc.before()
		if got := servedKeys(t, issuer); !slices.Equal(got, tc.served) {
			t.Errorf("%s: served are %v, want %v", tc.what, got, tc.served)
		}
		tok, err := gateway.Verify(t.Context(), token)
		if err != nil {
			t.Fatalf("%s: %v", tc.what, err)
		}
		if got := kid(t, tok.JWT()); got != tc.kid {
			t.Errorf("%s: signed by %s, want %s", tc.what, got, tc.kid)
		}
		for name, verify := range upstreams {
			if err := verify(t, tok.JWT()); err != nil {
				t.Errorf("%s: %s: %v", tc.what, name, err)
			}
			for _, jwt := range jwts {
				if err := verify(t, jwt); tc.gone && err == nil {
					t.Errorf("%s: %s still takes a JWT of %s", tc.what, name, kid(t, jwt))
				}
			}
		}
		jwts = append(jwts, tok.JWT())
	}
}

// A rotation in its three steps is seen by none of the upstreams.
//
// Catalogue: A14.
func TestRotationRefusesNoJWT(t *testing.T) {
	t.Parallel()
	serving := newReplica(t)
	issuer, _ := serving.minter.Issuer()
	upstreams := newVerifiers(t, issuer)
	s := newFosite(t, &fosite.Config{DisableRefreshTokenValidation: true})
	gateway := s.middleware(t, phantom.WithMinter(serving.minter), phantom.WithMaxTTL(0))
	token, _ := s.issue(t)

	old := mint.Key{ID: "0", Signer: newP256(t)}
	if err := serving.minter.SetKeys(old); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var workers sync.WaitGroup
	for name, verify := range upstreams {
		workers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				tok, err := gateway.Verify(t.Context(), token)
				if err != nil {
					t.Errorf("the gateway: %v", err)
					return
				}
				if err := verify(t, tok.JWT()); err != nil {
					t.Errorf("%s, signed by %s: %v", name, kid(t, tok.JWT()), err)
					return
				}
			}
		})
	}
	for i := range 3 {
		next := mint.Key{ID: fmt.Sprint(i + 1), Signer: newP256(t)}
		for _, keys := range [][]mint.Key{{old, next}, {next, old}} {
			if err := serving.minter.SetKeys(keys...); err != nil {
				t.Error(err)
			}
			time.Sleep(settled) // the old one stays while its JWTs are on the way
		}
		old = next
	}
	close(done)
	workers.Wait()
}

// Catalogue: A17.
func TestMintedJWTForAnotherAudience(t *testing.T) {
	t.Parallel()
	serving := newReplica(t)
	issuer, _ := serving.minter.Issuer()
	s := newFosite(t, &fosite.Config{DisableRefreshTokenValidation: true})
	token, _ := s.issue(t)
	tok, err := s.middleware(t, phantom.WithMinter(serving.minter)).Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	other, err := phantom.New(phantom.WithIssuer(issuer), phantom.WithAudience(api), phantom.WithoutIntrospection())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Verify(t.Context(), tok.JWT()); !errors.Is(err, phantom.ErrInvalidToken) {
		t.Errorf("this library: %v", err)
	}
	provider, err := oidc.NewProvider(t.Context(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.Verifier(&oidc.Config{ClientID: api}).Verify(t.Context(), tok.JWT()); err == nil {
		t.Error("go-oidc takes it")
	}
}

// A publicJWK is an entry of the key set.
type publicJWK map[string]string

func keySet(t *testing.T, issuer string) []publicJWK {
	t.Helper()
	get := func(url string, v any) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		status, body := do(t, r)
		if err := json.Unmarshal([]byte(body), v); status != http.StatusOK || err != nil {
			t.Fatalf("%s: status %d: %v", url, status, err)
		}
	}
	var metadata struct {
		JWKS string `json:"jwks_uri"`
	}
	get(issuer+"/.well-known/openid-configuration", &metadata)
	var set struct{ Keys []publicJWK }
	get(metadata.JWKS, &set)
	return set.Keys
}

// servedKeys are the names of the keys that are served. They have no private
// members.
func servedKeys(t *testing.T, issuer string) (names []string) {
	t.Helper()
	for _, key := range keySet(t, issuer) {
		for member := range key {
			if !slices.Contains([]string{"kty", "crv", "x", "y", "n", "e", "use", "alg", "kid"}, member) {
				t.Errorf("the key set has a member %q", member)
			}
		}
		names = append(names, key["kid"])
	}
	return names
}

func kid(t *testing.T, jwt string) string {
	t.Helper()
	var header struct{ Kid string }
	if err := json.Unmarshal(segment(t, jwt, 0), &header); err != nil {
		t.Fatal(err)
	}
	return header.Kid
}

func segment(t *testing.T, jwt string, i int) []byte {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("%d segments", len(parts))
	}
	return decoded(t, parts[i])
}

func decoded(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// verifyByHand checks the JWT as RFC 9068 section 4 says, with package crypto
// and the key set that is served now.
func verifyByHand(t *testing.T, issuer, jwt string) error {
	t.Helper()
	var header struct{ Alg, Typ, Kid string }
	if err := json.Unmarshal(segment(t, jwt, 0), &header); err != nil {
		return err
	}
	keys := keySet(t, issuer)
	i := slices.IndexFunc(keys, func(k publicJWK) bool { return k["kid"] == header.Kid })
	if i < 0 || header.Typ != "at+jwt" || keys[i]["alg"] != header.Alg {
		return fmt.Errorf("no key for %+v", header)
	}
	signed, signature := jwt[:strings.LastIndexByte(jwt, '.')], segment(t, jwt, 2)
	if !verifySignature(t, keys[i], []byte(signed), signature) {
		return errors.New("signature")
	}
	var claims struct {
		Issuer   string `json:"iss"`
		Audience string `json:"aud"`
		Subject  string `json:"sub"`
		Client   string `json:"client_id"`
		Expiry   int64  `json:"exp"`
		IssuedAt int64  `json:"iat"`
		ID       string `json:"jti"`
	}
	if err := json.Unmarshal(segment(t, jwt, 1), &claims); err != nil {
		return err
	}
	now := time.Now().Unix()
	if claims.Issuer != issuer || claims.Audience != upstreamName || claims.Subject != "alice" || claims.Client != "app" ||
		claims.ID == "" || claims.IssuedAt > now || claims.Expiry <= now || claims.Expiry > claims.IssuedAt+300 {
		return fmt.Errorf("claims: %+v", claims)
	}
	return nil
}

func verifySignature(t *testing.T, key publicJWK, signed, signature []byte) bool {
	t.Helper()
	digest := sha256.Sum256(signed)
	switch key["kty"] {
	case "EC":
		point := slices.Concat([]byte{4}, decoded(t, key["x"]), decoded(t, key["y"]))
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		return err == nil && len(signature) == 64 &&
			ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	case "RSA":
		e := new(big.Int).SetBytes(decoded(t, key["e"]))
		public := &rsa.PublicKey{N: new(big.Int).SetBytes(decoded(t, key["n"])), E: int(e.Int64())}
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	case "OKP":
		return ed25519.Verify(ed25519.PublicKey(decoded(t, key["x"])), signed, signature)
	}
	return false
}

func newEd25519(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
