package conformance_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// The Middleware waits for as long as the server asks, within bounds, and
// tells its own clients the same. What it cannot read it ignores.
func TestRetryAfterIsObeyedWithinBounds(t *testing.T) {
	const unasked = -1
	synctest.Test(t, func(t *testing.T) {
		is := func(value string) func() string { return func() string { return value } }
		in := func(d time.Duration, layout string) func() string {
			return func() string { return time.Now().Add(d).UTC().Format(layout) }
		}
		for _, status := range []int{429, 503, 500} {
			for _, tc := range []struct {
				name  string
				value func() string
				sent  string
				pause time.Duration // without a lookup; unasked: none
			}{
				{"seconds", is("7"), "7", 7 * time.Second},                                                     // A101
				{"space around", is("\t7 "), "7", 7 * time.Second},                                             // A101
				{"zero", is("0"), "1", time.Second},                                                            // A102
				{"one", is("1"), "1", time.Second},                                                             // A102
				{"thirty", is("30"), "30", 30 * time.Second},                                                   // A102
				{"an hour", is("3600"), "30", 30 * time.Second},                                                // A102
				{"beyond int64", is("99999999999999999999999"), "30", 30 * time.Second},                        // A102
				{"beyond int32", is("99999999999999"), "30", 30 * time.Second},                                 // A102
				{"date", in(7*time.Second, http.TimeFormat), "7", 7 * time.Second},                             // A102
				{"date of RFC 850", in(7*time.Second, "Monday, 02-Jan-06 15:04:05 GMT"), "7", 7 * time.Second}, // A102
				{"date of C", in(7*time.Second, time.ANSIC), "7", 7 * time.Second},                             // A102
				{"date in an hour", in(time.Hour, http.TimeFormat), "30", 30 * time.Second},                    // A102
				{"date past", in(-time.Hour, http.TimeFormat), "1", time.Second},                               // A102
				{"date long past", is("Mon, 01 Jan 0001 00:00:00 GMT"), "1", time.Second},                      // A102
				{"date far off", is("Fri, 31 Dec 9999 23:59:59 GMT"), "30", 30 * time.Second},                  // A102
				{"negative", is("-1"), "1", unasked},                                                           // A102
				{"signed", is("+7"), "1", unasked},                                                             // A102
				{"fraction", is("7.5"), "1", unasked},                                                          // A102
				{"word", is("abc"), "1", unasked},                                                              // A102
				{"empty", is(""), "1", unasked},                                                                // A102
				{"list", is("7, 8"), "1", unasked},                                                             // A102
				{"other digits", is("٧"), "1", unasked},                                                        // A102
			} {
				name := fmt.Sprintf("%s, status %d", tc.name, status)
				as := newAS(t)
				m := as.middleware()
				token := freshTokens()
				if got := as.try(m, "cached"); got != codeOK {
					t.Fatal(got)
				}
				as.introspect = func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Retry-After", tc.value())
					w.WriteHeader(status)
				}
				if got := retryAfterOf(t, as, m, token()); got != tc.sent {
					t.Errorf("%s: Retry-After %s, want %s", name, got, tc.sent)
				}
				before := as.calls.Load()
				as.introspect = nil
				if tc.pause == unasked {
					if got := as.try(m, token()); got != codeOK {
						t.Errorf("%s: the next lookup: %s", name, got)
					}
					continue
				}
				time.Sleep(tc.pause - time.Millisecond)
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

// Clients that come during the wait are told what is left of it.
//
// Catalogue: A101.
func TestRetryAfterCountsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware()
		token := freshTokens()
		as.introspect = reply(429, "", "Retry-After: 7")
		for left := 7; left >= 1; left-- {
			if got := retryAfterOf(t, as, m, token()); got != fmt.Sprint(left) {
				t.Errorf("Retry-After %s, want %d", got, left)
			}
			if got := as.calls.Load(); got != 1 {
				t.Errorf("asked %d times", got)
			}
			time.Sleep(time.Second)
		}
		// The probe is told to wait again.
		if got := retryAfterOf(t, as, m, token()); got != "7" || as.calls.Load() != 2 {
			t.Errorf("Retry-After %s of the probe, asked %d times", got, as.calls.Load())
		}
		if got := retryAfterOf(t, as, m, token()); got != "7" || as.calls.Load() != 2 {
			t.Errorf("Retry-After %s behind the probe, asked %d times", got, as.calls.Load())
		}
	})
}

// Lookups that were under way when the server asked to wait do not shorten
// the wait. It does not matter whether they succeed, fail or are told a
// shorter one.
//
// Catalogue: A101.
func TestLateAnswersDoNotShortenRetryAfter(t *testing.T) {
	for _, tc := range []struct {
		name string
		late http.HandlerFunc
		want string
	}{
		{"success", newToken, codeOK},
		{"inactive", reply(204, ""), code401T},
		{"outage", reply(500, ""), code503A},
		{"a shorter wait", reply(429, "", "Retry-After: 1"), code503A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				m := as.middleware()
				token := freshTokens()
				as.introspect = wait(time.Second, tc.late)
				late := later(func() string { return as.try(m, token()) })
				synctest.Wait()
				as.introspect = reply(429, "", "Retry-After: 20")
				if got := retryAfterOf(t, as, m, token()); got != "20" {
					t.Error(got)
				}
				if got := late(); got != tc.want {
					t.Errorf("the late one: %s, want %s", got, tc.want)
				}
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

// The server asks for a longer wait while a probe is under way. The wait
// stands, no matter what the probe finds out.
//
// Catalogue: A101.
func TestLateRetryAfterOutlastsTheProbe(t *testing.T) {
	for _, tc := range []struct {
		name  string
		probe http.HandlerFunc
		want  string
	}{
		{"failed probe", reply(500, ""), code503A},
		{"good probe", newToken, codeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				m := as.middleware()
				token := freshTokens()
				as.introspect = wait(1500*time.Millisecond, reply(429, "", "Retry-After: 20"))
				go as.try(m, "late")
				synctest.Wait()
				open(t, as, m, token)
				time.Sleep(time.Second)
				as.introspect = wait(time.Second, tc.probe)
				if got := as.try(m, token()); got != tc.want { // from 1 s to 2 s; the 429 came at 1.5 s
					t.Errorf("the probe: %s, want %s", got, tc.want)
				}
				as.introspect = newToken
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
