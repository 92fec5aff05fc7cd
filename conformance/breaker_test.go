package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
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

func TestBreakerOpens(t *testing.T) {
	closed := roundTripper(func(*http.Request) (*http.Response, error) { return nil, io.EOF })
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		via    http.RoundTripper
		opens  bool
		want   string
	}{
		{"N280 500", reply(500, ""), nil, true, code503A},
		{"N280 429", reply(429, ""), nil, true, code503A},
		{"N280 no answer in time", wait(time.Hour, nil), nil, true, code503A},
		{"N280 no connection", nil, closed, true, code503A},
		{"A99 400", reply(400, ""), nil, false, code502A},
		{"A98 401", reply(401, ""), nil, false, code502A},
		{"A96 302", reply(302, ""), nil, false, code502A},
		{"A95 a page", reply(200, "<html>", "Content-Type: text/html"), nil, false, code502A},
		{"A77 inactive", reply(204, ""), nil, false, code401T},
		{"A116 refused JWT", answerJWT(mint("ES256", claims(map[string]any{"iss": "https://other.test"}))), nil, false, code401T},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = c.answer
				asked := 0
				count := roundTripper(func(r *http.Request) (*http.Response, error) {
					if r.URL.Path == endpointPath {
						asked++
						if c.via != nil {
							return c.via.RoundTrip(r)
						}
					}
					return as.RoundTrip(r)
				})
				m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: count}))
				token := freshTokens()
				attempts := 1
				if c.via != nil {
					attempts = 2 // with the retry
				}
				for i := range 30 {
					before, start := asked, time.Now()
					if got := as.try(m, token()); got != c.want {
						t.Fatalf("lookup %d: %s, want %s", i+1, got, c.want)
					}
					synctest.Wait() // the caller may leave a moment before the lookup ends
					want := attempts
					if c.opens && i >= 10 {
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

// Ten outages in a row open it, not ten in all: whatever answer comes between
// starts the count again.
func TestBreakerCountsInARow(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"a JWT":     nil,
		"inactive":  reply(204, ""),
		"a refusal": reply(401, ""),
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
			as.introspect = answer
			if got := as.try(m, token()); got == code503A {
				t.Fatalf("%s: not asked", name)
			}
		}
		if got := as.calls.Load(); got != 50 {
			t.Errorf("%s: asked %d times", name, got)
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

func TestBreakerProbes(t *testing.T) {
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
				t.Errorf("N280 %s: %v, asked %d times, after %v", when, outcomes, n, time.Since(start))
			}
			if got := as.try(m, "cached"); got != codeOK {
				t.Errorf("N280 %s: a cached token: %s", when, got)
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
			t.Errorf("N280 one outage later: %s", got)
		}
	})
}

// A probe that is no outage closes the breaker, whatever it brings; one that
// panics does not keep the next from being made.
func TestBreakerProbeOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			answer http.HandlerFunc
			want   string
			after  string // of the next request
		}{
			"a refusal": {reply(401, ""), code502A, codeOK},
			"inactive":  {reply(204, ""), code401T, codeOK},
			"a panic":   {func(http.ResponseWriter, *http.Request) { panic("x") }, code500I, code503A},
			"an exit":   {func(http.ResponseWriter, *http.Request) { runtime.Goexit() }, code503A, code503A},
		} {
			as := newAS(t)
			m := as.middleware()
			token := freshTokens()
			open(t, as, m, token)
			time.Sleep(time.Second)
			as.introspect = c.answer
			start := time.Now()
			if got := as.try(m, token()); got != c.want {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
			synctest.Wait()
			as.introspect = nil
			if time.Since(start) == 0 { // the breaker has not waited meanwhile
				if got := as.try(m, token()); got != c.after {
					t.Errorf("%s: then %s, want %s", name, got, c.after)
				}
			}
			time.Sleep(time.Second)
			if got := as.try(m, token()); got != codeOK {
				t.Errorf("%s: a second later %s", name, got)
			}
		}
	})
}

// One line of log for each kind of trouble and ten seconds.
func TestOutageIsLogged(t *testing.T) {
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
			if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "reason=as_unavailable") {
				t.Error(line)
			}
			counts[strings.TrimSpace(detail)]++
		}
		if len(counts) != 2 || counts[`"status 503"`] != 6 || counts[`"breaker open"`] != 6 {
			t.Errorf("N280 lines in a minute: %v", counts)
		}
	})
}

// A minute without the server, with 100 new tokens each second.
func TestOutageOfAMinute(t *testing.T) {
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
			t.Errorf("N280 asked %d times in a minute", got)
		}
		as.introspect = nil
		recovered := time.Now()
		for ask() != nil {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(recovered); took > time.Second {
			t.Errorf("N280 back after %v", took)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	const unasked = -1
	synctest.Test(t, func(t *testing.T) {
		is := func(value string) func() string { return func() string { return value } }
		in := func(d time.Duration, layout string) func() string {
			return func() string { return time.Now().Add(d).UTC().Format(layout) }
		}
		for _, status := range []int{429, 503, 500} {
			for _, c := range []struct {
				name  string
				value func() string
				sent  string
				pause time.Duration // without a lookup; unasked: none
			}{
				{"A101 seconds", is("7"), "7", 7 * time.Second},
				{"A101 space around", is("\t7 "), "7", 7 * time.Second},
				{"A102 zero", is("0"), "1", time.Second},
				{"A102 one", is("1"), "1", time.Second},
				{"A102 thirty", is("30"), "30", 30 * time.Second},
				{"A102 an hour", is("3600"), "30", 30 * time.Second},
				{"A102 beyond int64", is("99999999999999999999999"), "30", 30 * time.Second},
				{"A102 beyond int32", is("99999999999999"), "30", 30 * time.Second},
				{"A102 date", in(7*time.Second, http.TimeFormat), "7", 7 * time.Second},
				{"A102 date of RFC 850", in(7*time.Second, "Monday, 02-Jan-06 15:04:05 GMT"), "7", 7 * time.Second},
				{"A102 date of C", in(7*time.Second, time.ANSIC), "7", 7 * time.Second},
				{"A102 date in an hour", in(time.Hour, http.TimeFormat), "30", 30 * time.Second},
				{"A102 date past", in(-time.Hour, http.TimeFormat), "1", time.Second},
				{"A102 date long past", is("Mon, 01 Jan 0001 00:00:00 GMT"), "1", time.Second},
				{"A102 date far off", is("Fri, 31 Dec 9999 23:59:59 GMT"), "30", 30 * time.Second},
				{"A102 negative", is("-1"), "1", unasked},
				{"A102 signed", is("+7"), "1", unasked},
				{"A102 fraction", is("7.5"), "1", unasked},
				{"A102 word", is("abc"), "1", unasked},
				{"A102 empty", is(""), "1", unasked},
				{"A102 list", is("7, 8"), "1", unasked},
				{"A102 other digits", is("٧"), "1", unasked},
			} {
				name := fmt.Sprintf("%s, status %d", c.name, status)
				as := newAS(t)
				m := as.middleware()
				token := freshTokens()
				if got := as.try(m, "cached"); got != codeOK {
					t.Fatal(got)
				}
				as.introspect = func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Retry-After", c.value())
					w.WriteHeader(status)
				}
				if got := retryAfterOf(t, as, m, token()); got != c.sent {
					t.Errorf("%s: Retry-After %s, want %s", name, got, c.sent)
				}
				before := as.calls.Load()
				as.introspect = nil
				if c.pause == unasked {
					if got := as.try(m, token()); got != codeOK {
						t.Errorf("%s: the next lookup: %s", name, got)
					}
					continue
				}
				time.Sleep(c.pause - time.Millisecond)
				if got := retryAfterOf(t, as, m, token()); got != "1" {
					t.Errorf("%s: at the end of the wait Retry-After %s", name, got)
				}
				if got := as.try(m, "cached"); got != codeOK {
					t.Errorf("%s: a cached token: %s", name, got)
				}
				if got := as.calls.Load(); got != before {
					t.Errorf("%s: asked %d times too early", name, got-before)
				}
				time.Sleep(time.Millisecond)
				if got := as.try(m, token()); got != codeOK {
					t.Errorf("%s: after the wait: %s", name, got)
				}
			}
		}
	})
}

// What is left of the wait is told to those who come meanwhile.
func TestRetryAfterCountsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware()
		token := freshTokens()
		as.introspect = reply(429, "", "Retry-After: 7")
		for left := 7; left >= 1; left-- {
			if got := retryAfterOf(t, as, m, token()); got != fmt.Sprint(left) {
				t.Errorf("A101 Retry-After %s, want %d", got, left)
			}
			if got := as.calls.Load(); got != 1 {
				t.Errorf("A101 asked %d times", got)
			}
			time.Sleep(time.Second)
		}
		// The probe is told to wait again.
		if got := retryAfterOf(t, as, m, token()); got != "7" || as.calls.Load() != 2 {
			t.Errorf("A101 Retry-After %s of the probe, asked %d times", got, as.calls.Load())
		}
		if got := retryAfterOf(t, as, m, token()); got != "7" || as.calls.Load() != 2 {
			t.Errorf("A101 Retry-After %s behind the probe, asked %d times", got, as.calls.Load())
		}
	})
}

// Lookups that were under way when the server asked to wait change nothing
// about it, whether they succeed, fail or are told a shorter wait.
func TestLateAnswersDoNotHurry(t *testing.T) {
	for name, late := range map[string]http.HandlerFunc{
		"success":        answerJWT(mint("ES256", claims(nil))),
		"inactive":       reply(204, ""),
		"outage":         reply(500, ""),
		"a shorter wait": reply(429, "", "Retry-After: 1"),
	} {
		t.Run("A101 "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				m := as.middleware()
				token := freshTokens()
				as.introspect = wait(time.Second, late)
				done := make(chan bool)
				go func() { as.try(m, token()); done <- true }()
				synctest.Wait()
				as.introspect = reply(429, "", "Retry-After: 20")
				if got := retryAfterOf(t, as, m, token()); got != "20" {
					t.Error(got)
				}
				<-done
				as.introspect = nil
				time.Sleep(18 * time.Second)
				if got := retryAfterOf(t, as, m, token()); got != "1" || as.calls.Load() != 2 {
					t.Errorf("a second before the end: Retry-After %s, asked %d times", got, as.calls.Load())
				}
				time.Sleep(time.Second)
				if got := as.try(m, token()); got != codeOK {
					t.Errorf("at the end: %s", got)
				}
			})
		})
	}
}

// crowdOf looks n new tokens up at once and returns how many were verified and
// how many found the server unavailable.
func crowdOf(t *testing.T, m *phantom.Middleware, n int) (verified, unavailable int) {
	token := freshTokens()
	results := make(chan error, n)
	for range n {
		go func(token string) {
			_, err := m.Verify(t.Context(), token)
			results <- err
		}(token())
	}
	for range n {
		switch err := <-results; {
		case err == nil:
			verified++
		case errors.Is(err, phantom.ErrUnavailable):
			unavailable++
		default:
			t.Error(err)
		}
	}
	return verified, unavailable
}

func TestMaxInFlight(t *testing.T) {
	for _, c := range []struct {
		name  string
		extra []phantom.Option
		crowd int
		peak  int64
		ok    int
		took  time.Duration
	}{
		{"C205 the default", nil, 500, 64, 500, 800 * time.Millisecond},
		{"C205 fewer than there are places", nil, 50, 50, 50, 100 * time.Millisecond},
		{"C205 three", []phantom.Option{phantom.WithMaxInFlight(3)}, 30, 3, 30, time.Second},
		{"N282 more than may wait", []phantom.Option{phantom.WithMaxInFlight(1), phantom.WithTimeout(time.Minute)}, 40, 1, 33, 3300 * time.Millisecond},
		{"N282 more than may wait, of the default", []phantom.Option{phantom.WithTimeout(time.Minute)}, 3000, 64, 64 + 64*32, 3300 * time.Millisecond},
		{"N282 longer than they may wait", []phantom.Option{phantom.WithMaxInFlight(1), phantom.WithTimeout(1050 * time.Millisecond)}, 33, 1, 9, 900 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
				m := as.middleware(c.extra...)
				for range 2 { // the first crowd leaves every place as it was
					m.Purge()
					start := time.Now()
					ok, unavailable := crowdOf(t, m, c.crowd)
					if ok != c.ok || unavailable != c.crowd-c.ok {
						t.Errorf("%d verified and %d not, want %d", ok, unavailable, c.ok)
					}
					if took := time.Since(start); took != c.took {
						t.Errorf("all answered after %v, want %v", took, c.took)
					}
					if got := as.peak.Load(); got != c.peak {
						t.Errorf("%d at once, want %d", got, c.peak)
					}
					synctest.Wait()
				}
			})
		})
	}
}

// Those beyond the queue are refused at once, not when the others are done.
func TestQueueOverflowsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(time.Second, answerJWT(mint("ES256", claims(nil))))
		m := as.middleware(phantom.WithMaxInFlight(1), phantom.WithTimeout(time.Hour))
		done := make(chan int)
		go func() { verified, _ := crowdOf(t, m, 33); done <- verified }()
		synctest.Wait()
		start := time.Now()
		if got := retryAfterOf(t, as, m, "one-too-many"); got != "1" || time.Since(start) != 0 {
			t.Errorf("N282 Retry-After %s after %v", got, time.Since(start))
		}
		// The same token as one that is looked up needs no place of its own.
		go as.try(m, "fresh-token-1")
		if verified := <-done; verified != 33 {
			t.Errorf("N282 %d verified", verified)
		}
	})
}

// When the server fails, those who wait for a place are not sent after it: no
// more than took the places of the first nine outages.
func TestQueueOfAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(time.Second, reply(500, ""))
		m := as.middleware(phantom.WithMaxInFlight(10))
		if _, unavailable := crowdOf(t, m, 330); unavailable != 330 || as.calls.Load() > 10+9 {
			t.Errorf("N282 %d refused, asked %d times", unavailable, as.calls.Load())
		}
	})
}

// A hook that panics or ends its goroutine gives its place back.
func TestPlacesAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		var fail atomic.Value // nothing else orders a lookup that ends its goroutine
		i := &introspector{ask: func(context.Context, string) (*phantom.Introspection, error) {
			fail.Load().(func())()
			return &phantom.Introspection{Active: true, JWT: mint("ES256", claims(nil))}, nil
		}}
		m := introspected(as, i, phantom.WithMaxInFlight(1))
		token := freshTokens()
		for range 4 {
			fail.Store(func() { panic("x") })
			if got := as.try(m, token()); got != code500I {
				t.Error(got)
			}
			fail.Store(runtime.Goexit)
			if got := as.try(m, token()); got != code503A {
				t.Error(got)
			}
		}
		fail.Store(func() {})
		if got := as.try(m, token()); got != codeOK {
			t.Errorf("afterwards %s", got)
		}
	})
}

func TestMaxInFlightMustBePositive(t *testing.T) {
	for _, n := range []int{0, -1} {
		_, err := phantom.New(newAS(t).options(phantom.WithMaxInFlight(n))...)
		var config *phantom.ConfigError
		if !errors.As(err, &config) || config.Option != "WithMaxInFlight" {
			t.Errorf("%d: %v", n, err)
		}
	}
}

// slowServer answers after the latency: junk is inactive, everything else not.
func slowServer(latency time.Duration) *oracle {
	return &oracle{ask: func(ctx context.Context, token string) (*phantom.Introspection, error) {
		select {
		case <-time.After(latency):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if strings.HasPrefix(token, "junk") {
			return inactive, nil
		}
		return says(1)
	}}
}

// TestL286KnownTokensGoFirst: more junk than the server can take, and users who
// were there before. The junk waits and is turned away; they are served, also
// those whose entries end unrefreshed or whose keys leave.
func TestL286KnownTokensGoFirst(t *testing.T) {
	latencies, lasts := []time.Duration{10 * time.Millisecond, 50 * time.Millisecond}, 130*time.Second
	if scale > 1 {
		latencies, lasts = latencies[1:], 65*time.Second
	}
	for name, extra := range map[string][]phantom.Option{"refresh ahead": nil, "no refresh ahead": {phantom.WithRefreshAhead(0)}} {
		for _, latency := range latencies {
			t.Run(fmt.Sprint(name, " ", latency), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := slowServer(latency)
					m := o.middleware(t, append(extra, phantom.WithMaxInFlight(8))...)
					const users = 100
					for i := range users {
						expect(t, "at first", idOf(m, fmt.Sprint("user-", i)), "1")
					}
					var wg sync.WaitGroup
					var junk, refused atomic.Int64
					start := time.Now()
					for i := 0; time.Since(start) < lasts; i++ {
						for j := range 10 {
							wg.Go(func() {
								junk.Add(1)
								if _, err := m.Verify(context.Background(), fmt.Sprintf("junk-%d-%d", i, j)); errors.Is(err, phantom.ErrUnavailable) {
									refused.Add(1)
								}
							})
						}
						wg.Go(func() {
							at := time.Now()
							expect(t, "a user", idOf(m, fmt.Sprint("user-", i%users)), "1")
							if took := time.Since(at); took > 2*latency {
								t.Errorf("a user waited for %v", took)
							}
						})
						time.Sleep(4 * time.Millisecond)
					}
					wg.Wait()
					if junk.Load() < refused.Load() || refused.Load() < junk.Load()/4 {
						t.Errorf("%d of %d junk tokens refused: that is no flood", refused.Load(), junk.Load())
					}
				})
			})
		}
	}
}

// A crowd that is larger than a healthy server can take is no outage: the
// server is kept busy, nothing is sent that cannot be answered in time, and
// nobody is told of an open breaker.
func TestOverloadIsNoOutage(t *testing.T) {
	for _, c := range []struct {
		latency time.Duration
		rate    int // a second
	}{{100 * time.Millisecond, 700}, {200 * time.Millisecond, 1000}, {500 * time.Millisecond, 1000}} {
		t.Run(fmt.Sprint(c.latency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := slowServer(c.latency)
				m := o.middleware(t)
				var ok atomic.Int64
				var wg sync.WaitGroup
				seconds := 20
				if scale > 1 {
					seconds = 5
				}
				for i := range seconds * c.rate {
					wg.Go(func() {
						_, err := m.Verify(context.Background(), fmt.Sprint("token-", i))
						var e *phantom.Error
						if err == nil {
							ok.Add(1)
						} else if !errors.As(err, &e) || e.Detail != "no place in time" && e.Detail != "too many lookups waiting" {
							t.Errorf("%v", err)
						}
					})
					time.Sleep(time.Second / time.Duration(c.rate))
				}
				wg.Wait()
				if capacity := int64(64 * time.Duration(seconds) * time.Second / c.latency); ok.Load() < capacity*9/10 || o.calls.Load() > ok.Load()*101/100 {
					t.Errorf("%d verified of %d that were possible, %d asked", ok.Load(), capacity, o.calls.Load())
				}
			})
		})
	}
}

// A probe of a hook that does not mind its context does not keep the breaker
// open for ever.
func TestProbeThatNeverEnds(t *testing.T) {
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

// A longer wait that the server asked for outlasts what a probe finds out.
func TestA101LateRetryAfter(t *testing.T) {
	for name, probe := range map[string]http.HandlerFunc{"failed probe": reply(500, ""), "good probe": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				m := as.middleware()
				token := freshTokens()
				good := answerJWT(mint("ES256", claims(nil)))
				as.introspect = wait(1500*time.Millisecond, reply(429, "", "Retry-After: 20"))
				go as.try(m, "late")
				synctest.Wait()
				open(t, as, m, token)
				time.Sleep(time.Second)
				if probe == nil {
					probe = good
				}
				as.introspect = wait(time.Second, probe)
				as.try(m, token()) // from 1 s to 2 s; the 429 came at 1.5 s
				as.introspect = good
				asked := as.calls.Load()
				for range 19 {
					if got := as.try(m, token()); got != code503A {
						t.Error(got)
					}
					time.Sleep(time.Second)
				}
				if got := as.calls.Load(); got != asked {
					t.Errorf("asked %d times while it was to wait", got-asked)
				}
				time.Sleep(time.Second)
				if got := as.try(m, token()); got != codeOK {
					t.Error(got)
				}
			})
		})
	}
}

// TestKnownTokensOfASlowServer: they go first also when an answer takes a good
// part of the time that a lookup may take.
func TestKnownTokensOfASlowServer(t *testing.T) {
	for _, latency := range []time.Duration{300 * time.Millisecond, 900 * time.Millisecond} {
		t.Run(fmt.Sprint(latency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := slowServer(latency)
				m := o.middleware(t, phantom.WithMaxInFlight(4), phantom.WithMaxTTL(20*time.Second), phantom.WithRefreshAhead(0))
				for i := range 4 {
					expect(t, "at first", idOf(m, fmt.Sprint("user-", i)), "1")
				}
				time.Sleep(20 * time.Second) // all entries are over
				var wg sync.WaitGroup
				for i := range 2000 { // 200 a second
					wg.Go(func() { idOf(m, fmt.Sprint("junk-", i)) })
					time.Sleep(5 * time.Millisecond)
					if i%500 == 250 {
						wg.Go(func() { expect(t, "a user", idOf(m, fmt.Sprint("user-", i/500)), "1") })
					}
				}
				wg.Wait()
			})
		})
	}
}

// Known tokens go first, but do not keep all others out.
func TestUnknownTokensAreNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency, users = 100 * time.Millisecond, 60
		o := slowServer(latency)
		m := o.middleware(t, phantom.WithMaxInFlight(2), phantom.WithMaxTTL(2*time.Second))
		for i := range users {
			expect(t, "at first", idOf(m, fmt.Sprint("user-", i)), "1")
		}
		// The users alone want 30 lookups a second, the server gives 20.
		var wg sync.WaitGroup
		var fresh atomic.Int64
		for i := range 30 * 20 {
			for j := range users {
				go idOf(m, fmt.Sprint("user-", j))
			}
			if i%10 == 0 {
				wg.Go(func() {
					if idOf(m, fmt.Sprint("fresh-", i)) == "1" {
						fresh.Add(1)
					}
				})
			}
			time.Sleep(50 * time.Millisecond)
		}
		wg.Wait()
		time.Sleep(3 * time.Second)
		if n := fresh.Load(); n < 30 {
			t.Errorf("%d of 60 new users served", n)
		}
	})
}

// One answer that takes more than half of the time limit says nothing of the
// lookups after it. It is on the machine's clock, where nothing takes no time
// at all, as it does in a bubble.
func TestOneSlowAnswer(t *testing.T) {
	var slow atomic.Bool
	o := &oracle{ask: func(ctx context.Context, _ string) (*phantom.Introspection, error) {
		if slow.Load() {
			select {
			case <-time.After(600 * time.Millisecond):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return says(1)
	}}
	m := o.middleware(t, phantom.WithTimeout(time.Second), phantom.WithCacheSize(0))
	slow.Store(true)
	for idOf(m, "slow") != "1" { // on a machine that is even slower
		time.Sleep(time.Second)
	}
	slow.Store(false)
	for i := range 20 {
		expect(t, "afterwards", idOf(m, fmt.Sprint("token-", i)), "1")
	}
}
