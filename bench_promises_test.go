package phantom_test

import (
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"

	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/httpauth"
)

// BenchmarkPromises reports what a hit costs at least: the floor, and what the
// promises add to it that each request has to pay for, alone and together.
//
//	scan    no spelling of Authorization reaches next: one pass over the names
//	clocks  an entry ends by both clocks: one reading of each
//	digest  no token is kept: one block of SHA-256
//
// There is no cache in it, no rule and no log. BenchmarkRatio has the hit beside
// the same floor.
func BenchmarkPromises(b *testing.B) {
	likeAService(b)
	clock := clock.New()
	var kept struct { // what the compiler must not leave out
		fields  httpauth.Fields
		instant int64
		digest  [sha256.Size]byte
	}
	scan := func(r *http.Request) { kept.fields = httpauth.Scan(r.Header) }
	clocks := func(*http.Request) {
		now := clock.Now()
		kept.instant = now.Wall + now.Mono
	}
	digest := func(r *http.Request) {
		var block [55]byte
		copy(block[:], strings.TrimPrefix(r.Header["Authorization"][0], "Bearer "))
		kept.digest = sha256.Sum256(block[:])
	}
	for _, promises := range []struct {
		name string
		keep func(r *http.Request)
	}{
		{"none", func(*http.Request) {}},
		{"scan", scan},
		{"clocks", clocks},
		{"digest", digest},
		{"all", func(r *http.Request) { scan(r); clocks(r); digest(r) }},
	} {
		b.Run(promises.name, func(b *testing.B) {
			bare := floor(quiet)
			kept := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				promises.keep(r)
				bare.ServeHTTP(w, r)
			})
			draws, requests := []int32{0}, []*http.Request{benchRequest(opaque(1))}
			base, measured := &load{bare, requests, draws, 0}, &load{kept, requests, draws, 0}
			ratio(b, "x-floor", 128,
				func(n int) { base.run(n, 1) }, func(n int) { measured.run(n, 1) })
		})
	}
}
