package phantom_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// The cost of a hit is measured against the floor: the same next handler behind
// a wrapper that only makes the copy of the request that every middleware of
// this kind has to make. Times are one machine's. What must hold are the
// ratios, so BenchmarkRatio runs the floor and the hit in turn and reports
// these; run it with -count 6 at least, and look at the median.

// What the benchmarks' authorization server is known by.
const (
	benchIssuer   = "https://as.test"
	benchEndpoint = benchIssuer + "/introspect"
	benchJWKS     = benchIssuer + "/jwks"
	benchAudience = "https://rs.test"
)

var benchKey = sync.OnceValue(func() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) })

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

type floorKey struct{}

// floor returns that wrapper.
func floor(next http.Handler) http.Handler {
	value, token := "Bearer "+benchJWT(), new(phantom.Token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := r.WithContext(context.WithValue(r.Context(), floorKey{}, token))
		out.Header = maps.Clone(r.Header)
		out.Header["Authorization"] = []string{value}
		next.ServeHTTP(w, out)
	})
}

// benchJWT is 800 bytes long.
var benchJWT = sync.OnceValue(func() string {
	now, jwt := time.Now(), ""
	for padding := 0; len(jwt) < 800; padding++ {
		input := b64([]byte(`{"alg":"EdDSA","typ":"at+jwt"}`)) + "." + b64(fmt.Appendf(nil,
			`{"iss":%q,"aud":%q,"sub":"alice","client_id":"app","jti":"id-1","scope":"read write","iat":%d,"exp":%d,"padding":%q}`,
			benchIssuer, benchAudience, now.Unix(), now.Add(24*time.Hour).Unix(), strings.Repeat("x", padding)))
		jwt = input + "." + b64(ed25519.Sign(benchKey(), []byte(input)))
	}
	return jwt
})

// A benchServer is an authorization server in memory that costs next to
// nothing: every token is active, except those that begin with "junk".
type benchServer struct {
	calls   atomic.Int64
	latency time.Duration
	jwt     func() string // nil: benchJWT
}

func (s *benchServer) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/jwt"}}, Request: r}
	if r.URL.String() == benchJWKS {
		resp.Header["Content-Type"] = []string{"application/jwk-set+json"}
		public := benchKey().Public().(ed25519.PublicKey)
		resp.Body = io.NopCloser(strings.NewReader(fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":%q}]}`, b64(public))))
		return resp, nil
	}
	s.calls.Add(1)
	time.Sleep(s.latency)
	form, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	switch {
	case bytes.Contains(form, []byte("token=junk")):
		resp.StatusCode, resp.Body = http.StatusNoContent, http.NoBody
	case s.jwt != nil:
		resp.Body = io.NopCloser(strings.NewReader(s.jwt()))
	default:
		resp.Body = io.NopCloser(strings.NewReader(benchJWT()))
	}
	return resp, nil
}

func (s *benchServer) middleware(tb testing.TB, extra ...phantom.Option) *phantom.Middleware {
	m, err := phantom.New(append([]phantom.Option{
		phantom.WithIssuer(benchIssuer), phantom.WithAudience(benchAudience),
		phantom.WithIntrospectionEndpoint(benchEndpoint), phantom.WithJWKSURL(benchJWKS),
		phantom.WithClientAuth(phantom.ClientSecretBasic("gateway_client", "s3cr3t-of-the-gateway")),
		phantom.WithHTTPClient(&http.Client{Transport: s}),
		phantom.WithMaxTTL(12 * time.Hour), phantom.WithTimeout(time.Minute),
	}, extra...)...)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

var benchURL = &url.URL{Scheme: "https", Host: "rs.test", Path: "/orders/42", RawQuery: "expand=lines"}

// benchRequest has twelve header fields, as a browser's request behind a load
// balancer has.
func benchRequest(token string) *http.Request {
	return (&http.Request{
		Method: http.MethodGet, URL: benchURL, Host: "rs.test", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		RemoteAddr: "192.0.2.7:41812", RequestURI: "/orders/42?expand=lines", Body: http.NoBody,
		Header: http.Header{
			"Accept":            {"application/json"},
			"Accept-Encoding":   {"gzip, deflate, br"},
			"Accept-Language":   {"en-GB,en;q=0.9"},
			"Authorization":     {"Bearer " + token},
			"Cache-Control":     {"no-cache"},
			"Origin":            {"https://app.example.com"},
			"Referer":           {"https://app.example.com/orders"},
			"Traceparent":       {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			"User-Agent":        {"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
			"X-Forwarded-For":   {"192.0.2.7"},
			"X-Forwarded-Proto": {"https"},
			"X-Request-Id":      {"8f14e45f-ceea-467f-9d4b-2a2c1c1b3b2d"},
		},
	}).WithContext(context.Background())
}

// opaque returns the i-th opaque token, of a usual length.
func opaque(i int) string { return fmt.Sprintf("_0XBPWQQ_%08d-a8f1-4d3e-9c53-5c0d6c7b", i) }

// A sink takes answers.
type sink struct{ status int }

func (*sink) Header() http.Header         { return http.Header{} }
func (*sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(status int)    { s.status = status }

// quiet is the next handler of all benchmarks.
var quiet = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

// benchRequests returns requests for n tokens, all of which are cached.
func benchRequests(tb testing.TB, h http.Handler, n int) []*http.Request {
	requests := make([]*http.Request, n)
	for i := range requests {
		requests[i] = benchRequest(opaque(i))
		if w := (&sink{}); true {
			if h.ServeHTTP(w, requests[i]); w.status != 0 {
				tb.Fatalf("status %d", w.status)
			}
		}
	}
	return requests
}

// A load is a handler with the requests that it is given.
type load struct {
	name     string
	handler  http.Handler
	requests []*http.Request
	draws    []int32 // which of them; as many as a power of two
}

func (l *load) serve(w http.ResponseWriter, i int) {
	l.handler.ServeHTTP(w, l.requests[l.draws[i&(len(l.draws)-1)]])
}

// run serves n requests in as many goroutines as it is told.
func (l *load) run(n, goroutines int) {
	var wg sync.WaitGroup
	part := func(g int) {
		w := &sink{}
		for i := range n / goroutines {
			l.serve(w, i+g*1999)
		}
	}
	for g := range goroutines - 1 {
		wg.Go(func() { part(g + 1) })
	}
	part(0)
	wg.Wait()
}

// zipf draws from n by Zipf's law.
func zipf(n int) []int32 {
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, uint64(n-1))
	draws := make([]int32, 1<<16)
	for i := range draws {
		draws[i] = int32(z.Uint64())
	}
	return draws
}

// benchLoads returns the floor and the hit for one token, and for 10,000 by
// Zipf's law.
func benchLoads(tb testing.TB) [][2]*load {
	var loads [][2]*load
	for name, n := range map[string]int{"OneToken": 1, "Zipf10000": 10_000} {
		hit := new(benchServer).middleware(tb).Handler(quiet)
		requests, draws := benchRequests(tb, hit, n), []int32{0}
		if n > 1 {
			draws = zipf(n)
		}
		loads = append(loads, [2]*load{{"Floor" + name, floor(quiet), requests, draws}, {"Hit" + name, hit, requests, draws}})
	}
	slices.SortFunc(loads, func(a, b [2]*load) int { return len(a[0].requests) - len(b[0].requests) })
	return loads
}

func BenchmarkHit(b *testing.B) {
	for _, pair := range benchLoads(b) {
		for _, l := range pair {
			b.Run(l.name, func(b *testing.B) {
				b.ReportAllocs()
				l.run(b.N, 1)
			})
			b.Run(l.name+"/goroutines=32", func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(max(1, 32/runtime.GOMAXPROCS(0)))
				var worker atomic.Int64
				b.RunParallel(func(pb *testing.PB) {
					w, i := &sink{}, int(worker.Add(1))*1999
					for ; pb.Next(); i++ {
						l.serve(w, i)
					}
				})
			})
		}
	}
}

// ratio runs two loads in turn, in chunks so short that whatever else the
// machine does slows both of them down, and reports the median of the ratios.
func ratio(b *testing.B, unit string, chunk int, base, measured func(n int)) {
	var ratios []float64
	for done := 0; done < b.N; done += chunk {
		start := time.Now()
		base(chunk)
		middle := time.Now()
		measured(chunk)
		ratios = append(ratios, float64(time.Since(middle))/float64(middle.Sub(start)))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], unit)
	b.ReportMetric(0, "ns/op") // of both together: says nothing
}

func BenchmarkRatio(b *testing.B) {
	for _, pair := range benchLoads(b) {
		for _, goroutines := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/goroutines=%d", pair[1].name, goroutines), func(b *testing.B) {
				ratio(b, "x-floor", 4096,
					func(n int) { pair[0].run(n, goroutines) },
					func(n int) { pair[1].run(n, goroutines) })
			})
		}
	}
}

// BenchmarkContention reports what 32 goroutines at one token lose against 2.
//
// Catalogue: L288.
func BenchmarkContention(b *testing.B) {
	hit := benchLoads(b)[0][1]
	ratio(b, "x-of-2-goroutines", 32<<10,
		func(n int) { hit.run(n, 2) },
		func(n int) { hit.run(n, 32) })
}

// TestHitAllocations counts: a hit allocates what the copy of the request
// takes, and nothing else.
func TestHitAllocations(t *testing.T) {
	const runs = 1000
	count := func(h http.Handler, r *http.Request) float64 {
		w := &sink{}
		h.ServeHTTP(w, r)
		allocs := testing.AllocsPerRun(runs, func() { h.ServeHTTP(w, r) })
		if w.status != 0 {
			t.Fatalf("status %d", w.status)
		}
		return allocs
	}
	m := new(benchServer).middleware(t)
	for name, r := range map[string]*http.Request{
		"usual":     benchRequest(opaque(1)),
		"long":      benchRequest(strings.Repeat("x", 300)),
		"no others": {Method: http.MethodGet, URL: benchURL, Header: http.Header{"Authorization": {"Bearer x"}}},
	} {
		want := count(floor(quiet), r)
		for kind, h := range map[string]http.Handler{
			"Handler":       m.Handler(quiet),
			"RequireScopes": m.RequireScopes("read", "write")(quiet),
		} {
			if got := count(h, r); got != want {
				t.Errorf("%s, %s: %v allocations, the floor has %v", name, kind, got, want)
			}
		}
	}
}

// coldStart has each goroutine of a crowd ask for one of the tokens, all at
// once and none of them cached.
func coldStart(b *testing.B, goroutines, tokens int) {
	const latency = 100 * time.Millisecond
	var waits []time.Duration
	lookups := int64(0)
	for range b.N {
		b.StopTimer()
		s := &benchServer{}
		h := s.middleware(b, phantom.WithMaxInFlight(1000)).Handler(quiet)
		benchRequests(b, h, 1) // so that the keys are there
		s.calls.Store(0)
		s.latency = latency
		requests := make([]*http.Request, goroutines)
		for i := range requests {
			requests[i] = benchRequest("cold" + opaque(i%tokens))
		}
		took := make([]time.Duration, goroutines)
		var ready, wg sync.WaitGroup
		gate := make(chan struct{})
		for i, r := range requests {
			ready.Add(1)
			wg.Go(func() {
				w := &sink{}
				ready.Done()
				<-gate
				start := time.Now()
				if h.ServeHTTP(w, r); w.status != 0 {
					b.Errorf("status %d", w.status)
				}
				took[i] = time.Since(start)
			})
		}
		ready.Wait()
		runtime.GC()
		b.StartTimer()
		close(gate)
		wg.Wait()
		waits = append(waits, took...)
		lookups += s.calls.Load()
	}
	slices.Sort(waits)
	b.ReportMetric(float64(lookups)/float64(b.N), "lookups")
	b.ReportMetric(float64(waits[len(waits)*99/100])/float64(latency), "p99-x-roundtrip")
}

func BenchmarkColdOneToken(b *testing.B) { coldStart(b, 10_000, 1) }

func BenchmarkColdThousand(b *testing.B) { coldStart(b, 10_000, 1000) }

// BenchmarkMillionTokens fills a cache with as many tokens, each with a JWT of
// its own, and reports what an entry takes, what a hit costs beside one in a
// cache of 1,000, and the share of the collector in the time of the hits.
func BenchmarkMillionTokens(b *testing.B) {
	const million = 1_000_000
	memory := func() (stats runtime.MemStats) {
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats
	}
	// Signing a million JWTs would take a minute: the copies differ in where
	// they lie, not in what they say.
	s := &benchServer{jwt: func() string { return strings.Clone(benchJWT()) }}
	fill := func(n int) http.Handler {
		h := s.middleware(b, phantom.WithCacheSize(n)).Handler(quiet)
		r, w := benchRequest(""), &sink{}
		for i := range n {
			r.Header["Authorization"] = []string{"Bearer " + opaque(i)}
			if h.ServeHTTP(w, r); w.status != 0 {
				b.Fatalf("status %d", w.status)
			}
		}
		return h
	}
	small := fill(1000)
	before := memory()
	large := fill(million)
	after := memory()
	entry := float64(after.HeapAlloc-before.HeapAlloc) / million

	random := rand.New(rand.NewPCG(3, 4))
	requests := func(n int) *load {
		// 1,000 requests, so that only the cache is of another size.
		l := &load{draws: zipf(1000)[:1<<15]}
		for i := range l.draws {
			l.draws[i] = int32(i % 1000)
		}
		for range 1000 {
			l.requests = append(l.requests, benchRequest(opaque(random.IntN(n))))
		}
		return l
	}
	few, many := requests(1000), requests(million)
	few.handler, many.handler = small, large
	b.ResetTimer()
	cpu, start := after, time.Now()
	ratio(b, "x-of-1000", 4096, func(n int) { few.run(n, 1) }, func(n int) { many.run(n, 1) })
	runtime.ReadMemStats(&after)
	b.ReportMetric(entry, "B/entry")
	b.ReportMetric(entry-800, "B/entry-over-JWT")
	b.ReportMetric(100*float64(after.PauseTotalNs-cpu.PauseTotalNs)/float64(time.Since(start)), "%pause")
	b.ReportMetric(100*after.GCCPUFraction, "%gc")
	runtime.KeepAlive(large)
}

// BenchmarkJunkFlood: nine of ten requests bring a random token that the server
// does not know. An iteration is one request.
func BenchmarkJunkFlood(b *testing.B) {
	const users = 1000
	s := &benchServer{}
	h := s.middleware(b, phantom.WithCacheSize(10_000)).Handler(quiet)
	valid := benchRequests(b, h, users)
	s.calls.Store(0)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	random, junk := rand.New(rand.NewPCG(5, 6)), benchRequest("")
	good, bad := 0, 0
	b.ResetTimer()
	for i := range b.N {
		w := &sink{}
		if i%10 == 0 {
			good++
			h.ServeHTTP(w, valid[random.IntN(users)])
			if w.status != 0 {
				b.Fatalf("status %d", w.status)
			}
			continue
		}
		bad++
		junk.Header["Authorization"] = []string{fmt.Sprintf("Bearer junk%016x", random.Uint64())}
		if h.ServeHTTP(w, junk); w.status != http.StatusUnauthorized {
			b.Fatalf("status %d", w.status)
		}
	}
	b.StopTimer()
	// Each junk token is looked up once; what goes beyond are misses of users.
	missed := s.calls.Load() - int64(bad)
	b.ReportMetric(100*(1-float64(missed)/float64(max(good, 1))), "%hits")
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/(1<<20), "MiB-grown")
	runtime.KeepAlive(h)
}
