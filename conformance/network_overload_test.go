package conformance_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// Slow lookups do not hold up the others. The server answers the slow ones
// only after all the others, so that waiting for one would be waiting for
// ever.
//
// Catalogue: N279.
func TestSlowLookupsDelayNoOthers(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	release := make(chan struct{})
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.PostForm.Get("token"), "slow-") {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		answerJWT(good)(w, r)
	}
	s, _, _ := as.serveHTTP(nil)
	m := as.networked(s.URL, phantom.WithTimeout(30*time.Second))
	var slow sync.WaitGroup
	for i := range 10 {
		slow.Go(func() {
			if got := statusOf(m, "slow-"+strconv.Itoa(i)); got != 200 {
				t.Errorf("slow: %d", got)
			}
		})
	}
	eventually(t, "all slow lookups under way", func() bool { return as.current.Load() == 10 })
	if failed := together(990, func(i int) bool { return statusOf(m, "fast-"+strconv.Itoa(i)) == 200 }); failed != 0 {
		t.Errorf("%d failed", failed)
	}
	if n := as.current.Load(); n != 10 {
		t.Errorf("%d under way", n)
	}
	close(release)
	slow.Wait()
}

// A sharedTransport is the caller's, who may use it for other servers too.
type sharedTransport struct {
	http.RoundTripper
	closed atomic.Int64
}

func (s *sharedTransport) CloseIdleConnections() { s.closed.Add(1) }

// Lookups that take too long, among others that are answered or alone, close no
// idle connection of a caller's transport.
//
// Catalogue: X10.
func TestSlowLookupsKeepTheConnectionsOfACallersTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		slow := wait(10*time.Second, answerJWT("late"))
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.PostForm.Get("token"), "slow-") {
				slow(w, r)
				return
			}
			newToken(w, r)
		}
		shared := &sharedTransport{RoundTripper: as}
		m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: shared}))
		for i := range 1000 {
			token := "fast-" + strconv.Itoa(i)
			if i%100 == 0 {
				token = "slow-" + strconv.Itoa(i)
			}
			go statusOf(m, token)
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		if got := statusOf(m, "slow-alone"); got != 503 {
			t.Error(got)
		}
		time.Sleep(10 * time.Second)
		if n := shared.closed.Load(); n != 0 {
			t.Errorf("idle connections given up %d times", n)
		}
	})
}

// The server is down under 1,000 distinct tokens a second. The breaker
// refuses them at once, sends one probe at a time, and lets all through soon
// after the server returns. It all runs in memory, where a minute takes no
// time.
//
// Catalogue: N280.
func TestOutageIsProbedOneAtATime(t *testing.T) {
	for _, tc := range []struct {
		name   string
		serve  http.HandlerFunc
		takes  time.Duration // a lookup, until it fails
		lasts  time.Duration
		probes int64
	}{
		{"503", answer(503, "", ""), 0, time.Minute, 60},
		{"silent", wait(time.Hour, answer(503, "", "")), 2 * time.Second, 15 * time.Second, 5},
		{"slow", wait(500*time.Millisecond, answer(500, "", "")), 500 * time.Millisecond, 15 * time.Second, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				good := mint("ES256", claims(map[string]any{"exp": time.Now().Add(time.Hour).Unix()}))
				var healthy atomic.Bool
				var atOnce atomic.Int64 // the most at once, once the breaker is open
				var settled atomic.Bool
				as.introspect = func(w http.ResponseWriter, r *http.Request) {
					if healthy.Load() {
						answerJWT(good)(w, r)
						return
					}
					if n := as.current.Load(); settled.Load() && n > atOnce.Load() {
						atOnce.Store(n)
					}
					tc.serve(w, r)
				}
				m := as.middleware()
				const rate = 1000
				begin := time.Now()
				var requests sync.WaitGroup
				var served, slow, other atomic.Int64
				var firstServed atomic.Int64
				var callsThen int64
				request := func(i int) {
					sent := time.Now()
					switch statusOf(m, "opaque-token-"+strconv.Itoa(i)) {
					case 200:
						served.Add(1)
						firstServed.CompareAndSwap(0, int64(time.Since(begin)))
					case 503:
						// A probe takes its time; no other request does.
						if settled.Load() && sent.Sub(begin) > tc.takes+time.Second && time.Since(sent) >= 5*time.Millisecond {
							slow.Add(1)
						}
					default:
						other.Add(1)
					}
				}
				for i := range int(tc.lasts/time.Second) * rate {
					if d := time.Since(begin); !settled.Load() && d > tc.takes+time.Second {
						callsThen = as.calls.Load()
						settled.Store(true)
					}
					requests.Go(func() { request(i) })
					time.Sleep(time.Second / rate)
				}
				probes := as.calls.Load() - callsThen
				if served.Load() != 0 || other.Load() != 0 {
					t.Errorf("%d served, %d neither served nor 503", served.Load(), other.Load())
				}
				if atOnce.Load() > 1 {
					t.Errorf("%d probes at once", atOnce.Load())
				}
				if probes > tc.probes || probes < tc.probes*2/3 {
					t.Errorf("%d probes", probes)
				}
				if slow.Load() > probes+1 { // one was under way
					t.Errorf("%d slow 503s beside %d probes", slow.Load(), probes)
				}
				// The probe under way when the server returns is lost.
				healthy.Store(true)
				returned := time.Since(begin)
				for i := range 4 * rate {
					requests.Go(func() { request(1_000_000 + i) })
					time.Sleep(time.Second / rate)
				}
				requests.Wait()
				after := time.Duration(firstServed.Load()) - returned
				if after < 0 || after > tc.takes+time.Second+10*time.Millisecond {
					t.Errorf("first served %v after the return", after)
				}
				before := served.Load()
				for i := range 100 {
					request(2_000_000 + i)
				}
				if served.Load() != before+100 {
					t.Errorf("%d of 100 served in the end", served.Load()-before)
				}
			})
		})
	}
}

// The client never asks again for an HTTP answer.
//
// Catalogue: N281.
func TestHTTPAnswerIsNeverRetried(t *testing.T) {
	for _, tc := range []struct {
		status, want int
	}{
		{503, 503}, {500, 503}, {502, 503}, {429, 503}, {400, 502}, {404, 502}, {408, 503}, {425, 503},
	} {
		t.Run(fmt.Sprintf("status %d", tc.status), func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			as.introspect = answer(tc.status, "", "")
			s, _, _ := as.serveHTTP(nil)
			m := as.networked(s.URL)
			for i := range 1000 {
				if got := statusOf(m, "opaque-token-"+strconv.Itoa(i)); got != tc.want {
					t.Fatalf("%d, not %d", got, tc.want)
				}
			}
			n := as.calls.Load()
			if tc.want == 502 && n != 1000 || tc.want == 503 && (n < 10 || n > 100) {
				t.Errorf("%d attempts", n)
			}
		})
	}
}

// Many clients, each with its own token, come again as often as they are
// told to. No more of them reach the server than there are places, and soon
// after it returns all are served.
//
// Catalogue: N282.
func TestCrowdIsServedWhenTheServerReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		good := mint("ES256", claims(map[string]any{"exp": time.Now().Add(time.Hour).Unix()}))
		var healthy atomic.Bool
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(10 * time.Millisecond)
			if !healthy.Load() {
				w.WriteHeader(503)
				return
			}
			answerJWT(good)(w, r)
		}
		m := as.middleware()
		const clients = 10_000
		var group sync.WaitGroup
		var refusals, odd atomic.Int64
		for i := range clients {
			group.Go(func() {
				time.Sleep(time.Duration(i) * time.Second / clients)
				for {
					switch statusOf(m, "opaque-token-"+strconv.Itoa(i)) {
					case 200:
						return
					case 503:
						refusals.Add(1)
						time.Sleep(time.Second) // its Retry-After
					default:
						odd.Add(1)
						return
					}
				}
			})
		}
		time.Sleep(5 * time.Second)
		if n := as.peak.Load(); n > 64 {
			t.Errorf("%d at once", n)
		}
		healthy.Store(true)
		returned := time.Now()
		group.Wait()
		// 10,000 lookups of 10 ms, 64 at once, take 1.6 s; a probe's interval and
		// the clients' own pause come on top.
		if took := time.Since(returned); took > 5*time.Second {
			t.Errorf("full service after %v", took)
		}
		if n := as.peak.Load(); n > 64 || odd.Load() != 0 || refusals.Load() < clients {
			t.Errorf("%d at once, %d odd answers, %d refusals", n, odd.Load(), refusals.Load())
		}
	})
}

// With all places taken and the queue full, the Middleware refuses the rest
// at once.
//
// Catalogue: N282.
func TestLookupQueueIsBounded(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	release := make(chan struct{})
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		answerJWT(good)(w, r)
	}
	s, opened, _ := as.serveHTTP(nil)
	m := as.networked(s.URL, phantom.WithMaxInFlight(4), phantom.WithTimeout(30*time.Second))
	const clients, places, queue = 1000, 4, 4 * 32
	var refused atomic.Int64
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			switch got := statusOf(m, "opaque-token-"+strconv.Itoa(i)); got {
			case 503:
				refused.Add(1)
			case 200:
			default:
				t.Error(got)
			}
		})
	}
	eventually(t, "the excess told", func() bool { return refused.Load() == clients-places-queue })
	if n := as.current.Load(); n > places {
		t.Errorf("%d at once", n)
	}
	close(release)
	group.Wait()
	if n := as.calls.Load(); n != places+queue {
		t.Errorf("%d attempts", n)
	}
	if n := opened.Load(); n > places {
		t.Errorf("%d connections", n)
	}
	if refused.Load() != clients-places-queue {
		t.Errorf("%d refused", refused.Load())
	}
}
