package conformance_test

import (
	"context"
	"flag"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

var outage = flag.Duration("outage", time.Second, "how long BenchmarkOutage's server is down")

// BenchmarkOutage drives 1,000 requests a second, each with a token of its own,
// through an outage of the authorization server, and reports how that went. One
// iteration is one outage:
//
//	go test -run '^$' -bench Outage -benchtime 1x ./conformance -outage 60s
//
// Catalogue: N280.
func BenchmarkOutage(b *testing.B) {
	for _, tc := range []struct {
		name   string
		script func(*peer) // nil: the port is closed
	}{
		{"closed", nil},
		{"silent", func(p *peer) { p.wait() }},
		{"503", func(p *peer) { p.serve(func(string) string { return rawAnswer(503, "text/plain", "") }) }},
	} {
		b.Run(tc.name, func(b *testing.B) {
			for b.Loop() {
				runOutage(b, tc.script)
			}
		})
	}
}

// A loadDriver sends requests at a steady rate and keeps the answers.
type loadDriver struct {
	handler http.Handler
	sent    int
	pending sync.WaitGroup
	mu      sync.Mutex
	answers []loadAnswer
}

type loadAnswer struct {
	sent, took time.Duration // sent since start
	code       int
}

// run sends requests for d, and what is due all at once if it is late.
func (l *loadDriver) run(start time.Time, d time.Duration) {
	const rate = 1000
	ticker := time.NewTicker(time.Second / rate)
	defer ticker.Stop()
	for begin, n := time.Now(), 0; time.Since(begin) < d; <-ticker.C {
		for due := int(time.Since(begin) * rate / time.Second); n < due; n++ {
			l.sent++
			request := get("Bearer opaque-token-" + strconv.Itoa(l.sent))
			l.pending.Go(func() {
				at := time.Now()
				code := serve(l.handler, request).Code
				l.mu.Lock()
				defer l.mu.Unlock()
				l.answers = append(l.answers, loadAnswer{at.Sub(start), time.Since(at), code})
			})
		}
	}
}

func runOutage(b *testing.B, down func(*peer)) {
	const healthyFor = 2 * time.Second
	good := mint("ES256", claims(map[string]any{"exp": time.Now().Add(time.Hour).Unix()}))
	healthy := func(p *peer) { p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) }) }
	as := newAS(b)
	baseline := runtime.NumGoroutine()
	s := listenTCP(b, healthy)
	address := s.Addr().String()
	var attempts atomic.Int64
	m := as.networked(s.url(),
		phantom.WithTimeout(min(2*time.Second, *outage/4)),
		phantom.WithClientAuth(phantom.BearerToken(func(context.Context) (string, error) {
			attempts.Add(1) // each attempt asks for its credentials
			return "credential", nil
		})))
	load := &loadDriver{handler: m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))}
	start := time.Now()

	load.run(start, healthyFor)
	load.pending.Wait()
	b.ReportMetric(float64(runtime.NumGoroutine()-baseline), "goroutines-before")
	b.ReportMetric(float64(s.open.Load()), "connections-before")

	s.stop()
	if down != nil {
		s = listenAt(b, address, nil, down)
	}
	began, before := time.Since(start), attempts.Load()
	load.run(start, *outage)
	b.ReportMetric(float64(attempts.Load()-before), "attempts")
	s.stop()

	s = listenAt(b, address, nil, healthy)
	ended := time.Since(start)
	load.run(start, healthyFor)
	load.pending.Wait()
	b.ReportMetric(float64(runtime.NumGoroutine()-baseline), "goroutines-after")
	b.ReportMetric(float64(s.open.Load()), "connections-after")

	var refusals []time.Duration // of those who came when the outage was known
	var late, firstServed float64
	for _, a := range load.answers {
		switch during := a.sent > began && a.sent+a.took < ended; {
		case during && a.code != 503:
			b.Errorf("%d in the outage", a.code)
		case during && a.sent > began+*outage/2:
			refusals = append(refusals, a.took)
		case a.sent > ended && a.code != 200:
			late++
		case a.sent > ended && (firstServed == 0 || (a.sent+a.took-ended).Seconds() < firstServed):
			firstServed = (a.sent + a.took - ended).Seconds()
		}
	}
	if len(refusals) == 0 || firstServed == 0 {
		b.Fatalf("%d refusals, first served after %v s", len(refusals), firstServed)
	}
	slices.Sort(refusals)
	b.ReportMetric(float64(refusals[len(refusals)*99/100].Microseconds()), "p99-503-µs")
	b.ReportMetric(firstServed*1000, "first-200-ms")
	b.ReportMetric(late, "503s-after-return")

	s.stop()
	eventually(b, "goroutines as before", func() bool { return runtime.NumGoroutine() <= baseline })
}
