package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// freshTokens returns tokens that were not seen before, one for each call.
func freshTokens() func() string {
	n := 0
	return func() string { n++; return fmt.Sprintf("fresh-token-%d", n) }
}

// retryAfterOf asks about the token and returns the Retry-After of the 503.
func retryAfterOf(t *testing.T, as *fakeAS, m *phantom.Middleware, token string) string {
	t.Helper()
	next := &spy{}
	rec := serve(m.Handler(next), get("Bearer "+token))
	if got := as.outcome(rec, next, 0); got != code503A {
		t.Fatalf("outcome %s, want %s", got, code503A)
	}
	values := rec.Header()["Retry-After"]
	if len(values) != 1 {
		t.Fatalf("Retry-After %q", values)
	}
	return values[0]
}

// Ten outages open the breaker. Answers that we cannot use and verdicts on
// tokens do not.
func TestBreakerOpensOnOutagesAlone(t *testing.T) {
	closed := roundTripper(func(*http.Request) (*http.Response, error) { return nil, io.EOF })
	otherIssuer := func(w http.ResponseWriter, r *http.Request) {
		answerJWT(mint("ES256", claims(map[string]any{"iss": "https://other.test"})))(w, r)
	}
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		via    http.RoundTripper
		opens  bool
		want   string
	}{
		{"status 500", reply(500, ""), nil, true, code503A},                               // N280
		{"status 429", reply(429, ""), nil, true, code503A},                               // N280
		{"no answer in time", wait(time.Hour, nil), nil, true, code503A},                  // N280
		{"no connection", nil, closed, true, code503A},                                    // N280
		{"status 400", reply(400, ""), nil, false, code502A},                              // A99
		{"status 401", reply(401, ""), nil, false, code502A},                              // A98
		{"status 302", reply(302, ""), nil, false, code502A},                              // A96
		{"a page", reply(200, "<html>", "Content-Type: text/html"), nil, false, code502A}, // A95
		{"inactive", reply(204, ""), nil, false, code401T},                                // A77
		{"refused JWT", otherIssuer, nil, false, code401T},                                // J169
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = tc.answer
				asked := 0
				count := roundTripper(func(r *http.Request) (*http.Response, error) {
					if r.URL.Path == endpointPath {
						asked++
						if tc.via != nil {
							return tc.via.RoundTrip(r)
						}
					}
					return as.RoundTrip(r)
				})
				m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: count}))
				token := freshTokens()
				attempts := 1
				if tc.via != nil {
					attempts = 2 // with the retry
				}
				for i := range 30 {
					before, start := asked, time.Now()
					if got := as.try(m, token()); got != tc.want {
						t.Fatalf("lookup %d: %s, want %s", i+1, got, tc.want)
					}
					synctest.Wait() // the caller may leave a moment before the lookup ends
					want := attempts
					if tc.opens && i >= 10 {
						want = 0
						if took := time.Since(start); took != 0 {
							t.Errorf("lookup %d: refused after %v", i+1, took)
						}
					}
					if got := asked - before; got != want {
						t.Errorf("lookup %d: asked %d times, want %d", i+1, got, want)
					}
				}
			})
		})
	}
}

// Ten outages in a row open the breaker, not ten in all. Any answer between
// them starts the count again.
func TestBreakerCountsOutagesInARow(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"a JWT", nil},
		{"inactive", reply(204, "")},
		{"a refusal", reply(401, "")},
	} {
		as := newAS(t)
		m := as.middleware()
		token := freshTokens()
		for range 5 {
			as.introspect = reply(500, "")
			for range 9 {
				if got := as.try(m, token()); got != code503A {
					t.Fatal(got)
				}
			}
			as.introspect = tc.answer
			if got := as.try(m, token()); got == code503A {
				t.Fatalf("%s: not asked", tc.name)
			}
		}
		if got := as.calls.Load(); got != 50 {
			t.Errorf("%s: asked %d times", tc.name, got)
		}
	}
}

// open opens the breaker with ten outages.
func open(t *testing.T, as *fakeAS, m *phantom.Middleware, token func() string) {
	t.Helper()
	was := as.introspect
	as.introspect = reply(500, "")
	for range 10 {
		if got := as.try(m, token()); got != code503A {
			t.Fatal(got)
		}
	}
	as.introspect = was
}

// An open breaker lets one request a second through as a probe and refuses
// the others at once. A good probe closes it.
//
// Catalogue: N280.
func TestBreakerSendsOneProbeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware()
		token := freshTokens()
		if got := as.try(m, "cached"); got != codeOK {
			t.Fatal(got)
		}
		open(t, as, m, token)
		// crowd makes 100 requests at once and returns their outcomes, and how
		// often the server was asked.
		crowd := func() (outcomes map[string]int, asked int64) {
			before := as.calls.Load()
			results := make(chan string, 100)
			for range cap(results) {
				go func(token string) { results <- as.try(m, token) }(token())
			}
			outcomes = map[string]int{}
			for range cap(results) {
				outcomes[<-results]++
			}
			return outcomes, as.calls.Load() - before
		}
		expect := func(when string, ok int, asked int64, took time.Duration) {
			t.Helper()
			start := time.Now()
			outcomes, n := crowd()
			if outcomes[codeOK] != ok || outcomes[code503A] != 100-ok || n != asked || time.Since(start) != took {
				t.Errorf("%s: %v, asked %d times, after %v", when, outcomes, n, time.Since(start))
			}
			if got := as.try(m, "cached"); got != codeOK {
				t.Errorf("%s: a cached token: %s", when, got)
			}
		}
		expect("open", 0, 0, 0)
		time.Sleep(999 * time.Millisecond)
		expect("just before the probe", 0, 0, 0)
		time.Sleep(time.Millisecond)
		as.introspect = wait(500*time.Millisecond, reply(500, ""))
		expect("a probe that fails", 0, 1, 500*time.Millisecond)
		expect("after it", 0, 0, 0)
		time.Sleep(time.Second)
		as.introspect = wait(time.Hour, nil)
		expect("a probe that is not answered", 0, 1, 2*time.Second)
		time.Sleep(time.Second)
		synctest.Wait()
		as.introspect = wait(500*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		expect("a probe that succeeds", 1, 1, 500*time.Millisecond)
		as.introspect = nil
		expect("back", 100, 100, 0)
		// One outage is not enough any more.
		as.introspect = reply(500, "")
		if got := as.try(m, token()); got != code503A {
			t.Error(got)
		}
		as.introspect = nil
		if got := as.try(m, token()); got != codeOK {
			t.Errorf("one outage later: %s", got)
		}
	})
}

// A probe that is answered closes the breaker, no matter how the answer
// reads. A probe that panics does not keep the next from being made.
func TestBreakerClosesUnlessTheProbeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			name   string
			answer http.HandlerFunc
			want   string
			after  string // of the next request
		}{
			{"a refusal", reply(401, ""), code502A, codeOK},
			{"inactive", reply(204, ""), code401T, codeOK},
			{"a panic", func(http.ResponseWriter, *http.Request) { panic("x") }, code500I, code503A},
			{"an exit", func(http.ResponseWriter, *http.Request) { runtime.Goexit() }, code503A, code503A},
		} {
			as := newAS(t)
			m := as.middleware()
			token := freshTokens()
			open(t, as, m, token)
			time.Sleep(time.Second)
			as.introspect = tc.answer
			start := time.Now()
			if got := as.try(m, token()); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
			}
			synctest.Wait()
			as.introspect = nil
			if time.Since(start) == 0 { // the breaker has not waited meanwhile
				if got := as.try(m, token()); got != tc.after {
					t.Errorf("%s: then %s, want %s", tc.name, got, tc.after)
				}
			}
			time.Sleep(time.Second)
			if got := as.try(m, token()); got != codeOK {
				t.Errorf("%s: a second later %s", tc.name, got)
			}
		}
	})
}

// An outage costs one line of log for each kind of trouble and ten seconds.
//
// Catalogue: N280.
func TestOutageIsLoggedOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware()
		as.introspect = reply(503, "")
		token := freshTokens()
		for range 600 {
			if got := as.try(m, token()); got != code503A {
				t.Fatal(got)
			}
			time.Sleep(100 * time.Millisecond)
		}
		counts := map[string]int{}
		for line := range strings.Lines(as.logs.String()) {
			_, detail, _ := strings.Cut(line, "detail=")
			detail, _, _ = strings.Cut(detail, " token=")
			if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "reason=as_unavailable") {
				t.Error(line)
			}
			counts[strings.TrimSpace(detail)]++
		}
		if len(counts) != 2 || counts[`"status 503"`] != 6 || counts[`"breaker open"`] != 6 {
			t.Errorf("lines in a minute: %v", counts)
		}
	})
}

// The server is down for a minute under 100 new tokens a second. It sees one
// probe a second and is in full use a second after it returns.
//
// Catalogue: N280.
func TestOutageOfAMinuteCostsFewLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware()
		token := freshTokens()
		as.introspect = reply(503, "")
		ask := func() error { _, err := m.Verify(t.Context(), token()); return err }
		for range 6000 {
			if err := ask(); !errors.Is(err, phantom.ErrUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := as.calls.Load(); got > 10+60 {
			t.Errorf("asked %d times in a minute", got)
		}
		as.introspect = nil
		recovered := time.Now()
		for ask() != nil {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(recovered); took > time.Second {
			t.Errorf("back after %v", took)
		}
	})
}

// A probe may hang in a hook that ignores its context. It does not keep the
// breaker open for ever.
func TestBreakerOutlastsADeafProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stage atomic.Int64
		release := make(chan struct{})
		o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
			switch stage.Load() {
			case 0:
				return nil, phantom.ErrUnavailable
			case 1:
				<-release
			}
			return says(2)
		}}
		m := o.middleware(t)
		for i := range 10 {
			expect(t, "outage", idOf(m, fmt.Sprint("token-", i)), code503A)
		}
		time.Sleep(time.Second)
		stage.Store(1)
		expect(t, "probe", idOf(m, "probe"), code503A)
		stage.Store(2)
		expect(t, "while it may still end", idOf(m, "token"), code503A)
		time.Sleep(time.Second)
		expect(t, "a second later", idOf(m, "token"), "2")
		close(release)
	})
}
