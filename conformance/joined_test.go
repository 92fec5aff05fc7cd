package conformance_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// Whoever comes when an answer may serve no longer joins no lookup that has it,
// be it that keys are slow, or a Trace: it asks anew.
//
// Catalogue: C236.
func TestNoRequestJoinsALookupWhoseAnswerIsTooOld(t *testing.T) {
	for _, tc := range []struct {
		name   string
		maxAge string
		exp    time.Duration
		comes  time.Duration // of three seconds for which the lookup is held up
		want   string
		calls  int64
	}{
		{"max-age is over", "max-age=1", time.Hour, 1500 * time.Millisecond, code401T, 2},
		{"max-age is not over", "max-age=2", time.Hour, 1500 * time.Millisecond, codeOK, 1},
		{"exp is over", "", 2 * time.Second, 2500 * time.Millisecond, code401T, 2},
		{"exp is not over", "", 4 * time.Second, 2500 * time.Millisecond, codeOK, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				jwt := mint("ES256", claims(map[string]any{"exp": time.Now().Add(tc.exp).Unix()}))
				as.introspect = func(w http.ResponseWriter, r *http.Request) {
					if tc.maxAge != "" {
						w.Header().Set("Cache-Control", tc.maxAge)
					}
					answerJWT(jwt)(w, r)
				}
				m := as.middleware(phantom.WithTimeout(10*time.Second), phantom.WithTrace(&phantom.Trace{
					LookupDone: func(context.Context, phantom.Lookup) { time.Sleep(3 * time.Second) },
				}))
				first := later(func() string { return as.try(m, "opaque-token") })
				time.Sleep(time.Second / 2)
				synctest.Wait()
				as.introspect = answer(204, "", "")
				time.Sleep(tc.comes - time.Second/2)
				expect(t, "who comes", as.try(m, "opaque-token"), tc.want)
				expect(t, "first", first(), codeOK)
				expect(t, "lookups", as.calls.Load(), tc.calls)
			})
		})
	}
}
