package jose_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/phantom-token/phantom/internal/jose"
)

// published are public keys with the thumbprints that RFCs print for them.
var published = []struct{ name, jwk, thumbprint string }{
	{
		"RFC 7638 section 3.1",
		`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`,
		"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
	},
	{
		"RFC 8037 appendix A.3",
		`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
	},
	{
		"RFC 9449 section 6.1",
		`{"kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA","crv":"P-256"}`,
		"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
	},
}

func parseJWK(t testing.TB, jwk string) (*jose.Key, error) {
	t.Helper()
	return jose.ParseJWK(must(jose.ParseObject([]byte(jwk))))
}

func TestThumbprintsAreThoseOfTheRFCs(t *testing.T) {
	for _, tc := range published {
		key, err := parseJWK(t, tc.jwk)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got := key.Thumbprint(); got != tc.thumbprint {
			t.Errorf("%s: %s", tc.name, got)
		}
	}
}

// The thumbprint is of the key alone, whatever else its JWK says.
func TestThumbprintIsOfThePublicKeyAlone(t *testing.T) {
	for _, alg := range algorithms {
		pub := signerFor(alg).Public()
		members := jwkOf(pub) // json.Marshal sorts the names
		sum := sha256.Sum256([]byte(object(members)))
		named := oneKey(t, with(members, "kid", "k1", "alg", alg, "use", "sig"))
		if want := b64(sum[:]); newKey(t, pub).Thumbprint() != want || named.Thumbprint() != want {
			t.Errorf("%s: %s and %s, want %s", alg, newKey(t, pub).Thumbprint(), named.Thumbprint(), want)
		}
	}
	padded := with(jwkOf(&rsaKey().PublicKey), "n", b64(append([]byte{0}, rsaKey().N.Bytes()...)))
	if oneKey(t, padded).Thumbprint() != newKey(t, &rsaKey().PublicKey).Thumbprint() {
		t.Error("a leading zero makes another thumbprint")
	}
}

func TestJWKHasThePublicMembersAndNoOther(t *testing.T) {
	for _, alg := range algorithms {
		pub := signerFor(alg).Public()
		key, err := jose.NewPublishedKey(pub, `my "key" <é>`, alg)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(key.JWK(), &got); err != nil {
			t.Fatal(err)
		}
		if want := with(jwkOf(pub), "use", "sig", "alg", alg, "kid", `my "key" <é>`); object(got) != object(want) {
			t.Errorf("%s: got %s, want %s", alg, object(got), object(want))
		}
		if again, err := parseJWK(t, string(key.JWK())); err != nil || again.Identity() != key.Identity() {
			t.Errorf("%s: it does not come back: %v", alg, err)
		}
		if bare := string(newKey(t, pub).JWK()); strings.Contains(bare, `"kid"`) || strings.Contains(bare, `"alg"`) {
			t.Errorf("%s: a key without a name is written as %s", alg, bare)
		}
	}
}

// A coordinate keeps its size: one in 256 has a leading zero.
func TestJWKKeepsLeadingZerosOfCoordinates(t *testing.T) {
	for {
		pub := &must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).PublicKey
		if point := must(pub.Bytes()); point[1] != 0 && point[33] != 0 {
			continue
		}
		key := newKey(t, pub)
		again, err := parseJWK(t, string(key.JWK()))
		if err != nil || again.Thumbprint() != key.Thumbprint() {
			t.Errorf("%s: %v", key.JWK(), err)
		}
		return
	}
}

func TestUnusableKeyHasNoJWK(t *testing.T) {
	_, unusable, _, err := jose.ParseKeySet(setOf(`{"kty":"AKP","kid":"new"}`))
	if err != nil || len(unusable) != 1 {
		t.Fatal(err)
	}
	if jwk, sum := unusable[0].JWK(), unusable[0].Thumbprint(); jwk != nil || sum != "" {
		t.Errorf("%s, %q", jwk, sum)
	}
}

func TestPublishedKeyDefaults(t *testing.T) {
	want := map[string]string{"RS256": "RS256", "ES256": "ES256", "ES384": "ES384", "ES512": "ES512", "EdDSA": "EdDSA"}
	for alg, def := range want {
		pub := signerFor(alg).Public()
		key, err := jose.NewPublishedKey(pub, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if key.Algorithm() != def || key.ID() != newKey(t, pub).Thumbprint() {
			t.Errorf("%s: alg %q, kid %q", alg, key.Algorithm(), key.ID())
		}
	}
	if key := must(jose.NewPublishedKey(&rsaKey().PublicKey, "", "PS512")); key.Algorithm() != "PS512" || key.Allows("RS256") {
		t.Errorf("alg %q", key.Algorithm())
	}
}

func TestPublishedKeyRefuses(t *testing.T) {
	weak := &rsa.PublicKey{N: modulus(1024), E: 65537}
	for _, tc := range []struct {
		name, id, alg string
		pub           crypto.PublicKey
	}{
		{"HMAC secret", "", "HS256", []byte("secret")},
		{"HMAC with an EC key", "", "HS256", &p256().PublicKey},
		{"another kind's algorithm", "", "RS256", &p256().PublicKey},
		{"RSA of 1024 bits", "", "", weak},
		{"no key", "", "", nil},
		{"private key", "", "", p256()},
		{"kid with a line break", "a\n", "", &p256().PublicKey},
		{"kid too long", strings.Repeat("k", 257), "", &p256().PublicKey},
	} {
		if key, err := jose.NewPublishedKey(tc.pub, tc.id, tc.alg); err == nil || key != nil {
			t.Errorf("%s: accepted", tc.name)
		}
	}
}

func TestParseJWKRefuses(t *testing.T) {
	EC, RSA := jwkOf(&p256().PublicKey), jwkOf(&rsaKey().PublicKey)
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		for _, jwk := range []map[string]any{EC, RSA} {
			if _, err := parseJWK(t, object(with(jwk, name, "AA"))); !errors.Is(err, jose.ErrPrivateKey) {
				t.Errorf("with %s: %v", name, err)
			}
		}
	}
	for name, jwk := range map[string]string{
		"empty": `{}`, "symmetric": `{"kty":"oct","k":"AAAA"}`, "unknown kind": `{"kty":"AKP"}`, "kty as a number": `{"kty":1}`,
		"encryption": object(with(EC, "use", "enc")), "RSA 1024": object(rsaJWK(modulus(1024))), "off the curve": object(with(EC, "y", EC["x"])),
		"unknown curve": object(with(EC, "crv", "secp256k1")), "alg of another kind": object(with(EC, "alg", "ES384")),
	} {
		if key, err := parseJWK(t, jwk); err == nil || key != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
