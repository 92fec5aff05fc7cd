package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

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

// No more lookups run at once than there are places. The rest wait in line,
// up to its length and up to the time limit.
func TestMaxInFlightBoundsLookups(t *testing.T) {
	for _, tc := range []struct {
		name  string
		extra []phantom.Option
		crowd int
		peak  int64
		ok    int
		took  time.Duration
	}{
		{"the default", nil, 500, 64, 500, 800 * time.Millisecond},                                                                                                    // C205
		{"fewer than there are places", nil, 50, 50, 50, 100 * time.Millisecond},                                                                                      // C205
		{"three", []phantom.Option{phantom.WithMaxInFlight(3)}, 30, 3, 30, time.Second},                                                                               // C205
		{"more than may wait", []phantom.Option{phantom.WithMaxInFlight(1), phantom.WithTimeout(time.Minute)}, 40, 1, 33, 3300 * time.Millisecond},                    // N282
		{"more than may wait, of the default", []phantom.Option{phantom.WithTimeout(time.Minute)}, 3000, 64, 64 + 64*32, 3300 * time.Millisecond},                     // N282
		{"longer than they may wait", []phantom.Option{phantom.WithMaxInFlight(1), phantom.WithTimeout(1050 * time.Millisecond)}, 33, 1, 10, 1050 * time.Millisecond}, // N282
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
				m := as.middleware(tc.extra...)
				for range 2 { // the first crowd leaves every place as it was
					m.Purge()
					start := time.Now()
					ok, unavailable := crowdOf(t, m, tc.crowd)
					if ok != tc.ok || unavailable != tc.crowd-tc.ok {
						t.Errorf("%d verified and %d not, want %d", ok, unavailable, tc.ok)
					}
					// One that is sent in vain takes a moment more.
					if took := time.Since(start); took > tc.took || took < tc.took-50*time.Millisecond {
						t.Errorf("all answered after %v, want %v", took, tc.took)
					}
					if got := as.peak.Load(); got != tc.peak {
						t.Errorf("%d at once, want %d", got, tc.peak)
					}
					synctest.Wait()
				}
			})
		})
	}
}

// Requests beyond the queue are refused at once, not when the others are
// done.
//
// Catalogue: N282.
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
			t.Errorf("Retry-After %s after %v", got, time.Since(start))
		}
		// The same token as one that is looked up needs no place of its own.
		go as.try(m, "fresh-token-1")
		if verified := <-done; verified != 33 {
			t.Errorf("%d verified", verified)
		}
	})
}

// When the server fails, those who wait for a place are not sent after it.
// It sees no more lookups than took the places of the first nine outages.
//
// Catalogue: N282.
func TestQueueIsNotSentAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(time.Second, reply(500, ""))
		m := as.middleware(phantom.WithMaxInFlight(10))
		if _, unavailable := crowdOf(t, m, 330); unavailable != 330 || as.calls.Load() > 10+9 {
			t.Errorf("%d refused, asked %d times", unavailable, as.calls.Load())
		}
	})
}

// A hook that panics or ends its goroutine gives its place back.
//
// Catalogue: C208, C209.
func TestHookThatFailsGivesItsPlaceBack(t *testing.T) {
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

// New refuses a number of places that is not positive.
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

// More junk arrives than the server can take, and users who were there
// before. The junk waits and is turned away. The users are served, also
// those whose entries end without a refresh.
//
// Catalogue: L286.
func TestKnownTokensGoFirst(t *testing.T) {
	latencies, lasts := []time.Duration{10 * time.Millisecond, 50 * time.Millisecond}, 130*time.Second
	if scale > 1 {
		latencies, lasts = latencies[1:], 65*time.Second
	}
	for _, tc := range []struct {
		name  string
		extra []phantom.Option
	}{
		{"refresh ahead", nil},
		{"no refresh ahead", []phantom.Option{phantom.WithRefreshAhead(0)}},
	} {
		for _, latency := range latencies {
			t.Run(fmt.Sprint(tc.name, " ", latency), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := slowServer(latency)
					m := o.middleware(t, append(tc.extra, phantom.WithMaxInFlight(8))...)
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
								_, err := m.Verify(context.Background(), fmt.Sprintf("junk-%d-%d", i, j))
								if errors.Is(err, phantom.ErrUnavailable) {
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

// A crowd larger than a healthy server can take is no outage. The server is
// kept busy, nothing is sent that cannot be answered in time, and no request
// meets an open breaker.
func TestOverloadIsNoOutage(t *testing.T) {
	for _, tc := range []struct {
		latency time.Duration
		rate    int // a second
	}{{100 * time.Millisecond, 700}, {200 * time.Millisecond, 1000}, {500 * time.Millisecond, 1000}} {
		t.Run(fmt.Sprint(tc.latency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := slowServer(tc.latency)
				m := o.middleware(t)
				var ok atomic.Int64
				var wg sync.WaitGroup
				seconds := 20
				if scale > 1 {
					seconds = 5
				}
				for i := range seconds * tc.rate {
					wg.Go(func() {
						_, err := m.Verify(context.Background(), fmt.Sprint("token-", i))
						var e *phantom.Error
						if err == nil {
							ok.Add(1)
						} else if !errors.As(err, &e) || e.Detail != "no place in time" && e.Detail != "too many lookups waiting" {
							t.Errorf("%v", err)
						}
					})
					time.Sleep(time.Second / time.Duration(tc.rate))
				}
				wg.Wait()
				capacity := int64(64 * time.Duration(seconds) * time.Second / tc.latency)
				if ok.Load() < capacity*9/10 || o.calls.Load() > ok.Load()*101/100 {
					t.Errorf("%d verified of %d that were possible, %d asked", ok.Load(), capacity, o.calls.Load())
				}
			})
		})
	}
}

// Known tokens go first also when an answer takes a good part of the time
// limit.
func TestKnownTokensGoFirstAtASlowServer(t *testing.T) {
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

// One answer that takes more than half of the time limit does not count
// against the lookups after it. The test runs on the machine's clock: in a
// bubble, work takes no time at all.
func TestOneSlowAnswerIsNoOverload(t *testing.T) {
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
