package dpop_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/phantomtest"
)

// always is a store that has seen nothing, so that one proof can be checked
// again and again.
var always = &recorder{answer: func(context.Context) (bool, error) { return true, nil }}

// BenchmarkCheck is a good proof of ES256 beside the bare check of such a
// signature, which is the floor. They run in turn, so that what else the
// machine does slows both down.
func BenchmarkCheck(b *testing.B) {
	key := phantomtest.NewProofKey()
	binding := newBinding(b, dpop.WithReplayStore(always))
	r := get(key.Sign(good()))
	thumbprint := key.Thumbprint()
	check := func() {
		if err := binding.Check(r, opaque, thumbprint); err != nil {
			b.Fatal(err)
		}
	}
	bare := bareCheck(b)

	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			check()
		}
	})
	b.Run("signature", func(b *testing.B) {
		for b.Loop() {
			bare()
		}
	})
	b.Run("ratio", func(b *testing.B) {
		var ratios []float64
		const chunk = 20
		for done := 0; done < b.N; done += chunk {
			start := time.Now()
			for range chunk {
				bare()
			}
			middle := time.Now()
			for range chunk {
				check()
			}
			ratios = append(ratios, float64(time.Since(middle))/float64(middle.Sub(start)))
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[len(ratios)/2], "check/signature")
		b.ReportMetric(0, "ns/op") // of both together: says nothing
	})
}

func bareCheck(b *testing.B) func() {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	input := make([]byte, 450) // as long as a proof
	digest := sha256.Sum256(input)
	signature, err := ecdsa.SignASN1(rand.Reader, private, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	return func() {
		digest := sha256.Sum256(input)
		if !ecdsa.VerifyASN1(&private.PublicKey, digest[:], signature) {
			b.Fatal("does not verify")
		}
	}
}

// BenchmarkRefused is what a request costs that brings no good proof.
func BenchmarkRefused(b *testing.B) {
	thumbprint := phantomtest.NewProofKey().Thumbprint()
	binding := newBinding(b)
	for _, tc := range []struct {
		name string
		r    *http.Request
	}{{"none", get()}, {"no JWT", get(opaque)}} {
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if binding.Check(tc.r, opaque, thumbprint) == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}
