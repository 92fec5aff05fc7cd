package conformance_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A crossing is a gate to a server at which known users, new users and junk
// arrive at the same time. It counts who gets in.
type crossing struct {
	t  *testing.T
	as *fakeAS
	m  *phantom.Middleware
	// junk answers the tokens of nobody; good all others.
	junk, good http.HandlerFunc
	refuse     func(token string) error // in place of an answer; may be nil

	known, knownOut atomic.Int64 // requests of known users, and those with 503
	fresh, freshIn  atomic.Int64 // first requests of new users, and those let in
	again, againIn  atomic.Int64 // their second ones, a second later
	junkSent        atomic.Int64
}

// newCrossing lets 50 known users in.
func newCrossing(t *testing.T, junk http.HandlerFunc, extra ...phantom.Option) *crossing {
	as := newAS(t)
	c := &crossing{t: t, as: as, junk: junk}
	c.good = wait(20*time.Millisecond, func(w http.ResponseWriter, r *http.Request) {
		answerJWT(mint("ES256", claims(map[string]any{"exp": time.Now().Add(time.Hour).Unix()})))(w, r)
	})
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Form.Get("token"), "junk") {
			c.junk(w, r)
			return
		}
		c.good(w, r)
	}
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		if c.refuse != nil && r.URL.Path == endpointPath {
			_ = r.ParseForm()
			if err := c.refuse(r.Form.Get("token")); err != nil {
				return nil, err
			}
			r.Body = http.NoBody
		}
		return as.RoundTrip(r)
	})
	c.m = as.middleware(append([]phantom.Option{
		phantom.WithHTTPClient(&http.Client{Transport: transport}), phantom.WithTimeout(3 * time.Second),
	}, extra...)...)
	for user := range 50 {
		if got := statusOf(c.m, fmt.Sprint("known-", user)); got != 200 {
			t.Fatal(got)
		}
	}
	return c
}

// run has each known user come every two seconds, one new user every two
// seconds, and so much junk a second.
func (c *crossing) run(d time.Duration, junkRate int) {
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	every := func(interval time.Duration, do func(i int)) {
		wg.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				wg.Go(func() { do(i) })
				time.Sleep(interval)
			}
		})
	}
	for user := range 50 {
		every(2*time.Second, func(int) {
			c.known.Add(1)
			if statusOf(c.m, fmt.Sprint("known-", user)) != 200 {
				c.knownOut.Add(1)
			}
		})
	}
	every(2*time.Second+3*time.Millisecond, func(i int) {
		token := fmt.Sprint("new-", i)
		c.fresh.Add(1)
		if statusOf(c.m, token) == 200 {
			c.freshIn.Add(1)
			return
		}
		time.Sleep(time.Second)
		c.again.Add(1)
		if statusOf(c.m, token) == 200 {
			c.againIn.Add(1)
		}
	})
	every(time.Second/time.Duration(junkRate), func(int) {
		statusOf(c.m, fmt.Sprint("junk-", c.junkSent.Add(1)))
	})
	wg.Wait()
}

// knownStayIn expects that no known user was ever turned away.
func (c *crossing) knownStayIn() {
	c.t.Helper()
	if out := c.knownOut.Load(); out > 0 || c.known.Load() < 1000 {
		c.t.Errorf("%d of %d requests of known users were refused", out, c.known.Load())
	}
}

// A server that fails on tokens it cannot parse fails on them alone: known users
// do not notice, and new ones get in unless the junk is a flood.
//
// Catalogue: X1.
func TestJunkThatTheServerFailsOnKeepsNoUserOut(t *testing.T) {
	for _, tc := range []struct {
		rate    int
		newIn   float64 // share of the first requests of new users
		againIn float64 // of those refused, a second later
	}{{12, 1, 0}, {20, 1, 0}, {100, 2. / 3, 0.5}, {200, 0, 0}} {
		t.Run(fmt.Sprint(tc.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrossing(t, wait(5*time.Millisecond, reply(500, "")))
				c.run(2*time.Minute, tc.rate)
				c.knownStayIn()
				in, all := float64(c.freshIn.Load()), float64(c.fresh.Load())
				if in < tc.newIn*all || all < 50 {
					t.Errorf("%v of %v new users got in at once", in, all)
				}
				if again := float64(c.again.Load()); float64(c.againIn.Load()) < tc.againIn*again {
					t.Errorf("%v of %v got in a second later", c.againIn.Load(), again)
				}
			})
		})
	}
}

// Known users do not notice junk, however the server or the way to it fails on
// that, or asks it to wait.
//
// Catalogue: X2, X3, X4.
func TestKnownUsersNoticeNoJunk(t *testing.T) {
	reset := func(token string) error {
		if strings.HasPrefix(token, "junk") {
			return errors.New("connection reset by peer")
		}
		return nil
	}
	slow := wait(2900*time.Millisecond, reply(500, ""))
	for _, tc := range []struct {
		name   string
		junk   http.HandlerFunc
		refuse func(string) error
		rate   int
	}{
		{"resets", nil, reset, 12},
		{"resets, more", nil, reset, 100},
		{"slow failures", slow, nil, 10},
		{"slow failures, more", slow, nil, 60},
		{"slow refusals", wait(2900*time.Millisecond, reply(204, "")), nil, 10},
		{"silence", wait(time.Hour, nil), nil, 10},
		{"bad gateway", reply(502, ""), nil, 100},
		{"unavailable", reply(503, ""), nil, 100},
		{"gateway time-out", reply(504, ""), nil, 100},
		{"unusable answers", reply(404, ""), nil, 100},
		{"500 with Retry-After", reply(500, "", "Retry-After: 30"), nil, 20},
		{"502 with Retry-After", reply(502, "", "Retry-After: 30"), nil, 20},
		{"503 with Retry-After", reply(503, "", "Retry-After: 30"), nil, 20},
		{"429 with Retry-After", reply(429, "", "Retry-After: 120"), nil, 2},
		{"429 with Retry-After, more", reply(429, "", "Retry-After: 1"), nil, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrossing(t, tc.junk)
				c.refuse = tc.refuse
				c.run(2*time.Minute, tc.rate)
				c.knownStayIn()
			})
		})
	}
}

// With a cap of 0 nothing is remembered of a token but that it was good, so its
// user stays a known one.
//
// Catalogue: X1, X2, C222.
func TestKnownUsersNoticeNoJunkWithoutACap(t *testing.T) {
	for name, junk := range map[string]http.HandlerFunc{
		"500": wait(5*time.Millisecond, reply(500, "")), "silence": wait(time.Hour, nil),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrossing(t, junk, phantom.WithMaxTTL(0))
				c.run(2*time.Minute, 20)
				c.knownStayIn()
				if asked := c.as.calls.Load(); asked < 3000 {
					t.Errorf("asked %d times about 3000 requests: something was remembered", asked)
				}
			})
		})
	}
}

// Known tokens on which the server fails, each time, are those tokens' trouble:
// however often they come, no other user notices.
//
// Catalogue: X13.
func TestKnownTokensThatFailKeepNobodyElseOut(t *testing.T) {
	for _, tc := range []struct {
		name    string
		failing http.HandlerFunc
		tokens  int
	}{
		{"500", wait(5*time.Millisecond, reply(500, "")), 1},
		{"500, five of them", wait(5*time.Millisecond, reply(500, "")), 5},
		{"bad gateway", reply(502, ""), 2},
		{"silence", wait(time.Hour, nil), 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrossing(t, reply(204, ""), phantom.WithMaxTTL(10*time.Second))
				for i := range tc.tokens {
					statusOf(c.m, fmt.Sprint("failing-", i))
				}
				good := c.good
				var asked atomic.Int64
				c.good = func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.Form.Get("token"), "failing") {
						asked.Add(1)
						tc.failing(w, r)
						return
					}
					good(w, r)
				}
				for i := range tc.tokens {
					go func() {
						for range 2400 { // two minutes
							go statusOf(c.m, fmt.Sprint("failing-", i))
							time.Sleep(50 * time.Millisecond)
						}
					}()
				}
				c.run(2*time.Minute, 1)
				c.knownStayIn()
				if in, all := c.freshIn.Load(), c.fresh.Load(); in < all {
					t.Errorf("%d of %d new users got in", in, all)
				}
				time.Sleep(10 * time.Second) // until the last lookup has ended
			})
		})
	}
}

// One answer with Retry-After among a thousand good ones keeps new lookups back
// for a second at most. What is remembered is served all the while.
//
// Catalogue: X4.
func TestOneRetryAfterAmongGoodAnswersCostsASecond(t *testing.T) {
	for _, tc := range []struct {
		status int
		after  string
	}{{503, "30"}, {503, "120"}, {429, "30"}, {429, "120"}} {
		t.Run(fmt.Sprint(tc.status, " ", tc.after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrossing(t, nil)
				var n atomic.Int64
				good := c.good
				c.good = func(w http.ResponseWriter, r *http.Request) {
					if n.Add(1) == 300 {
						reply(tc.status, "", "Retry-After: "+tc.after)(w, r)
						return
					}
					good(w, r)
				}
				var wg sync.WaitGroup
				var out atomic.Int64
				for i := range 1000 {
					wg.Go(func() {
						if statusOf(c.m, fmt.Sprint("new-", i)) != 200 {
							out.Add(1)
						}
					})
					if got := statusOf(c.m, fmt.Sprint("known-", i%50)); got != 200 {
						t.Errorf("a live entry: %d", got)
					}
					time.Sleep(10 * time.Millisecond)
				}
				wg.Wait()
				if out.Load() > 103 { // 100 a second, and those under way
					t.Errorf("%d of 1000 refused", out.Load())
				}
			})
		})
	}
}

// While a server asks to wait, a known token may ask whether it is back before
// new ones may.
//
// Catalogue: X4.
func TestKnownTokensProbeFirstDuringAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrossing(t, reply(429, "", "Retry-After: 30"), phantom.WithRefreshAhead(0))
		time.Sleep(61 * time.Second) // what was remembered is over
		if got := statusOf(c.m, "junk"); got != 503 {
			t.Fatal(got)
		}
		time.Sleep(500 * time.Millisecond)
		if got := statusOf(c.m, "new"); got != 503 {
			t.Errorf("a new token: %d", got)
		}
		if got := statusOf(c.m, "known-1"); got != 200 {
			t.Errorf("a known token: %d", got)
		}
		if got := statusOf(c.m, "new"); got != 200 {
			t.Errorf("a new token behind it: %d", got)
		}
	})
}

// One slow answer turns no one away for whom there is time and a place: neither
// if it was the first of all nor after a slow minute.
//
// Catalogue: X5.
func TestOldSlownessTurnsNoOneAway(t *testing.T) {
	for _, tc := range []struct {
		name    string
		timeout time.Duration
		slow    time.Duration
		all     bool // all lookups that came before the first answer are slow
		crowd   int
	}{
		{"the first answer, 300 at once", 3 * time.Second, 2500 * time.Millisecond, false, 300},
		{"the first answer, 1000 at once", 3 * time.Second, 2500 * time.Millisecond, false, 1000},
		{"the first answers, 300 at once", 3 * time.Second, 2500 * time.Millisecond, true, 300},
		{"the first answers, 900 at once", 3 * time.Second, 2500 * time.Millisecond, true, 900},
		{"less time", 500 * time.Millisecond, 350 * time.Millisecond, false, 300},
		{"less time, the first answers", 500 * time.Millisecond, 350 * time.Millisecond, true, 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrossing(t, nil, phantom.WithTimeout(tc.timeout))
				good := c.good
				var n atomic.Int64
				start := time.Now()
				c.good = func(w http.ResponseWriter, r *http.Request) {
					if first := n.Add(1) == 1; first || tc.all && time.Since(start) == 0 {
						wait(tc.slow, good)(w, r)
						return
					}
					good(w, r)
				}
				if got := c.crowd(tc.crowd, "new"); got != tc.crowd {
					t.Errorf("%d of %d", got, tc.crowd)
				}
			})
		})
	}
	t.Run("after a slow minute", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newCrossing(t, nil)
			good := c.good
			c.good = wait(2500*time.Millisecond, good)
			for i := range 120 {
				go statusOf(c.m, fmt.Sprint("slow-", i))
				time.Sleep(500 * time.Millisecond)
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			c.good = good
			for _, crowd := range []int{300, 1000} {
				if got := c.crowd(crowd, fmt.Sprint("then-", crowd)); got != crowd {
					t.Errorf("%d of %d", got, crowd)
				}
			}
		})
	})
}

// crowd brings so many tokens at once and returns how many got in.
func (c *crossing) crowd(n int, prefix string) int {
	var wg sync.WaitGroup
	var in atomic.Int64
	for i := range n {
		wg.Go(func() {
			if statusOf(c.m, fmt.Sprint(prefix, "-", i)) == 200 {
				in.Add(1)
			}
		})
	}
	wg.Wait()
	return int(in.Load())
}

// Known tokens that keep all places busy leave about a quarter of them to new
// ones.
//
// Catalogue: X6.
func TestKnownTokensLeaveAQuarterToNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrossing(t, nil, phantom.WithRefreshAhead(0))
		const users, seconds = 5000, 60
		good := c.good
		c.good = func(w http.ResponseWriter, r *http.Request) {
			answerJWT(mint("EdDSA", claims(map[string]any{"exp": time.Now().Add(time.Hour).Unix()})))(w, r)
		}
		for user := range users {
			if got := statusOf(c.m, fmt.Sprint("user-", user)); got != 200 {
				t.Fatal(got)
			}
		}
		c.good = good
		time.Sleep(61 * time.Second)
		synctest.Wait()
		c.good = wait(time.Second, good)
		var wg sync.WaitGroup
		var in, all atomic.Int64
		end := time.Now().Add(seconds * time.Second)
		for user := range users {
			wg.Go(func() {
				time.Sleep(time.Duration(user) * time.Second / users)
				for time.Now().Before(end) {
					statusOf(c.m, fmt.Sprint("user-", user))
					time.Sleep(time.Second)
				}
			})
		}
		for time.Now().Before(end) {
			wg.Go(func() {
				if statusOf(c.m, fmt.Sprint("new-", all.Add(1))) == 200 {
					in.Add(1)
				}
			})
			time.Sleep(time.Second / 20)
		}
		wg.Wait()
		if in.Load() < seconds*16*8/10 { // 16 places, a second each
			t.Errorf("%d of %d new tokens got in", in.Load(), all.Load())
		}
	})
}

// A server that fails on all new tokens is asked little, however many come.
//
// Catalogue: X7.
func TestServerThatFailsOnAllIsAskedLittle(t *testing.T) {
	for _, healthy := range []bool{false, true} {
		t.Run(fmt.Sprint("healthy before: ", healthy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				m := as.middleware()
				good := answerJWT(mint("ES256", claims(map[string]any{"exp": time.Now().Add(time.Hour).Unix()})))
				as.introspect = reply(500, "")
				if healthy {
					as.introspect = good
				}
				n := 0
				flood := func(d time.Duration) (in int64) {
					var wg sync.WaitGroup
					var ok atomic.Int64
					for end := time.Now().Add(d); time.Now().Before(end); n++ {
						token := fmt.Sprint("new-", n)
						wg.Go(func() {
							if statusOf(m, token) == 200 {
								ok.Add(1)
							}
						})
						time.Sleep(time.Millisecond)
					}
					wg.Wait()
					return ok.Load()
				}
				if in := flood(2 * time.Second); healthy && in != 2000 {
					t.Errorf("%d of 2000", in)
				}
				as.introspect = reply(500, "")
				for second := range 20 {
					before := as.calls.Load()
					flood(time.Second)
					if asked := as.calls.Load() - before; asked > 60 {
						t.Errorf("second %d: asked %d times", second, asked)
					}
				}
				as.introspect = good
				flood(time.Second)
				if in := flood(time.Second); in != 1000 {
					t.Errorf("%d of 1000 a second after its return", in)
				}
			})
		})
	}
}

// An entry past its life is not kept alive by those who keep the server busy: the
// holder of a revoked token cannot have it served by sending junk.
//
// Catalogue: X8.
func TestJunkKeepsNoRevokedTokenAlive(t *testing.T) {
	for _, tc := range []struct {
		name string
		junk http.HandlerFunc
		rate int
	}{
		{"failures", reply(500, ""), 20},
		{"many failures", reply(500, ""), 500},
		{"silence", wait(time.Hour, nil), 20},
		{"too many requests", reply(429, ""), 20},
		{"too many requests, with a wait", reply(429, "", "Retry-After: 30"), 20},
		{"unavailable, with a wait", reply(503, "", "Retry-After: 30"), 20},
		{"slow answers", wait(2900*time.Millisecond, reply(204, "")), 500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrossing(t, tc.junk, phantom.WithMaxTTL(time.Minute), phantom.WithStaleIfError(time.Hour))
				good := c.good
				c.good = func(w http.ResponseWriter, r *http.Request) {
					if r.Form.Get("token") == "known-7" {
						reply(204, "")(w, r)
						return
					}
					good(w, r)
				}
				revoked := time.Now()
				stop := make(chan struct{})
				go func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						case <-time.After(time.Second / time.Duration(tc.rate)):
							go statusOf(c.m, fmt.Sprint("junk-", i))
						}
					}
				}()
				refused := false
				for time.Since(revoked) < 3*time.Minute {
					switch got := statusOf(c.m, "known-7"); {
					case got == 401:
						refused = true
					case got == 200 && time.Since(revoked) > time.Minute:
						t.Fatalf("served %v after the revocation", time.Since(revoked))
					}
					time.Sleep(500 * time.Millisecond)
				}
				if !refused {
					t.Error("never refused")
				}
				close(stop)
				time.Sleep(10 * time.Second)
			})
		})
	}
}

// A lookup whose time went in our own queue is not bridged by an old entry.
//
// Catalogue: X8.
func TestQueueIsNoOutageToBridge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrossing(t, wait(2*time.Hour, nil), phantom.WithMaxInFlight(1),
			phantom.WithStaleIfError(time.Hour), phantom.WithRefreshAhead(0))
		time.Sleep(61 * time.Second)
		for i := range 2 {
			go statusOf(c.m, fmt.Sprint("junk-", i))
		}
		time.Sleep(100 * time.Millisecond)
		// The place comes free at 3 s, when 0.1 s is left.
		c.good = wait(time.Second, c.good)
		if got := statusOf(c.m, "known-1"); got != 503 {
			t.Errorf("%d", got)
		}
		time.Sleep(10 * time.Second)
	})
}

// Old entries bridge an outage of the server that known tokens show, also for
// those whose own lookup is not sent any more.
//
// Catalogue: X8.
func TestStaleEntriesBridgeWhatKnownTokensShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrossing(t, nil, phantom.WithStaleIfError(time.Hour), phantom.WithRefreshAhead(0))
		time.Sleep(61 * time.Second)
		c.good = reply(503, "")
		before := c.as.calls.Load()
		for range 3 {
			for user := range 50 {
				if got := statusOf(c.m, fmt.Sprint("known-", user)); got != 200 {
					t.Errorf("known-%d: %d", user, got)
				}
			}
		}
		if asked := c.as.calls.Load() - before; asked != 10 {
			t.Errorf("asked %d times", asked)
		}
		rec := httptest.NewRecorder()
		c.m.Handler(&spy{}).ServeHTTP(rec, get("Bearer new"))
		if rec.Code != 503 {
			t.Errorf("a new token: %d", rec.Code)
		}
	})
}

// What known tokens showed during a wait is not undone by what junk meets.
//
// Catalogue: X8.
func TestJunkDuringAWaitEndsNoBridge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware(phantom.WithStaleIfError(time.Hour), phantom.WithRefreshAhead(0))
		as.try(m, "tok")
		time.Sleep(61 * time.Second)
		as.introspect = reply(503, "", "Retry-After: 30")
		if got := as.try(m, "tok"); got != codeOK {
			t.Fatal(got)
		}
		for i := range 500 {
			as.try(m, fmt.Sprint("junk-", i))
			if got := as.try(m, "tok"); got != codeOK {
				t.Errorf("after %d: %s", i, got)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// A token whose answers may not be kept is known all the same.
//
// Catalogue: X1.
func TestTokenThatIsNotKeptIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrossing(t, reply(500, ""))
		jwt := mint("ES256", claims(nil))
		c.good = reply(200, jwt, asJWT, "Cache-Control: max-age=0")
		for i := range 3000 {
			statusOf(c.m, fmt.Sprint("junk-", i))
			if i%300 == 0 {
				if got := statusOf(c.m, "unkept"); got != 200 {
					t.Errorf("after %d: %d", i, got)
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}
