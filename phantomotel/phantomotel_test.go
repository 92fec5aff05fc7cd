package phantomotel_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomotel"
	"github.com/phantom-token/phantom/phantomtest"
)

// A collector is an OpenTelemetry SDK in memory.
type collector struct {
	tb      testing.TB
	reader  *sdkmetric.ManualReader
	meters  *sdkmetric.MeterProvider
	spans   *tracetest.SpanRecorder
	tracers *sdktrace.TracerProvider
}

func newCollector(tb testing.TB) *collector {
	reader, spans := sdkmetric.NewManualReader(), tracetest.NewSpanRecorder()
	return &collector{
		tb:      tb,
		reader:  reader,
		meters:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
		spans:   spans,
		tracers: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
	}
}

func (c *collector) instrument(extra ...phantomotel.Option) phantom.Option {
	return phantomotel.Instrument(append([]phantomotel.Option{
		phantomotel.WithMeterProvider(c.meters), phantomotel.WithTracerProvider(c.tracers),
	}, extra...)...)
}

func (c *collector) collect() metricdata.ResourceMetrics {
	c.tb.Helper()
	var all metricdata.ResourceMetrics
	if err := c.reader.Collect(c.tb.Context(), &all); err != nil {
		c.tb.Fatal(err)
	}
	return all
}

// series returns each series as "name{attributes}" with its value, or with how
// many values a histogram has.
func (c *collector) series() map[string]float64 {
	c.tb.Helper()
	found := map[string]float64{}
	add := func(name string, set attribute.Set, value float64) {
		found[name+"{"+set.Encoded(attribute.DefaultEncoder())+"}"] = value
	}
	for _, scope := range c.collect().ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, float64(p.Count))
				}
			default:
				c.tb.Errorf("%s: %T", m.Name, data)
			}
		}
	}
	return found
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var nothing = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

func request(ctx context.Context, token string) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/orders", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func send(h http.Handler, r *http.Request) int {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Code
}

// Each series of a run, and no other. What did not happen is there with 0.
//
// Catalogue: T1.
func TestEachSeriesOfARun(t *testing.T) {
	as, c := phantomtest.New(), newCollector(t)
	m := must(phantom.New(append(as.Options(), c.instrument())...))
	h, good := m.Handler(nothing), as.Issue(nil)
	for _, token := range []string{good, good, "junk", "junk", ""} {
		send(h, request(t.Context(), token))
	}
	as.Fail(http.StatusServiceUnavailable, 1)
	send(h, request(t.Context(), "while-it-is-down"))
	got := c.series()
	want := map[string]float64{
		"phantom.cache.tokens{phantom.cache.outcome=hit}":      1,
		"phantom.cache.tokens{phantom.cache.outcome=stale}":    0,
		"phantom.cache.tokens{phantom.cache.outcome=negative}": 1,
		"phantom.cache.tokens{phantom.cache.outcome=miss}":     3,
		"phantom.cache.entries{phantom.cache.kind=active}":     1,
		"phantom.cache.entries{phantom.cache.kind=inactive}":   1,
		"phantom.cache.evictions{}":                            0,
		"phantom.rejections{error.type=inactive}":              2,
		"phantom.rejections{error.type=no_credentials}":        1,
		"phantom.rejections{error.type=as_unavailable}":        1,
		"phantom.lookup.active{}":                              0,
		"phantom.lookup.waiting{phantom.lookup.known=false}":   0,
		"phantom.lookup.waiting{phantom.lookup.known=true}":    0,
		"phantom.lookup.joined{}":                              0,
		"phantom.breaker.open{}":                               0,
		"phantom.keys.failures{}":                              0,
		"phantom.keys.age{}":                                   got["phantom.keys.age{}"],
	}
	for reason, n := range m.Stats().Rejected {
		if n == 0 {
			want["phantom.rejections{error.type="+string(reason)+"}"] = 0
		}
	}
	for _, name := range []string{"phantom.lookup.duration", "phantom.lookup.wait.duration"} {
		want[name+"{phantom.lookup.refresh=false,phantom.lookup.shared=false}"] = 1
		for _, reason := range []string{"inactive", "as_unavailable"} {
			want[name+"{error.type="+reason+",phantom.lookup.refresh=false,phantom.lookup.shared=false}"] = 1
		}
	}
	if !maps.Equal(got, want) {
		for _, key := range slices.Sorted(maps.Keys(got)) {
			t.Logf("%s %v", key, got[key])
		}
		t.Errorf("want %v", want)
	}
	if age := got["phantom.keys.age{}"]; age < 0 || age > 60 {
		t.Errorf("the keys are %v s old", age)
	}
}

// Kinds and units are those of the documentation.
func TestKindsAndUnits(t *testing.T) {
	as, c := phantomtest.New(), newCollector(t)
	store := phantom.WithStore(phantomtest.NewStore(), []byte(strings.Repeat("k", 32)))
	m := must(phantom.New(append(as.Options(), c.instrument(), store)...))
	send(m.Handler(nothing), request(t.Context(), as.Issue(nil)))
	got := map[string]string{}
	for _, scope := range c.collect().ScopeMetrics {
		if scope.Scope.Name != "github.com/phantom-token/phantom/phantomotel" {
			t.Errorf("scope %q", scope.Scope.Name)
		}
		for _, m := range scope.Metrics {
			kind := fmt.Sprintf("%T", m.Data)
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
				kind = map[bool]string{true: "counter", false: "up-down"}[sum.IsMonotonic]
			}
			kind = strings.TrimPrefix(kind, "metricdata.")
			got[m.Name] = strings.ToLower(strings.NewReplacer("[float64]", "", "[int64]", "").Replace(kind)) + " " + m.Unit
			if m.Description == "" || !strings.HasSuffix(m.Description, ".") {
				t.Errorf("%s: %q", m.Name, m.Description)
			}
		}
	}
	want := map[string]string{
		"phantom.cache.tokens":         "counter {token}",
		"phantom.cache.entries":        "up-down {entry}",
		"phantom.cache.evictions":      "counter {entry}",
		"phantom.rejections":           "counter {request}",
		"phantom.lookup.duration":      "histogram s",
		"phantom.lookup.wait.duration": "histogram s",
		"phantom.lookup.active":        "up-down {lookup}",
		"phantom.lookup.waiting":       "up-down {lookup}",
		"phantom.lookup.joined":        "counter {request}",
		"phantom.breaker.open":         "gauge ",
		"phantom.keys.age":             "gauge s",
		"phantom.keys.failures":        "counter {refresh}",
		"phantom.store.calls":          "counter {call}",
		"phantom.store.notes":          "counter {note}",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// A lookup is a child of the span of the request that started it, and the
// request to the server one of the lookup. The request's span says what was
// found. A bad token is no error of a span, an outage is.
//
// Catalogue: T4.
func TestALookupIsAChildOfTheRequest(t *testing.T) {
	as, c := phantomtest.New(), newCollector(t)
	h := must(phantom.New(append(as.Options(), c.instrument(phantomotel.WithName("edge")))...)).Handler(nothing)
	served := func(token string) sdktrace.ReadOnlySpan {
		ctx, span := c.tracers.Tracer("test").Start(t.Context(), "request "+token)
		send(h, request(ctx, token))
		span.End()
		ended := c.spans.Ended()
		return ended[len(ended)-1]
	}
	values := func(span sdktrace.ReadOnlySpan) string {
		set := attribute.NewSet(span.Attributes()...)
		return set.Encoded(attribute.DefaultEncoder())
	}
	good := as.Issue(nil)
	first, hit, junk := served(good), served(good), served("junk")
	as.Fail(http.StatusServiceUnavailable, 1)
	down := served("down")
	lookups := map[trace.SpanID]sdktrace.ReadOnlySpan{}
	for _, span := range c.spans.Ended() {
		if span.Name() == "phantom.lookup" {
			lookups[span.Parent().SpanID()] = span
			if span.SpanKind() != trace.SpanKindInternal {
				t.Errorf("kind %v", span.SpanKind())
			}
		}
	}
	if len(lookups) != 3 || lookups[hit.SpanContext().SpanID()] != nil {
		t.Errorf("%d lookups", len(lookups))
	}
	const of = "phantom.lookup.refresh=false,phantom.lookup.shared=false,phantom.name=edge"
	for _, tc := range []struct {
		request           sdktrace.ReadOnlySpan
		request0, lookup0 string
		status            codes.Code
	}{
		{first, "phantom.cache.outcome=miss", of, codes.Unset},
		{hit, "phantom.cache.outcome=hit", "", codes.Unset},
		{junk, "error.type=inactive,phantom.cache.outcome=miss", "error.type=inactive," + of, codes.Unset},
		{down, "error.type=as_unavailable,phantom.cache.outcome=miss", "error.type=as_unavailable," + of, codes.Error},
	} {
		if got := values(tc.request); got != tc.request0 || tc.request.Status().Code != codes.Unset {
			t.Errorf("%s has %s, %v", tc.request.Name(), got, tc.request.Status())
		}
		lookup := lookups[tc.request.SpanContext().SpanID()]
		if tc.lookup0 == "" {
			continue
		}
		if got := values(lookup); got != tc.lookup0 || lookup.Status().Code != tc.status {
			t.Errorf("the lookup of %s has %s, %v", tc.request.Name(), got, lookup.Status())
		}
	}
}

type requestKey struct{}

// Of the request's context, a lookup has the span and nothing else.
//
// Catalogue: T4.
func TestALookupHasNothingElseOfTheRequest(t *testing.T) {
	c := newCollector(t)
	var value any
	var lookup trace.SpanContext
	asks := introspector(func(ctx context.Context) {
		value, lookup = ctx.Value(requestKey{}), trace.SpanContextFromContext(ctx)
	})
	m := must(phantom.New(phantom.WithIssuer("https://as.test"), phantom.WithAudience("https://rs.test"),
		phantom.WithIntrospector(asks), phantom.WithoutJWT(), c.instrument()))
	ctx, span := c.tracers.Tracer("test").Start(context.WithValue(t.Context(), requestKey{}, "mine"), "request")
	if code := send(m.Handler(nothing), request(ctx, "token")); code != http.StatusOK {
		t.Fatal(code)
	}
	if value != nil {
		t.Errorf("it has %v", value)
	}
	if lookup.TraceID() != span.SpanContext().TraceID() || lookup.SpanID() == span.SpanContext().SpanID() {
		t.Errorf("the lookup's span is %v, the request's %v", lookup, span.SpanContext())
	}
}

// An introspector is says, and sees the context before.
type introspector func(ctx context.Context)

func (i introspector) Introspect(ctx context.Context, token string) (*phantom.Introspection, error) {
	i(ctx)
	return says{}.Introspect(ctx, token)
}

// Nothing of a trace reaches the server unless the transport sends it. With
// otelhttp there is a client span below the lookup's.
//
// Catalogue: T14.
func TestTheServerLearnsNothingOfTheTrace(t *testing.T) {
	for _, tc := range []struct {
		name        string
		wrap        func(c *collector, next http.RoundTripper) http.RoundTripper
		traceparent bool
		client      bool
	}{
		{"default", func(_ *collector, next http.RoundTripper) http.RoundTripper { return next }, false, false},
		{"otelhttp, no propagator", func(c *collector, next http.RoundTripper) http.RoundTripper {
			return otelhttp.NewTransport(next, otelhttp.WithTracerProvider(c.tracers), otelhttp.WithMeterProvider(c.meters),
				otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator()))
		}, false, true},
		{"otelhttp, trace context", func(c *collector, next http.RoundTripper) http.RoundTripper {
			return otelhttp.NewTransport(next, otelhttp.WithTracerProvider(c.tracers), otelhttp.WithMeterProvider(c.meters),
				otelhttp.WithPropagators(propagation.TraceContext{}))
		}, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, asked := newCollector(t), make(chan http.Header, 9)
			var as *phantomtest.AuthorizationServer
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- r.Header.Clone()
				as.ServeHTTP(w, r)
			}))
			defer server.Close()
			as = phantomtest.New(phantomtest.WithIssuer(server.URL))
			transport := phantom.NewTransport()
			defer transport.CloseIdleConnections()
			h := must(phantom.New(append(as.Options(), c.instrument(),
				phantom.WithHTTPClient(&http.Client{Transport: tc.wrap(c, transport)}))...)).Handler(nothing)
			member := must(baggage.NewMember("user", "alice"))
			ctx := baggage.ContextWithBaggage(t.Context(), must(baggage.New(member)))
			ctx, span := c.tracers.Tracer("test").Start(ctx, "request")
			r := request(ctx, as.Issue(nil))
			r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			r.Header.Set("Baggage", "user=alice")
			if code := send(h, r); code != http.StatusOK {
				t.Fatal(code)
			}
			span.End()
			introspection := <-asked
			if got := introspection.Get("Traceparent") != ""; got != tc.traceparent {
				t.Errorf("traceparent %q", introspection.Get("Traceparent"))
			}
			if got := introspection.Values("Baggage"); len(got) > 0 {
				t.Errorf("baggage %q", got)
			}
			var lookup, client trace.SpanID
			for _, s := range c.spans.Ended() {
				switch {
				case s.Name() == "phantom.lookup":
					lookup = s.SpanContext().SpanID()
				case s.SpanKind() == trace.SpanKindClient && s.Parent().TraceID() == span.SpanContext().TraceID():
					client = s.Parent().SpanID()
				}
			}
			if tc.client && client != lookup {
				t.Errorf("the client span is a child of %v, not of the lookup's, %v", client, lookup)
			}
		})
	}
}

// Metrics, spans and log of a run have no token, JWT, secret, subject or path.
//
// Catalogue: T7.
func TestNothingThatIsReportedIsSecret(t *testing.T) {
	as, c := phantomtest.New(), newCollector(t)
	var mu sync.Mutex
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	var jwt string
	h := must(phantom.New(append(as.Options(), c.instrument(), phantom.WithLogger(logger))...)).Handler(
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { jwt = r.Header.Get("Authorization")[7:] }))
	good := as.Issue(map[string]any{"sub": "a-secret-subject", "client_id": "a-secret-client", "scope": "a-secret-scope"})
	ctx, span := c.tracers.Tracer("test").Start(t.Context(), "request")
	for _, token := range []string{good, good, "junk-that-is-secret", ""} {
		send(h, request(ctx, token))
	}
	span.End()
	texts := []string{log.String(), fmt.Sprint(c.series())}
	for _, s := range tracetest.SpanStubsFromReadOnlySpans(c.spans.Ended()) {
		texts = append(texts, fmt.Sprintf("%+v", s))
	}
	all := strings.Join(texts, "\n")
	if !strings.Contains(all, "phantom.lookup") || jwt == "" {
		t.Fatalf("nothing reported: %s", all)
	}
	for _, secret := range []string{good, jwt, strings.Split(jwt, ".")[1], "a-secret", "junk-that-is", "/orders"} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is reported", secret)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// says is an Introspector that has each token be one of another user.
type says struct{}

func (says) Introspect(_ context.Context, token string) (*phantom.Introspection, error) {
	if strings.HasPrefix(token, "junk") {
		return &phantom.Introspection{}, nil
	}
	members := must(json.Marshal(map[string]any{
		"active": true, "iss": "https://as.test", "aud": "https://rs.test", "exp": 4e9,
		"sub": "user of " + token, "client_id": "client of " + token, "scope": "s-" + token, "token_type": "Bearer",
	}))
	return &phantom.Introspection{Active: true, Claims: members}, nil
}

// The number of series does not depend on tokens, subjects, clients, scopes and
// paths.
//
// Catalogue: T8.
func TestRequestsMakeNoSeries(t *testing.T) {
	c := newCollector(t)
	m := must(phantom.New(phantom.WithIssuer("https://as.test"), phantom.WithAudience("https://rs.test"),
		phantom.WithIntrospector(says{}), phantom.WithoutJWT(), c.instrument()))
	h := m.Handler(nothing)
	run := func(from, to int) int {
		for i := from; i < to; i++ {
			r := request(t.Context(), fmt.Sprintf("token-%d", i))
			r.URL.Path = fmt.Sprintf("/orders/%d", i)
			if code := send(h, r); code != http.StatusOK {
				t.Fatal(code)
			}
			send(h, request(t.Context(), fmt.Sprintf("junk-%d", i)))
		}
		return len(c.series())
	}
	few, many := run(0, 10), run(10, 10_000)
	if few != many || few > 40 {
		t.Errorf("%d series after 10 tokens, %d after 10,000", few, many)
	}
}

// Two Middlewares of one process have series of their own.
//
// Catalogue: T10.
func TestNamesKeepMiddlewaresApart(t *testing.T) {
	as, c := phantomtest.New(), newCollector(t)
	token := as.Issue(nil)
	for n, name := range []string{"orders", "users"} {
		m := must(phantom.New(append(as.Options(), c.instrument(phantomotel.WithName(name)))...))
		for range n + 1 {
			send(m.Handler(nothing), request(t.Context(), token))
		}
		defer runtime.KeepAlive(m)
	}
	got := c.series()
	for key, want := range map[string]float64{
		"phantom.cache.tokens{phantom.cache.outcome=hit,phantom.name=orders}":                                       0,
		"phantom.cache.tokens{phantom.cache.outcome=hit,phantom.name=users}":                                        1,
		"phantom.lookup.duration{phantom.lookup.refresh=false,phantom.lookup.shared=false,phantom.name=orders}":     1,
		"phantom.keys.failures{phantom.name=users}":                                                                 0,
		"phantom.lookup.wait.duration{phantom.lookup.refresh=false,phantom.lookup.shared=false,phantom.name=users}": 1,
	} {
		if value, ok := got[key]; !ok || value != want {
			t.Errorf("%s is %v, want %v", key, value, want)
		}
	}
	for key := range got {
		if !strings.Contains(key, "phantom.name=") {
			t.Errorf("%s has no name", key)
		}
	}
}

// A Middleware that is not used any more is not kept alive, and reports
// nothing.
//
// Catalogue: T13.
func TestAMiddlewareThatIsGoneReportsNothing(t *testing.T) {
	as, c := phantomtest.New(), newCollector(t)
	var stats func() (phantom.Stats, bool)
	watch := phantom.WithTrace(&phantom.Trace{Attach: func(s func() (phantom.Stats, bool)) { stats = s }})
	m := must(phantom.New(append(as.Options(), c.instrument(), watch)...))
	if _, ok := c.series()["phantom.breaker.open{}"]; !ok {
		t.Fatal("it reports nothing while it is there")
	}
	runtime.KeepAlive(m)
	m = nil
	for i := 0; ; i++ {
		runtime.GC()
		if _, ok := stats(); !ok {
			break
		}
		if i > 100 {
			t.Fatal("it is still there")
		}
	}
	for range 2 { // at once, and when the callback is gone
		if got := c.series(); len(got) > 0 {
			t.Errorf("it reports %v", got)
		}
	}
}

// Two that are instrumented twice have each span ended by whoever began it.
func TestInstrumentedTwice(t *testing.T) {
	as, a, b := phantomtest.New(), newCollector(t), newCollector(t)
	h := must(phantom.New(append(as.Options(), a.instrument(), b.instrument())...)).Handler(nothing)
	send(h, request(t.Context(), as.Issue(nil)))
	for _, c := range []*collector{a, b} {
		if n := len(c.spans.Ended()); n != 1 {
			t.Errorf("%d spans", n)
		}
	}
}

// hits returns the handlers of a plain Middleware and an instrumented one, and
// a request that both remember.
func hits(tb testing.TB) (plain, instrumented http.Handler, r *http.Request) {
	as, c := phantomtest.New(), newCollector(tb)
	off := phantomotel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())))
	plain = must(phantom.New(as.Options()...)).Handler(nothing)
	instrumented = must(phantom.New(append(as.Options(), c.instrument(off))...)).Handler(nothing)
	r = request(context.Background(), as.Issue(nil))
	for _, h := range []http.Handler{plain, instrumented} {
		if code := send(h, r); code != http.StatusOK {
			tb.Fatal(code)
		}
	}
	return plain, instrumented, r
}

// A hit allocates as much as without.
//
// Catalogue: T9.
func TestAHitAllocatesAsMuchAsWithout(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	plain, instrumented, r := hits(t)
	w := httptest.NewRecorder()
	w.Body = nil
	allocations := func(h http.Handler) float64 { return testing.AllocsPerRun(500, func() { h.ServeHTTP(w, r) }) }
	if without, with := allocations(plain), allocations(instrumented); with != without {
		t.Errorf("%v allocations, %v without", with, without)
	}
}

// BenchmarkHit has both in turn, in short chunks, because the machine does other
// things as well. Look at the ratio: it should be at most 1.02.
func BenchmarkHit(b *testing.B) {
	plain, instrumented, r := hits(b)
	handlers := []http.Handler{plain, instrumented}
	const chunk = 64
	var times [2][]time.Duration
	w := httptest.NewRecorder()
	for n := 0; b.Loop(); n++ {
		for i := range handlers {
			i = (i + n) % len(handlers)
			began := time.Now()
			for range chunk {
				handlers[i].ServeHTTP(w, r)
			}
			times[i] = append(times[i], time.Since(began))
		}
	}
	var usual [2]float64 // of a hit, undisturbed: a tenth is faster
	for i, all := range times {
		slices.Sort(all)
		usual[i] = float64(all[len(all)/10]) / chunk
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(usual[0], "ns/plain")
	b.ReportMetric(usual[1], "ns/instrumented")
	b.ReportMetric(usual[1]/usual[0], "ratio")
}

// The reasons that have series are those of package phantom.
func TestEachReasonHasASeries(t *testing.T) {
	as, c := phantomtest.New(), newCollector(t)
	m := must(phantom.New(append(as.Options(), c.instrument())...))
	got := c.series()
	n := 0
	for reason := range m.Stats().Rejected {
		if _, ok := got["phantom.rejections{error.type="+string(reason)+"}"]; !ok {
			t.Errorf("none for %s", reason)
		}
		n++
	}
	if n < 12 {
		t.Errorf("%d reasons", n)
	}
}
