package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// What an answer says of how long it may be kept: "cap" stands for nothing.
const (
	untilCap  = time.Duration(-1)
	notAtAll  = time.Duration(0)
	deltaMost = math.MaxInt32 * time.Second
)

var freshnessCases = []struct {
	name         string
	fields       []string
	want, strict time.Duration
}{
	{"A108 nothing", nil, untilCap, untilCap},
	{"A108 max-age", []string{"Cache-Control: max-age=5"}, 5 * time.Second, 5 * time.Second},
	{"A108 other case", []string{"cache-control: MAX-Age=5"}, 5 * time.Second, 5 * time.Second},
	{"A108 among others", []string{"Cache-Control: private , must-revalidate,max-age=5,  foo=bar"}, 5 * time.Second, 5 * time.Second},
	{"A108 quoted", []string{`Cache-Control: max-age="5"`}, 5 * time.Second, 5 * time.Second},
	{"A108 space around the value", []string{"Cache-Control: max-age = 5 "}, 5 * time.Second, 5 * time.Second},
	{"A108 empty elements", []string{"Cache-Control: ,, ,max-age=5,,"}, 5 * time.Second, 5 * time.Second},
	{"A108 a year", []string{"Cache-Control: max-age=31536000"}, 31536000 * time.Second, 31536000 * time.Second},
	{"A108 zeros before", []string{"Cache-Control: max-age=0000000000000000000005"}, 5 * time.Second, 5 * time.Second},
	{"A108 zero", []string{"Cache-Control: max-age=0"}, notAtAll, notAtAll},
	{"A108 directives that end the same", []string{"Cache-Control: x-max-age=5, max-ages=6"}, untilCap, untilCap},
	{"A108 directives of shared caches", []string{"Cache-Control: s-maxage=5, public"}, untilCap, untilCap},
	{"A108 within a quoted value", []string{`Cache-Control: ext="a, max-age=5"`}, untilCap, untilCap},
	{"A108 behind a quoted value", []string{`Cache-Control: ext="a, \", b", max-age=5`}, 5 * time.Second, 5 * time.Second},
	{"A108 no directives", []string{"Cache-Control: "}, untilCap, untilCap},
	{"A109 Age", []string{"Cache-Control: max-age=5", "Age: 4"}, time.Second, time.Second},
	{"A109 Age over", []string{"Cache-Control: max-age=5", "Age: 5"}, notAtAll, notAtAll},
	{"A109 Age far over", []string{"Cache-Control: max-age=5", "Age: 99999999999999999999"}, notAtAll, notAtAll},
	{"A109 Age unreadable", []string{"Cache-Control: max-age=5", "Age: abc"}, notAtAll, notAtAll},
	{"A109 Age negative", []string{"Cache-Control: max-age=5", "Age: -1"}, notAtAll, notAtAll},
	{"A109 Age twice", []string{"Cache-Control: max-age=5", "Age: 1", "Age: 1"}, notAtAll, notAtAll},
	{"A109 Age alone", []string{"Age: 100"}, untilCap, untilCap},
	{"A109 two max-age", []string{"Cache-Control: max-age=5, max-age=6"}, notAtAll, notAtAll},
	{"A109 two equal max-age", []string{"Cache-Control: max-age=5, max-age=5"}, notAtAll, notAtAll},
	{"A109 two max-age in two fields", []string{"Cache-Control: max-age=5", "Cache-Control: max-age=5"}, notAtAll, notAtAll},
	{"A109 max-age and no-cache", []string{"Cache-Control: max-age=5, no-cache"}, untilCap, notAtAll},
	{"A109 no-cache and max-age", []string{"Cache-Control: no-cache, max-age=5"}, untilCap, notAtAll},
	{"A109 in two fields", []string{"Cache-Control: max-age=5", "Cache-Control: no-cache"}, untilCap, notAtAll},
	{"A110 too many digits", []string{"Cache-Control: max-age=99999999999999999999"}, deltaMost, deltaMost},
	{"A110 more than 31 bits", []string{"Cache-Control: max-age=2147483648"}, deltaMost, deltaMost},
	{"A110 negative", []string{"Cache-Control: max-age=-1"}, notAtAll, notAtAll},
	{"A110 a word", []string{"Cache-Control: max-age=abc"}, notAtAll, notAtAll},
	{"A110 a fraction", []string{"Cache-Control: max-age=5.5"}, notAtAll, notAtAll},
	{"A110 signed", []string{"Cache-Control: max-age=+5"}, notAtAll, notAtAll},
	{"A110 hexadecimal", []string{"Cache-Control: max-age=0x5"}, notAtAll, notAtAll},
	{"A110 no value", []string{"Cache-Control: max-age"}, notAtAll, notAtAll},
	{"A110 empty value", []string{"Cache-Control: max-age="}, notAtAll, notAtAll},
	{"A110 empty quoted value", []string{`Cache-Control: max-age=""`}, notAtAll, notAtAll},
	{"A110 half quoted value", []string{`Cache-Control: max-age="5`}, notAtAll, notAtAll},
	{"A110 unreadable, then readable", []string{"Cache-Control: max-age=abc, max-age=5"}, notAtAll, notAtAll},
	{"A111 no-store", []string{"Cache-Control: no-store"}, untilCap, notAtAll},
	{"A111 no-cache", []string{"Cache-Control: no-cache"}, untilCap, notAtAll},
	{"A111 other case", []string{"Cache-Control: No-Store"}, untilCap, notAtAll},
	{"A111 no-cache for some fields", []string{`Cache-Control: no-cache="Set-Cookie, Vary"`}, untilCap, notAtAll},
	{"A111 with max-age=0", []string{"Cache-Control: no-store, no-cache, max-age=0, must-revalidate"}, untilCap, notAtAll},
	{"A111 Hydra's", []string{"Cache-Control: private, no-cache, no-store, must-revalidate"}, untilCap, notAtAll},
	{"A111 in a second field", []string{"Cache-Control: private", "Cache-Control: no-store"}, untilCap, notAtAll},
	{"A111 an unreadable max-age beside", []string{"Cache-Control: max-age=abc, no-store"}, untilCap, notAtAll},
	{"A111 within a quoted value", []string{`Cache-Control: ext="no-store"`}, untilCap, untilCap},
	{"A111 Pragma and Expires", []string{"Pragma: no-cache", "Expires: 0"}, untilCap, untilCap},
}

// TestFreshnessOfTheCache: for how long the cache answers.
func TestFreshnessOfTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range freshnessCases {
			for _, strict := range []bool{false, true} {
				as := newAS(t)
				as.introspect = reply(200, mint("ES256", claims(nil)), append(c.fields, asJWT)...)
				want, opts := c.want, []phantom.Option{phantom.WithRefreshAhead(0)}
				if strict {
					want, opts = c.strict, append(opts, phantom.WithStrictCacheControl())
				}
				if want < 0 || want > time.Minute {
					want = time.Minute
				}
				life := cachedFor(t, as, as.middleware(opts...))
				// To the tenth of a second that cachedFor looks at.
				if life < want*7/8 || life > want+100*time.Millisecond {
					t.Errorf("%s, strict %v: kept for %v, want %v or up to an eighth less", c.name, strict, life, want)
				}
			}
		}
	})
}

// An inactive answer has its own, short life, whatever the server says.
func TestFreshnessOfInactiveAnswers(t *testing.T) {
	for _, fields := range [][]string{nil, {"Cache-Control: no-store"}, {"Cache-Control: max-age=0"}, {"Cache-Control: max-age=3600"}} {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			as.introspect = reply(204, "", fields...)
			m := as.middleware()
			for i, want := range []int64{1, 1, 2, 2} { // asked at 0, 4.999, 5, 9.999 s
				if got := as.try(m, "tok"); got != code401T || as.calls.Load() != want {
					t.Errorf("A77 %q, request %d: %s, asked %d times, want %d", fields, i+1, got, as.calls.Load(), want)
				}
				time.Sleep([]time.Duration{4999 * time.Millisecond, time.Millisecond}[i%2])
			}
		})
	}
}

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

// TestC229HotTokenUpToItsExpiry: a token whose exp no lookup moves is not looked
// up more and more often as it comes nearer.
func TestC229HotTokenUpToItsExpiry(t *testing.T) {
	for name, extra := range map[string][]phantom.Option{"refresh ahead": nil, "no refresh ahead": {phantom.WithRefreshAhead(0)}} {
		t.Run(name, func(t *testing.T) {
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
				m := o.middleware(t, extra...)
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

// A token in use by many is asked about once each time it grows old, and nobody
// waits for it.
func TestRefreshAheadOfAHotToken(t *testing.T) {
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
			t.Errorf("C229 asked %d times across the first end", got)
		}
		for range 2400 {
			burst(1)
			time.Sleep(100 * time.Millisecond)
		}
		// 300 s in rounds of up to 48 s.
		if got := as.calls.Load(); got < 7 || got > 8 {
			t.Errorf("C229 asked %d times in 300 s", got)
		}
		if slowest.Load() != 0 {
			t.Errorf("C229 a request took %v", time.Duration(slowest.Load()))
		}
		time.Sleep(time.Second)
	})
}

// Without a refresh ahead all wait for the one lookup at the end of its life.
func TestNoRefreshAhead(t *testing.T) {
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
						t.Errorf("C229 %v after %v", err, time.Since(start))
					}
				}()
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got := as.calls.Load(); got != 2 {
			t.Errorf("C229 asked %d times across one end", got)
		}
	})
}

func TestRefreshAheadFails(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		after  string // what follows when the entry has ended
	}{
		"C230 outage":         {reply(500, ""), code503A},
		"C230 no answer":      {wait(time.Hour, nil), code503A},
		"C230 unusable":       {reply(200, "<html>", "Content-Type: text/html"), code502A},
		"C230 refused client": {reply(401, ""), code502A},
		"C230 panic":          {func(http.ResponseWriter, *http.Request) { panic("x") }, code500I},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				m := as.middleware()
				if got := as.try(m, "tok"); got != codeOK {
					t.Fatal(got)
				}
				as.introspect = c.answer
				if seen := watch(as, m, 52*time.Second, 500*time.Millisecond); !slices.Equal(seen, []string{codeOK}) {
					t.Errorf("while the entry lives: %v", seen)
				}
				if got := as.calls.Load(); got != 2 {
					t.Errorf("asked %d times, want one refresh", got)
				}
				time.Sleep(8 * time.Second)
				if got := as.try(m, "tok"); got != c.after {
					t.Errorf("when it has ended: %s, want %s", got, c.after)
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
	t.Run("C230 never past exp", func(t *testing.T) {
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
				if got := as.try(m, "tok"); got != codeOK && time.Since(start) < 26*time.Second || got == codeOK && time.Since(start) >= 30*time.Second {
					t.Fatalf("%s at %v", got, time.Since(start))
				}
			}
		})
	})
}

// A verdict that comes by a refresh counts at once.
func TestRefreshAheadBringsAVerdict(t *testing.T) {
	other := func() string { return mint("ES256", claims(map[string]any{"iss": "https://other.test"})) }
	for name, c := range map[string]struct {
		answer func() http.HandlerFunc
		want   string
	}{
		"C230 revoked":     {func() http.HandlerFunc { return reply(204, "") }, code401T},
		"C230 bad JWT":     {func() http.HandlerFunc { return answerJWT(other()) }, code401T},
		"C230 another JWT": {func() http.HandlerFunc { return answerJWT(mint("ES256", claims(map[string]any{"jti": "id-2"}))) }, codeOK},
		"C230 no longer to be kept": {func() http.HandlerFunc {
			return reply(200, mint("ES256", claims(map[string]any{"jti": "id-2"})), asJWT, "Cache-Control: max-age=0")
		}, codeOK},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				m := as.middleware()
				if tok, err := m.Verify(t.Context(), "tok"); err != nil || tok.ID() != "id-1" {
					t.Fatal(tok.ID(), err)
				}
				as.introspect = c.answer()
				time.Sleep(50 * time.Second)
				// The one that finds it old still gets it.
				if tok, err := m.Verify(t.Context(), "tok"); err != nil || tok.ID() != "id-1" {
					t.Fatal(err)
				}
				synctest.Wait()
				if got := as.try(m, "tok"); got != c.want {
					t.Errorf("%s, want %s", got, c.want)
				}
				if tok, err := m.Verify(t.Context(), "tok"); err == nil && tok.ID() != "id-2" {
					t.Errorf("still %s", tok.ID())
				}
			})
		})
	}
}

// A lookup that hangs keeps nobody from a good entry.
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
			t.Errorf("C230 %v for 100 requests, asked %d times", took, as.calls.Load())
		}
		// Not even if its client gives up: the refresh is nobody's.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.Verify(ctx, "tok"); err != nil {
			t.Errorf("C230 %v", err)
		}
		time.Sleep(5 * time.Second)
	})
}

func TestStaleIfError(t *testing.T) {
	stale := phantom.WithStaleIfError(30 * time.Second)
	for _, c := range []struct {
		name    string
		life    time.Duration // of the JWT
		said    time.Duration // the answer's own exp; 0: none
		answer  http.HandlerFunc
		extra   []phantom.Option
		served  time.Duration // at least that long
		refused time.Duration // from then on
		want    string        // then
	}{
		{"C231 bounded by its limit", 300 * time.Second, 0, reply(500, ""), []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code503A},
		{"C231 bounded by exp", 70 * time.Second, 0, reply(500, ""), []phantom.Option{stale}, 70 * time.Second, 70 * time.Second, code503A},
		{"C231 bounded by the answer's exp", 300 * time.Second, 70 * time.Second, reply(500, ""), []phantom.Option{stale}, 70 * time.Second, 70 * time.Second, code503A},
		{"C231 a connection that fails", 300 * time.Second, 0, nil, []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code503A},
		{"C231 an hour, bounded by exp", 300 * time.Second, 0, reply(429, ""), []phantom.Option{phantom.WithStaleIfError(time.Hour)}, 300 * time.Second, 300 * time.Second, code503A},
		{"C231 an unusable answer is no outage", 300 * time.Second, 0, reply(404, ""), []phantom.Option{stale}, 52 * time.Second, 60 * time.Second, code502A},
		{"C231 off", 300 * time.Second, 0, reply(500, ""), nil, 52 * time.Second, 60 * time.Second, code503A},
		{"C231 zero", 300 * time.Second, 0, reply(500, ""), []phantom.Option{phantom.WithStaleIfError(0)}, 52 * time.Second, 60 * time.Second, code503A},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				jwt := mint("ES256", claims(map[string]any{"exp": time.Now().Add(c.life).Unix()}))
				as.introspect = answerJWT(jwt)
				if c.said > 0 {
					as.introspect = answerJSON(answerOf(jwt, map[string]any{"exp": time.Now().Add(c.said).Unix()}))
				}
				down := false
				m := as.middleware(append(c.extra, phantom.WithHTTPClient(&http.Client{
					Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
						if down && c.answer == nil {
							return nil, errors.New("no route")
						}
						return as.RoundTrip(r)
					}),
				}))...)
				start := time.Now()
				if got := as.try(m, "tok"); got != codeOK {
					t.Fatal(got)
				}
				as.introspect, down = c.answer, true
				for time.Since(start) < c.refused+15*time.Second {
					time.Sleep(200 * time.Millisecond)
					switch got, at := as.try(m, "tok"), time.Since(start); {
					case at < c.served && got != codeOK, at >= c.refused && got != c.want:
						t.Fatalf("%s at %v", got, at)
					}
				}
				warnings := strings.Count(as.logs.String(), "level=WARN")
				bridged := c.served > 60*time.Second
				if bridged && warnings == 0 || !bridged && warnings > 0 || warnings > int(c.refused/(10*time.Second)) {
					t.Errorf("%d warnings", warnings)
				}
				as.introspect, down = nil, false
				time.Sleep(time.Second)
				if got := as.try(m, "tok"); got != codeOK {
					t.Errorf("when the server is back: %s", got)
				}
			})
		})
	}
	t.Run("C231 never after the server called it inactive", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			m := as.middleware(stale, phantom.WithRefreshAhead(0))
			if got := as.try(m, "tok"); got != codeOK {
				t.Fatal(got)
			}
			time.Sleep(61 * time.Second)
			as.introspect = reply(204, "")
			if got := as.try(m, "tok"); got != code401T {
				t.Errorf("revoked: %s", got)
			}
			as.introspect = reply(500, "")
			if got := as.try(m, "tok"); got != code401T {
				t.Errorf("an outage after that: %s", got)
			}
			time.Sleep(5 * time.Second)
			if got := as.try(m, "tok"); got != code503A {
				t.Errorf("the outage alone: %s", got)
			}
		})
	})
	t.Run("C231 not after Forget", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			m := as.middleware(stale)
			if got := as.try(m, "tok"); got != codeOK {
				t.Fatal(got)
			}
			as.introspect = reply(500, "")
			time.Sleep(61 * time.Second)
			if got := as.try(m, "tok"); got != codeOK {
				t.Errorf("stale: %s", got)
			}
			m.Forget("tok")
			if got := as.try(m, "tok"); got != code503A {
				t.Errorf("forgotten: %s", got)
			}
		})
	})
	t.Run("C231 not for those who leave", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			m := as.middleware(stale)
			if got := as.try(m, "tok"); got != codeOK {
				t.Fatal(got)
			}
			as.introspect = wait(time.Hour, nil)
			time.Sleep(61 * time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := m.Verify(ctx, "tok"); !errors.Is(err, phantom.ErrUnavailable) {
				t.Error(err)
			}
			time.Sleep(5 * time.Second)
		})
	})
}

// Ten thousand tokens that were first seen within a second do not all come to
// the server within one second again.
func TestJitter(t *testing.T) {
	for _, c := range []struct {
		name  string
		extra []phantom.Option
	}{
		{"C232 at the end of their lives", []phantom.Option{phantom.WithRefreshAhead(0)}},
		{"C232 refreshed ahead", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
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
					return &phantom.Introspection{Active: true, JWT: jwt, MaxAge: -1}, nil
				}}
				m := must(phantom.New(append(c.extra,
					phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithIntrospector(i), phantom.WithKeySet(payloads{}),
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
