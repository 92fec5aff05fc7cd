package jose_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwt"

	"github.com/phantom-token/phantom/internal/claims"
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

// BenchmarkVerifyRatio runs the check of a signature alone, by the standard
// library, and the whole verification in turn, in chunks so short that whatever
// else the machine does slows both of them down. It reports the median of the
// ratios. The whole is the strict reading of the JWT, the rules for its claims
// and its signature.
func BenchmarkVerifyRatio(b *testing.B) {
	rules := claims.Rules{
		Issuer: "https://login.example.com/oauth/v2/oauth-anonymous", Audience: []string{"https://api.example.com"},
		Algorithms: jose.Algorithms(),
	}
	now := time.Unix(1999999700, 0)
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		signer := signerFor(alg)
		token := signed(alg, signer, `{"alg":"`+alg+`","kid":"k1","typ":"at+jwt"}`, ordinaryClaims)
		dot := strings.LastIndexByte(token, '.')
		input, signature := []byte(token[:dot]), must(decode64(token[dot+1:]))
		key := newKey(b, signer.Public())
		b.Run(alg, func(b *testing.B) {
			const chunk = 20
			var ratios []float64
			for b.Loop() {
				start := time.Now()
				for range chunk {
					if !verifyAlone(signer.Public(), input, signature) {
						b.Fatal("does not verify")
					}
				}
				middle := time.Now()
				for range chunk {
					m, err := jose.Parse(token)
					if err == nil {
						err = errors.Join(rules.CheckHeader(m), key.Verify(m))
					}
					if err == nil {
						_, err = rules.Check(m, now)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				ratios = append(ratios, float64(time.Since(middle))/float64(middle.Sub(start)))
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "x-signature")
			b.ReportMetric(0, "ns/op") // of both together: it means nothing
		})
	}
}

// verifyAlone checks an RS256, ES256 or EdDSA signature.
func verifyAlone(pub crypto.PublicKey, input, signature []byte) bool {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		sum := sha256.Sum256(input)
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], signature) == nil
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(input)
		r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		return ecdsa.Verify(pub, sum[:], r, s)
	case ed25519.PublicKey:
		return ed25519.Verify(pub, input, signature)
	}
	return false
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
