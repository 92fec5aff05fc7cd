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
	"runtime/metrics"
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
// this kind has to make, as cheaply as it can be made. Times are one machine's.
// What must hold are the ratios, so BenchmarkRatio runs the floor and the hit in
// turn and reports these. Each is the median of many short chunks; look at the
// spread beside it before you believe it.

// What the benchmarks' authorization server is known by.
const (
	benchIssuer   = "https://as.test"
	benchEndpoint = benchIssuer + "/introspect"
	benchJWKS     = benchIssuer + "/jwks"
	benchAudience = "https://rs.test"
)

var benchKey = sync.OnceValue(func() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) })

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// A floorContext is what the floor's copy needs beside the request and the map.
type floorContext struct {
	context.Context
	token *phantom.Token
	value [1]string
}

func (c *floorContext) Value(key any) any {
	if key == (floorKey{}) {
		return c.token
	}
	return c.Context.Value(key)
}

type floorKey struct{}

// floor returns that wrapper. It has four allocations: the request, the map, its
// slots, and one node for the context's value and the field's.
func floor(next http.Handler) http.Handler {
	value, token := "Bearer "+benchJWT(), new(phantom.Token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		node := &floorContext{r.Context(), token, [1]string{value}}
		out := r.WithContext(node)
		out.Header = maps.Clone(r.Header)
		if len(out.Header) == 8 {
			delete(out.Header, "Authorization") // a full map grows even if the key is there
		}
		out.Header["Authorization"] = node.value[:]
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

// A shape is what the cost of a copy and of a hit depends on.
type shape struct {
	fields int // of the header: 7, 8 or 12
	length int // of the opaque token
}

// usual is a request of an API client behind a load balancer.
var usual = shape{fields: 7, length: 43}

// benchFields come in this order; Authorization is the first.
var benchFields = [][2]string{
	{"Accept", "application/json"},
	{"Accept-Encoding", "gzip, deflate, br"},
	{"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	{"User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
	{"X-Forwarded-For", "192.0.2.7"},
	{"X-Request-Id", "8f14e45f-ceea-467f-9d4b-2a2c1c1b3b2d"},
	{"X-Forwarded-Proto", "https"},
	// A browser sends more.
	{"Accept-Language", "en-GB,en;q=0.9"},
	{"Cache-Control", "no-cache"},
	{"Origin", "https://app.example.com"},
	{"Referer", "https://app.example.com/orders"},
}

func (s shape) request(token string) *http.Request {
	header := http.Header{"Authorization": {"Bearer " + token}}
	for _, field := range benchFields[:s.fields-1] {
		header[field[0]] = []string{field[1]}
	}
	return (&http.Request{
		Method: http.MethodGet, URL: benchURL, Host: "rs.test", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		RemoteAddr: "192.0.2.7:41812", RequestURI: "/orders/42?expand=lines", Body: http.NoBody, Header: header,
	}).WithContext(context.Background())
}

// opaque returns the i-th opaque token.
func (s shape) opaque(i int) string {
	token := fmt.Sprintf("_0XBPWQQ_%08d-", i)
	return token + strings.Repeat("a8f1c4d3e", s.length/9)[:s.length-len(token)]
}

func benchRequest(token string) *http.Request { return usual.request(token) }

func opaque(i int) string { return usual.opaque(i) }

// A sink takes answers.
type sink struct{ status int }

func (*sink) Header() http.Header         { return http.Header{} }
func (*sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(status int)    { s.status = status }

// quiet is the next handler of all benchmarks.
var quiet = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

// requests returns requests for n tokens, all of which are cached.
func (s shape) requests(tb testing.TB, h http.Handler, n int) []*http.Request {
	requests := make([]*http.Request, n)
	for i := range requests {
		requests[i] = s.request(s.opaque(i))
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
	handler  http.Handler
	requests []*http.Request
	draws    []int32 // which of them; as many as a power of two
	position int     // in the draws
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
			l.serve(w, l.position+i+g*1999)
		}
	}
	defer func() { l.position += n }()
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

// benchLoads returns the floor and the hit, for as many tokens, drawn by Zipf's
// law.
func benchLoads(tb testing.TB, s shape, tokens int) (base, hit *load) {
	h := new(benchServer).middleware(tb).Handler(quiet)
	requests, draws := s.requests(tb, h, tokens), []int32{0}
	if tokens > 1 {
		draws = zipf(tokens)
	}
	return &load{handler: floor(quiet), requests: requests, draws: draws},
		&load{handler: h, requests: requests, draws: draws}
}

// likeAService has the collector run as rarely as in a service, which has a
// larger heap than a benchmark.
func likeAService(b *testing.B) {
	ballast := make([]byte, 64<<20)
	b.Cleanup(func() { runtime.KeepAlive(ballast) })
}

func BenchmarkHit(b *testing.B) {
	likeAService(b)
	for _, tokens := range []int{1, 10_000} {
		base, hit := benchLoads(b, usual, tokens)
		for name, l := range map[string]*load{"Floor": base, "Hit": hit} {
			name = fmt.Sprintf("%s/tokens=%d", name, tokens)
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				l.run(b.N, 1)
			})
			b.Run(name+"/goroutines=32", func(b *testing.B) {
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
// machine does slows both of them down or few of the chunks. Now the one begins
// and now the other: the second finds the requests in the processor's cache. It
// reports the median of the ratios, and the quartiles.
func ratio(b *testing.B, unit string, chunk int, base, measured func(n int)) {
	var ratios []float64
	took := func(run func(n int)) float64 {
		start := time.Now()
		run(chunk)
		return float64(time.Since(start))
	}
	for done := 0; done < b.N || len(ratios) < 64; done += 2 * chunk {
		floor := took(base)
		hit := took(measured)
		hit += took(measured)
		floor += took(base)
		ratios = append(ratios, hit/floor)
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], unit)
	b.ReportMetric(ratios[len(ratios)/4], unit+"-q1")
	b.ReportMetric(ratios[len(ratios)*3/4], unit+"-q3")
	b.ReportMetric(0, "ns/op") // of both together: without a meaning
}

func BenchmarkRatio(b *testing.B) {
	likeAService(b)
	for _, tokens := range []int{1, 10_000} {
		for _, s := range []shape{{7, 43}, {8, 43}, {12, 43}, {7, 36}, {7, 800}} {
			base, hit := benchLoads(b, s, tokens)
			for _, goroutines := range []int{1, 32} {
				name := fmt.Sprintf("tokens=%d/fields=%d/length=%d/goroutines=%d", tokens, s.fields, s.length, goroutines)
				b.Run(name, func(b *testing.B) {
					ratio(b, "x-floor", 64*(goroutines+1),
						func(n int) { base.run(n, goroutines) },
						func(n int) { hit.run(n, goroutines) })
				})
			}
		}
	}
}

// BenchmarkDispatch reports what a dispatcher adds to a hit: one that chooses by
// a prefix, and one that also looks for the issuer of a JWT; for an opaque token
// and for a JWT that is the token itself.
func BenchmarkDispatch(b *testing.B) {
	likeAService(b)
	opaqueOnes := new(benchServer).middleware(b)
	direct, err := phantom.New(phantom.WithIssuer(benchIssuer), phantom.WithAudience(benchAudience),
		phantom.WithoutIntrospection(), phantom.WithKeySet(phantom.StaticKeys(benchKey().Public())))
	if err != nil {
		b.Fatal(err)
	}
	members := []*phantom.Middleware{opaqueOnes, direct}
	for _, choice := range []struct {
		name   string
		choose func(token string) *phantom.Middleware
	}{
		{"prefix", func(token string) *phantom.Middleware {
			if strings.HasPrefix(token, "eyJ") {
				return direct
			}
			return opaqueOnes
		}},
		{"issuer", func(token string) *phantom.Middleware {
			if iss, ok := phantom.UnverifiedIssuer(token); ok {
				return map[string]*phantom.Middleware{benchIssuer: direct}[iss]
			}
			return opaqueOnes
		}},
	} {
		d, err := phantom.Dispatch(members, choice.choose)
		if err != nil {
			b.Fatal(err)
		}
		for _, token := range []struct {
			name, text string
			member     *phantom.Middleware
		}{{"opaque", opaque(1), opaqueOnes}, {"JWT", benchJWT(), direct}} {
			b.Run(choice.name+"/"+token.name, func(b *testing.B) {
				request := benchRequest(token.text)
				run := func(h http.Handler) func(int) {
					return func(n int) {
						w := &sink{}
						for range n {
							h.ServeHTTP(w, request)
						}
						if w.status != 0 {
							b.Fatalf("status %d", w.status)
						}
					}
				}
				plain, dispatched := run(token.member.Handler(quiet)), run(d.Handler(quiet))
				plain(1)
				ratio(b, "x-of-member", 64, plain, dispatched)
			})
		}
	}
}

// BenchmarkContention reports what 32 goroutines at one token lose against 2.
//
// Catalogue: L288.
func BenchmarkContention(b *testing.B) {
	_, hit := benchLoads(b, usual, 1)
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
		"full map":  shape{8, 36}.request(opaque(1)),
		"browser":   shape{12, 43}.request(opaque(1)),
		"long":      benchRequest(shape{7, 800}.opaque(1)),
		"no others": {Method: http.MethodGet, URL: benchURL, Header: http.Header{"Authorization": {"Bearer x"}}},
	} {
		want := count(floor(quiet), r)
		if name == "usual" && want != 4 {
			t.Errorf("the floor has %v allocations", want)
		}
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
		usual.requests(b, h, 1) // so that the keys are there
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
	ratio(b, "x-of-1000", 1024, func(n int) { few.run(n, 1) }, func(n int) { many.run(n, 1) })
	b.ReportMetric(entry, "B/entry")
	b.ReportMetric(entry-800, "B/entry-over-JWT")
	b.ReportMetric(100*collectorShare(func() { many.run(1<<14, 1) }), "%gc")
	runtime.KeepAlive(large)
}

// collectorShare returns the share of the collector in the processor time of
// the work, which it repeats for three whole cycles. It leaves out what the
// collector does while a processor is idle.
func collectorShare(work func()) float64 {
	samples := []metrics.Sample{
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
		{Name: "/cpu/classes/gc/mark/idle:cpu-seconds"},
		{Name: "/cpu/classes/user:cpu-seconds"},
	}
	read := func() (collector, user float64) {
		metrics.Read(samples)
		return samples[0].Value.Float64() - samples[1].Value.Float64(), samples[2].Value.Float64()
	}
	runtime.GC() // the metrics are those of the end of a cycle
	collector, user := read()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	for end := stats.NumGC + 3; stats.NumGC < end; runtime.ReadMemStats(&stats) {
		work()
	}
	collectorNow, userNow := read()
	collector, user = collectorNow-collector, userNow-user
	return collector / (collector + user)
}

// BenchmarkJunkFlood: nine of ten requests bring a random token that the server
// does not know. An iteration is one request.
func BenchmarkJunkFlood(b *testing.B) {
	const users = 1000
	s := &benchServer{}
	h := s.middleware(b, phantom.WithCacheSize(10_000)).Handler(quiet)
	valid := usual.requests(b, h, users)
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
