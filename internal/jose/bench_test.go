package jose_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwt"

	"github.com/phantom-token/phantom/internal/jose"
)

// ordinaryClaims is a payload of the size that authorization servers issue.
const ordinaryClaims = `{"iss":"https://login.example.com/oauth/v2/oauth-anonymous",` +
	`"sub":"5f1c4a9e-2d0b-4c53-9a52-0b6f2f7d6c11",` +
	`"aud":["https://api.example.com","https://orders.example.com"],"exp":1999999999,"iat":1999999699,"nbf":1999999699,` +
	`"jti":"P$8f1e0b6c-3f0d-4f55-8a0e-7a6f4d9a1b2c","client_id":"mobile-app",` +
	`"scope":"openid profile orders:read orders:write",` +
	`"delegation_id":"a9b3f1d2","purpose":"access_token","roles":["customer","beta"],"act":{"sub":"support"}}`

// BenchmarkVerify is one cold verification, from the compact text to verified
// claims, beside the same with jwx's own JWT parser (which checks nothing but
// the signature here, and accepts more).
func BenchmarkVerify(b *testing.B) {
	for _, alg := range []string{"RS256", "PS256", "ES256", "EdDSA"} {
		signer := signerFor(alg)
		token := signed(alg, signer, `{"alg":"`+alg+`","kid":"k1","typ":"at+jwt"}`, ordinaryClaims)
		b.Run(alg+"/gate", func(b *testing.B) {
			key := newKey(b, signer.Public())
			b.ReportAllocs()
			for b.Loop() {
				m, err := jose.Parse(token)
				if err != nil {
					b.Fatal(err)
				}
				if err := key.Verify(m); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(alg+"/jwx", func(b *testing.B) {
			data := []byte(token)
			b.ReportAllocs()
			for b.Loop() {
				withKey := jwt.WithKey(jwa.SignatureAlgorithm(alg), signer.Public())
				if _, err := jwt.Parse(data, withKey, jwt.WithValidate(false)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	token := compact(`{"alg":"ES256","kid":"k1","typ":"at+jwt"}`, ordinaryClaims, anySignature)
	b.ReportAllocs()
	b.SetBytes(int64(len(token)))
	for b.Loop() {
		if _, err := jose.Parse(token); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHostile(b *testing.B) {
	for name, token := range hostile() {
		b.Run(strings.ReplaceAll(name, " ", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = jose.Parse(token)
			}
		})
	}
}

func BenchmarkParseObject(b *testing.B) {
	b.Run("gate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := jose.ParseObject([]byte(ordinaryClaims)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding_json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var members map[string]json.RawMessage
			if err := json.Unmarshal([]byte(ordinaryClaims), &members); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkParseKeySet(b *testing.B) {
	for name, jwk := range map[string]map[string]any{
		"RSA-2048": jwkOf(&rsaKey().PublicKey), "RSA-8192": rsaJWK(modulus(8192)), "P-256": jwkOf(&p256().PublicKey), "Ed25519": jwkOf(edKey().Public()),
	} {
		set := setOf(jwk)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if keys, _, _, err := jose.ParseKeySet(set); err != nil || len(keys) != 1 {
					b.Fatal(err)
				}
			}
		})
	}
}
