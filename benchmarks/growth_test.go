package benchmarks_test

import (
	"flag"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// anyToken is an authorization server that calls every token active. Each gets a
// JWT of its own, which differs from the others in where it lies alone.
type anyToken struct{}

func (anyToken) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/jwt"}},
		Body: io.NopCloser(strings.NewReader(goodJWT())), Request: r,
	}, nil
}

// many returns a handler that remembers n tokens, and requests with some of
// them, drawn at random.
func many(b *testing.B, n int) (http.Handler, []*http.Request) {
	auth := must(phantom.New(
		phantom.WithIssuer(issuer), phantom.WithAudience(audience),
		phantom.WithIntrospectionEndpoint(issuer+"/introspect"),
		phantom.WithClientAuth(phantom.ClientSecretBasic("gateway", "secret")),
		phantom.WithHTTPClient(&http.Client{Transport: anyToken{}}),
		phantom.WithKeySet(phantom.StaticKeys(key().Public())), phantom.WithMaxTTL(ttl), phantom.WithCacheSize(n),
	))
	token := func(i int) string { return "_0XBPWQQ_4c9d6f0e-a8f1-4d3e-9c53-" + strconv.Itoa(1_000_000_000+i) }
	for i := range n {
		if _, err := auth.Verify(b.Context(), token(i)); err != nil {
			b.Fatal(err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	requests := make([]*http.Request, floorChunk)
	for i := range requests {
		requests[i] = request(token(random.IntN(n)))
	}
	return auth.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})), requests
}

var largest = flag.Int("largest", 10_000, "the most tokens of BenchmarkGrowth")

// BenchmarkGrowth sends requests with remembered tokens, drawn from more and
// more of them: up to -largest 1000000, which takes a minute to fill. x-floor
// is the median of the ratios to the floor, with the same requests in turn.
func BenchmarkGrowth(b *testing.B) {
	likeAService(b)
	for n := 1_000; n <= *largest; n *= 10 {
		handler, requests := many(b, n)
		base := floor(nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		b.Run("tokens="+strconv.Itoa(n), func(b *testing.B) {
			w := &sink{}
			send := func(h http.Handler) float64 {
				start := time.Now()
				for _, r := range requests {
					h.ServeHTTP(w, r)
				}
				return float64(time.Since(start))
			}
			var ratios []float64
			for done := 0; done < b.N; done += len(requests) {
				each := send(base)
				ratios = append(ratios, send(handler)/each)
			}
			if w.status != 0 {
				b.Fatalf("status %d", w.status)
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "x-floor")
			b.ReportMetric(0, "ns/op") // of both together: without a meaning
		})
	}
}
