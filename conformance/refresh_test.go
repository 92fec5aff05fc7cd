package conformance_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// watch asks about one token every step from now on until the given time and
// returns the outcomes in their order, without repeats. It needs a bubble.
func watch(as *fakeAS, m *phantom.Middleware, d, step time.Duration) []string {
	var seen []string
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(step) {
		if got := as.try(m, "tok"); len(seen) == 0 || seen[len(seen)-1] != got {
			seen = append(seen, got)
		}
	}
	return seen
}

// No lookup moves the exp of this token. The server is not asked more and
// more often as it comes nearer.
//
// Catalogue: C229.
func TestCacheAsksLittleAsAHotTokenExpires(t *testing.T) {
	for _, tc := range []struct {
		name  string
		extra []phantom.Option
	}{
		{"refresh ahead", nil},
		{"no refresh ahead", []phantom.Option{phantom.WithRefreshAhead(0)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				exp := start.Add(30 * time.Second)
				answer := unsigned(map[string]any{"exp": exp.Unix()})
				var mu sync.Mutex
				var at []time.Duration
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					mu.Lock()
					at = append(at, time.Since(start))
					mu.Unlock()
					time.Sleep(5 * time.Millisecond)
					if !time.Now().Before(exp) {
						return inactive, nil
					}
					return answer, nil
				}}
				m := o.middleware(t, tc.extra...)
				for time.Since(start) < 32*time.Second {
					go idOf(m, opaqueToken)
					time.Sleep(time.Millisecond)
				}
				synctest.Wait()
				if len(at) > 3 || at[len(at)-1] < 30*time.Second {
					t.Errorf("asked at %v", at)
				}
			})
		})
	}
}

// A token in use by many is looked up once each time it grows old, and no
// request waits for that.
//
// Catalogue: C229.
func TestRefreshAheadOfAHotTokenDelaysNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))(w, r)
		}
		m := as.middleware(phantom.WithLogger(discard))
		if got := as.try(m, "tok"); got != codeOK {
			t.Fatal(got)
		}
		// 10,000 requests a second for the time in which its refresh and its end
		// lie, then 10 a second for the next rounds.
		var slowest atomic.Int64
		burst := func(n int) {
			for range n {
				go func() {
					start := time.Now()
					if _, err := m.Verify(t.Context(), "tok"); err != nil {
						t.Error(err)
					}
					if took := int64(time.Since(start)); took > slowest.Load() {
						slowest.Store(took)
					}
				}()
			}
		}
		time.Sleep(41 * time.Second)
		for range 190 {
			burst(1000)
			time.Sleep(100 * time.Millisecond)
		}
		if got := as.calls.Load(); got != 2 {
			t.Errorf("asked %d times across the first end", got)
		}
		for range 2400 {
			burst(1)
			time.Sleep(100 * time.Millisecond)
		}
		// 300 s in rounds of up to 48 s.
		if got := as.calls.Load(); got < 7 || got > 8 {
			t.Errorf("asked %d times in 300 s", got)
		}
		if slowest.Load() != 0 {
			t.Errorf("a request took %v", time.Duration(slowest.Load()))
		}
		time.Sleep(time.Second)
	})
}

// Without a refresh ahead, all requests at the end of an entry's life wait
// for one lookup.
//
// Catalogue: C229.
func TestWithoutRefreshAheadAllWaitForOneLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))(w, r)
		}
		m := as.middleware(phantom.WithRefreshAhead(0), phantom.WithLogger(discard))
		for range 650 {
			for range 100 {
				go func() {
					start := time.Now()
					if _, err := m.Verify(t.Context(), "tok"); err != nil || time.Since(start) > 100*time.Millisecond {
						t.Errorf("%v after %v", err, time.Since(start))
					}
				}()
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got := as.calls.Load(); got != 2 {
			t.Errorf("asked %d times across one end", got)
		}
	})
}

// A refresh that fails leaves the entry as it is. It serves to its end,
// never past exp, and then the failure shows.
//
// Catalogue: C230.
func TestFailedRefreshLeavesTheEntryToItsEnd(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		after  string // what follows when the entry has ended
	}{
		{"outage", reply(500, ""), code503A},
		{"no answer", wait(time.Hour, nil), code503A},
		{"unusable", reply(200, "<html>", "Content-Type: text/html"), code502A},
		{"refused client", reply(401, ""), code502A},
		{"panic", func(http.ResponseWriter, *http.Request) { panic("x") }, code500I},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				m := as.middleware()
				if got := as.try(m, "tok"); got != codeOK {
					t.Fatal(got)
				}
				as.introspect = tc.answer
				if seen := watch(as, m, 52*time.Second, 500*time.Millisecond); !slices.Equal(seen, []string{codeOK}) {
					t.Errorf("while the entry lives: %v", seen)
				}
				if got := as.calls.Load(); got != 2 {
					t.Errorf("asked %d times, want one refresh", got)
				}
				time.Sleep(8 * time.Second)
				if got := as.try(m, "tok"); got != tc.after {
					t.Errorf("when it has ended: %s, want %s", got, tc.after)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				as.introspect = nil
				if got := as.try(m, "tok"); got != codeOK {
					t.Errorf("when the server is back: %s", got)
				}
				time.Sleep(2 * time.Second)
			})
		})
	}
	t.Run("never past exp", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(mint("ES256", claims(map[string]any{"exp": time.Now().Unix() + 30})))
			m := as.middleware()
			start := time.Now()
			if got := as.try(m, "tok"); got != codeOK {
				t.Fatal(got)
			}
			as.introspect = reply(500, "")
			for time.Since(start) < 40*time.Second {
				time.Sleep(100 * time.Millisecond)
				got, at := as.try(m, "tok"), time.Since(start)
				if got != codeOK && at < 26*time.Second || got == codeOK && at >= 30*time.Second {
					t.Fatalf("%s at %v", got, at)
				}
			}
		})
	})
}

// The verdict that a refresh brings counts at once.
//
// Catalogue: C230.
func TestRefreshVerdictCountsAtOnce(t *testing.T) {
	other := func() string { return mint("ES256", claims(map[string]any{"iss": "https://other.test"})) }
	for _, tc := range []struct {
		name   string
		answer func() http.HandlerFunc
		want   string
	}{
		{"revoked", func() http.HandlerFunc { return reply(204, "") }, code401T},
		{"bad JWT", func() http.HandlerFunc { return answerJWT(other()) }, code401T},
		{"another JWT", func() http.HandlerFunc { return answerJWT(mint("ES256", claims(map[string]any{"jti": "id-2"}))) }, codeOK},
		{"no longer to be kept", func() http.HandlerFunc {
			return reply(200, mint("ES256", claims(map[string]any{"jti": "id-2"})), asJWT, "Cache-Control: max-age=0")
		}, codeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				m := as.middleware()
				if tok, err := m.Verify(t.Context(), "tok"); err != nil || tok.ID() != "id-1" {
					t.Fatal(tok.ID(), err)
				}
				as.introspect = tc.answer()
				time.Sleep(50 * time.Second)
				// The one that finds it old still gets it.
				if tok, err := m.Verify(t.Context(), "tok"); err != nil || tok.ID() != "id-1" {
					t.Fatal(err)
				}
				synctest.Wait()
				if got := as.try(m, "tok"); got != tc.want {
					t.Errorf("%s, want %s", got, tc.want)
				}
				if tok, err := m.Verify(t.Context(), "tok"); err == nil && tok.ID() != "id-2" {
					t.Errorf("still %s", tok.ID())
				}
			})
		})
	}
}

// A refresh that hangs keeps no request from a good entry.
//
// Catalogue: C230.
func TestRefreshAheadDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware(phantom.WithRefreshAhead(0.5))
		if got := as.try(m, "tok"); got != codeOK {
			t.Fatal(got)
		}
		as.introspect = wait(time.Hour, nil)
		time.Sleep(31 * time.Second)
		start := time.Now()
		for range 100 {
			if got := as.try(m, "tok"); got != codeOK {
				t.Fatal(got)
			}
		}
		synctest.Wait()
		if took := time.Since(start); took != 0 || as.calls.Load() != 2 {
			t.Errorf("%v for 100 requests, asked %d times", took, as.calls.Load())
		}
		// Not even if its client gives up: the refresh is not its own.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.Verify(ctx, "tok"); err != nil {
			t.Errorf("%v", err)
		}
		time.Sleep(5 * time.Second)
	})
}

// Ten thousand tokens are first seen within one second. They do not all
// return to the server within one second again.
//
// Catalogue: C232.
func TestJitterSpreadsLookups(t *testing.T) {
	for _, tc := range []struct {
		name  string
		extra []phantom.Option
	}{
		{"at the end of their lives", []phantom.Option{phantom.WithRefreshAhead(0)}},
		{"refreshed ahead", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const crowd = 10_000
				second := time.Now()
				var mu sync.Mutex
				asked := map[int]int{} // by second
				jwt := mint("ES256", claims(nil))
				i := &introspector{ask: func(context.Context, string) (*phantom.Introspection, error) {
					mu.Lock()
					asked[int(time.Since(second)/time.Second)]++
					mu.Unlock()
					return &phantom.Introspection{Active: true, JWT: jwt}, nil
				}}
				m := must(phantom.New(append(tc.extra,
					phantom.WithIssuer(issuer), phantom.WithAudience(audience),
					phantom.WithIntrospector(i), phantom.WithKeySet(payloads{}),
				)...))
				tokens := make([]string, crowd)
				for n := range tokens {
					tokens[n] = fmt.Sprintf("token-%d", n)
				}
				// Each token is used once a second: at first, and from when the
				// earliest may be refreshed until the last has ended.
				use := func() {
					for n, token := range tokens {
						if _, err := m.Verify(t.Context(), token); err != nil {
							t.Fatal(err)
						}
						if n%100 == 99 {
							time.Sleep(10 * time.Millisecond)
							synctest.Wait() // for the refreshes
						}
					}
				}
				use()
				time.Sleep(40 * time.Second)
				for range 22 {
					use()
				}
				if asked[0] != crowd {
					t.Fatalf("%d tokens in the first second", asked[0])
				}
				delete(asked, 0)
				for at, n := range asked {
					if n > crowd/5 {
						t.Errorf("%d lookups in second %d", n, at)
					}
				}
			})
		})
	}
}
