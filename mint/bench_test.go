package mint_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/mint"
)

const benchAnswer = `{"active":true,"sub":"alice","client_id":"app","scope":"read write","exp":4102444800,"iat":1700000000,` +
	`"aud":["https://rs.test"],"iss":"https://as.test","token_type":"Bearer","groups":["staff","orders"],"acr":"urn:mfa"}`

// BenchmarkMint is to be read beside BenchmarkSignature, the bare signature
// over the same JWT, and BenchmarkSignAndVerify, which also looks at it once,
// as Mint does.
func BenchmarkMint(b *testing.B) {
	for _, key := range benchKeys() {
		b.Run(key.alg, func(b *testing.B) {
			m := newMinter(b, []mint.Key{{Signer: key.signer}})
			a := answer(benchAnswer)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Mint(b.Context(), "", a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSignature(b *testing.B) {
	for _, key := range benchKeys() {
		b.Run(key.alg, func(b *testing.B) {
			input, _ := benchInput(b, key.signer)
			b.ReportAllocs()
			for b.Loop() {
				key.sign(input)
			}
		})
	}
}

func BenchmarkSignAndVerify(b *testing.B) {
	for _, key := range benchKeys() {
		b.Run(key.alg, func(b *testing.B) {
			input, signature := benchInput(b, key.signer)
			jwt := string(input) + "." + base64.RawURLEncoding.EncodeToString(signature)
			b.ReportAllocs()
			for b.Loop() {
				key.sign(input)
				verifies(b, jwt, key.alg, key.signer.Public())
			}
		})
	}
}

type benchKey struct {
	alg    string
	signer crypto.Signer
	sign   func(input []byte)
}

func benchKeys() []benchKey {
	return []benchKey{
		{"ES256", p256(), func(input []byte) {
			sum := sha256.Sum256(input)
			_, _ = ecdsa.SignASN1(rand.Reader, p256(), sum[:])
		}},
		{"EdDSA", edKey(), func(input []byte) { ed25519.Sign(edKey(), input) }},
	}
}

// benchInput returns what the signature of a minted JWT is over, and the
// signature.
func benchInput(b *testing.B, signer crypto.Signer) (input, signature []byte) {
	jwt := must(newMinter(b, []mint.Key{{Signer: signer}}).Mint(b.Context(), "", answer(benchAnswer)))
	must(jose.Parse(jwt))
	dot := strings.LastIndexByte(jwt, '.')
	return []byte(jwt[:dot]), must(base64.RawURLEncoding.DecodeString(jwt[dot+1:]))
}
