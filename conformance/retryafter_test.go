package conformance_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// The Middleware tells its clients for how long the server asks to wait, within
// bounds. 429 and 503 ask all to wait: meanwhile one lookup a second finds out
// whether the server is back, and its answer ends the wait. What cannot be read is
// ignored.
//
// Catalogue: A101, A102, X3, X4.
func TestRetryAfterIsObeyedWithinBounds(t *testing.T) {
	const unasked = -1
	synctest.Test(t, func(t *testing.T) {
		is := func(value string) func() string { return func() string { return value } }
		in := func(d time.Duration, layout string) func() string {
			return func() string { return time.Now().Add(d).UTC().Format(layout) }
		}
		for _, status := range []int{429, 503, 500, 502, 504} {
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
				if tc.pause == unasked || status != 429 && status != 503 {
					if got := as.try(m, token()); got != codeOK {
						t.Errorf("%s: the next lookup: %s", name, got)
					}
					continue
				}
				time.Sleep(time.Second - time.Millisecond)
				left := fmt.Sprint(max(int(min(tc.pause, 30*time.Second)/time.Second), 1))
				if got := retryAfterOf(t, as, m, token()); got != left && tc.pause > time.Second {
					t.Errorf("%s: during the wait Retry-After %s, want %s", name, got, left)
				}
				if got := as.try(m, "cached"); got != codeOK {
					t.Errorf("%s: a cached token: %s", name, got)
				}
				if got := as.calls.Load(); got != before {
					t.Errorf("%s: asked %d times too early", name, got-before)
				}
				time.Sleep(time.Millisecond)
				for range 3 {
					if got := as.try(m, token()); got != codeOK {
						t.Errorf("%s: after a second: %s", name, got)
					}
				}
			}
		}
	})
}

// Clients that come during the wait are told what is left of it. A probe that
// fails otherwise does not change that; one that is told to wait again does.
//
// Catalogue: A101, X4.
func TestRetryAfterCountsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware()
		token := freshTokens()
		as.introspect = reply(429, "", "Retry-After: 7")
		if got := retryAfterOf(t, as, m, token()); got != "7" {
			t.Errorf("Retry-After %s", got)
		}
		as.introspect = reply(500, "")
		for left := 6; left >= 2; left-- {
			time.Sleep(time.Second)
			if got := retryAfterOf(t, as, m, token()); got != "1" {
				t.Errorf("Retry-After %s of the probe", got)
			}
			if got := retryAfterOf(t, as, m, token()); got != fmt.Sprint(left) {
				t.Errorf("Retry-After %s, want %d", got, left)
			}
		}
		if got := as.calls.Load(); got != 6 {
			t.Errorf("asked %d times", got)
		}
		time.Sleep(time.Second)
		as.introspect = reply(429, "", "Retry-After: 7")
		for range 2 {
			if got := retryAfterOf(t, as, m, token()); got != "7" || as.calls.Load() != 7 {
				t.Errorf("told to wait again: Retry-After %s, asked %d times", got, as.calls.Load())
			}
		}
	})
}

// Lookups that were under way when the server asked to wait do not end the wait.
// It does not matter whether they succeed, fail or are told a shorter one.
//
// Catalogue: A101, X4.
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
				as.introspect = wait(500*time.Millisecond, tc.late)
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
				if got := retryAfterOf(t, as, m, token()); got != "20" || as.calls.Load() != 2 {
					t.Errorf("behind it: Retry-After %s, asked %d times", got, as.calls.Load())
				}
				time.Sleep(500 * time.Millisecond)
				if got := as.try(m, token()); got != codeOK {
					t.Errorf("the probe: %s", got)
				}
			})
		})
	}
}
