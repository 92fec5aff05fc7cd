package jose_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"

	"github.com/phantom-token/phantom/internal/jose"
)

// hsm is a signer whose private key nobody can see, as one in hardware.
type hsm struct {
	pub  crypto.PublicKey
	sign func(digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func (h hsm) Public() crypto.PublicKey { return h.pub }
func (h hsm) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return h.sign(digest, opts)
}

func behind(key crypto.Signer) hsm {
	return hsm{key.Public(), func(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return key.Sign(rand.Reader, digest, opts)
	}}
}

func TestSign(t *testing.T) {
	for _, alg := range algorithms {
		key := signerFor(alg)
		wrapped := behind(key)
		for name, signer := range map[string]crypto.Signer{"in memory": key, "opaque": wrapped, "opaque pointer": &wrapped} {
			t.Run(alg+" "+name, func(t *testing.T) {
				jwt, err := jose.Sign(alg, "my key", "client-authentication+jwt", signer, []byte(goodPayload))
				if err != nil {
					t.Fatal(err)
				}
				m := parse(t, jwt)
				if m.Algorithm != alg || m.KeyID != "my key" || m.Type != "client-authentication+jwt" ||
					string(m.Payload) != goodPayload {
					t.Errorf("got %q %q %q %s", m.Algorithm, m.KeyID, m.Type, m.Payload)
				}
				if err := newKey(t, key.Public()).Verify(m); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestSignHeader(t *testing.T) {
	for _, tc := range []struct{ kid, typ, want string }{
		{"", "", `{"alg":"ES256"}`},
		{"k1", "", `{"alg":"ES256","kid":"k1"}`},
		{"", "JWT", `{"alg":"ES256","typ":"JWT"}`},
		{"k1", "JWT", `{"alg":"ES256","kid":"k1","typ":"JWT"}`},
		{`a"b\c`, "", `{"alg":"ES256","kid":"a\"b\\c"}`},
		{`","alg":"none`, "", `{"alg":"ES256","kid":"\",\"alg\":\"none"}`},
	} {
		jwt, err := jose.Sign("ES256", tc.kid, tc.typ, p256(), []byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(must(decode64(strings.Split(jwt, ".")[0]))); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
	}
}

func TestSignSignsWhatItIsGiven(t *testing.T) {
	for _, payload := range []string{`{}`, `{"a":1}`, " {\n}", strings.Repeat("x", 5000), `not JSON`} {
		jwt, err := jose.Sign("EdDSA", "", "", edKey(), []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		segments := strings.Split(jwt, ".")
		if got := string(must(decode64(segments[1]))); got != payload {
			t.Errorf("payload %q became %q", payload, got)
		}
		signature := must(decode64(segments[2]))
		if !ed25519.Verify(edKey().Public().(ed25519.PublicKey), []byte(segments[0]+"."+segments[1]), signature) {
			t.Errorf("payload %q: the signature is over something else", payload)
		}
	}
}

func TestSignatureFormIsTheOneOfJWS(t *testing.T) {
	// r or s has a leading zero byte once in 128 signatures; the form keeps its
	// size.
	for range 300 {
		jwt, err := jose.Sign("ES256", "", "", behind(p256()), []byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(must(decode64(strings.Split(jwt, ".")[2]))); n != 64 {
			t.Fatalf("signature of %d bytes", n)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	broken := errors.New("the device is gone")
	answer := func(pub crypto.PublicKey, signature []byte) hsm {
		return hsm{pub, func([]byte, crypto.SignerOpts) ([]byte, error) { return signature, nil }}
	}
	der := func(r, s *big.Int) []byte { return must(asn1.Marshal(struct{ R, S *big.Int }{r, s})) }
	huge := new(big.Int).Lsh(big.NewInt(1), 4096)
	pub := &p256().PublicKey
	liar := behind(otherRSA())
	liar.pub = &rsaKey().PublicKey
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	var noHSM *hsm

	tests := []struct {
		name     string
		alg, kid string
		key      crypto.Signer
	}{
		{"nil key", "RS256", "", nil},
		{"typed nil RSA", "RS256", "", (*rsa.PrivateKey)(nil)},
		{"typed nil EC", "ES256", "", (*ecdsa.PrivateKey)(nil)},
		{"nil Ed25519", "EdDSA", "", ed25519.PrivateKey(nil)},
		{"short Ed25519", "EdDSA", "", ed25519.PrivateKey(make([]byte, 10))},
		{"typed nil device", "ES256", "", noHSM},
		{"no public key", "ES256", "", answer(nil, nil)},
		{"public key of a strange type", "ES256", "", answer("key", nil)},
		{"none", "none", "", p256()},
		{"HS256", "HS256", "", p256()},
		{"empty alg", "", "", p256()},
		{"alg in lower case", "es256", "", p256()},
		{"ES256 with RSA", "ES256", "", rsaKey()},
		{"RS256 with EC", "RS256", "", p256()},
		{"ES384 with P-256", "ES384", "", p256()},
		{"EdDSA with EC", "EdDSA", "", p256()},
		{"PS256 with Ed25519", "PS256", "", edKey()},
		{"RSA 1024", "RS256", "", weak},
		{"kid too long", "ES256", strings.Repeat("k", 257), p256()},
		{"kid with a newline", "ES256", "a\nb", p256()},
		{"kid of bytes", "ES256", "\xff", p256()},
		{"device error", "ES256", "", hsm{pub, func([]byte, crypto.SignerOpts) ([]byte, error) { return nil, broken }}},
		{"device panics", "ES256", "", hsm{pub, func([]byte, crypto.SignerOpts) ([]byte, error) { panic("PKCS#11") }}},
		{"another private key", "RS256", "", liar},
		{"another private key, PSS", "PS384", "", liar},
		{"empty RSA signature", "RS256", "", answer(&rsaKey().PublicKey, nil)},
		{"short RSA signature", "RS256", "", answer(&rsaKey().PublicKey, make([]byte, 255))},
		{"long Ed25519 signature", "EdDSA", "", answer(edKey().Public(), make([]byte, 65))},
		{"empty EC signature", "ES256", "", answer(pub, nil)},
		{"EC signature not DER", "ES256", "", answer(pub, make([]byte, 64))},
		{"EC signature of zeros", "ES256", "", answer(pub, der(new(big.Int), new(big.Int)))},
		{"EC signature, huge r", "ES256", "", answer(pub, der(huge, big.NewInt(1)))},
		{"EC signature, huge s", "ES256", "", answer(pub, der(big.NewInt(1), huge))},
		{"EC signature, negative", "ES256", "", answer(pub, der(big.NewInt(-1), big.NewInt(-1)))},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			jwt, err := jose.Sign(tc.alg, tc.kid, "", tc.key, []byte(`{}`))
			if err == nil || jwt != "" {
				t.Fatalf("got %q, %v", jwt, err)
			}
			if tc.name == "device error" && !errors.Is(err, broken) {
				t.Errorf("the cause is lost: %v", err)
			}
		})
	}
}

func TestSignerMatches(t *testing.T) {
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	publics := map[string]crypto.PublicKey{
		"RSA": &rsaKey().PublicKey, "P-256": &p256().PublicKey, "P-384": &p384().PublicKey, "P-521": &p521().PublicKey,
		"Ed25519": edKey().Public(), "RSA 1024": &rsa.PublicKey{N: modulus(1024), E: 65537}, "P-224": &p224.PublicKey,
		"nil": nil, "string": "key", "private": p256(),
	}
	kinds := map[string]string{
		"RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
		"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519",
		"none": "-", "HS256": "-", "": "-", "ES256K": "-",
	}
	for alg, kind := range kinds {
		for name, pub := range publics {
			if err := jose.SignerMatches(alg, pub); (err == nil) != (name == kind) {
				t.Errorf("%s with %s: %v", alg, name, err)
			}
		}
	}
}

func TestSignedClaimsComeBack(t *testing.T) {
	payload := must(json.Marshal(map[string]any{
		"iss": "client", "sub": "client", "aud": "https://as.test", "jti": "é\u2028\"", "exp": 1999999999,
	}))
	jwt, err := jose.Sign("PS256", "k1", "JWT", rsaKey(), payload)
	if err != nil {
		t.Fatal(err)
	}
	m := parse(t, jwt)
	if jti, _ := m.Claims.Get("jti").Text(); jti != "é\u2028\"" {
		t.Errorf("jti %q", jti)
	}
	if exp, ok := m.Claims.Get("exp").NumericDate(); !ok || exp != 1999999999 {
		t.Errorf("exp %d", exp)
	}
}

// A header with a jwk is that of a DPoP proof (RFC 9449 section 4.2).
func TestSignWithJWK(t *testing.T) {
	key := newKey(t, &p256().PublicKey)
	signer, err := jose.NewSigner(jose.Header{Algorithm: "ES256", Type: "dpop+jwt", JWK: key.JWK()}, p256())
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range []string{`{"jti":"1"}`, `{"jti":"2"}`} {
		m := parse(t, must(signer.Sign([]byte(payload))))
		jwk, ok := m.Header.Get("jwk").Object()
		if !ok || m.Type != "dpop+jwt" || string(m.Payload) != payload {
			t.Fatalf("%v %q %s", ok, m.Type, m.Payload)
		}
		named, err := jose.ParseJWK(jwk)
		if err != nil || named.Thumbprint() != key.Thumbprint() || named.Verify(m) != nil {
			t.Errorf("the key in the header is another: %v", err)
		}
	}
	if _, err := jose.NewSigner(jose.Header{Algorithm: "ES256", JWK: []byte("{")}, p256()); err == nil {
		t.Error("half a JWK is accepted")
	}
}

// A key in hardware costs a call for each signature, and none before.
func TestNewSignerSignsNothing(t *testing.T) {
	device := behind(p256())
	device.sign = func([]byte, crypto.SignerOpts) ([]byte, error) { panic("asked") }
	if _, err := jose.NewSigner(jose.Header{Algorithm: "ES256"}, device); err != nil {
		t.Error(err)
	}
}
