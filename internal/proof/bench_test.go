package proof_test

import (
	"testing"

	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/proof"
)

// BenchmarkParse reads a proof with a key that it sees for the first time,
// beside the same with the key at hand.
func BenchmarkParse(b *testing.B) {
	for _, alg := range []string{"ES256", "EdDSA", "RS256", "PS256"} {
		text := compact(alg, keyFor(alg), changed(headerOf(alg), nil), goodClaims)
		b.Run(alg+"/proof", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := proof.Parse(text, jose.Algorithms()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(alg+"/known key", func(b *testing.B) {
			key := must(jose.NewKey(keyFor(alg).Public()))
			b.ReportAllocs()
			for b.Loop() {
				m, err := jose.Parse(text)
				if err != nil || key.Verify(m) != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
