package conformance_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// exp has to be a number, and a date of this era; a JWT without one is
// refused.
//
// Catalogue: J157, J159, J161, J162.
func TestExpIsADateAhead(t *testing.T) {
	now := time.Now().Unix()
	num := func(n int64) string { return fmt.Sprint(n) }
	const noDate = "exp missing or out of range"
	runJWTCases(t, []jwtCase{
		{"missing", claim("exp", ""), code401T, noDate, ""},
		{"null", claim("exp", `null`), code401T, noDate, ""},
		{"true", claim("exp", `true`), code401T, noDate, ""},
		{"array", claim("exp", `[9999999999]`), code401T, noDate, ""},
		{"object", claim("exp", `{"$date":9999999999}`), code401T, noDate, ""},
		{"string", claim("exp", `"1999999999"`), code401T, noDate, ""},
		{"date", claim("exp", `"2099-01-01T00:00:00Z"`), code401T, noDate, ""},
		{"string with a space", claim("exp", `" 1999999999"`), code401T, noDate, ""},
		{"empty string", claim("exp", `""`), code401T, noDate, ""},
		{"far ahead", claim("exp", `9e9`), codeOK, "", ""},
		{"last date", claim("exp", `253402300799`), codeOK, "", ""},
		{"with a fraction of zeros", claim("exp", `4102444800.000`), codeOK, "", ""},
		{"with an exponent", claim("exp", `41024448E+2`), codeOK, "", ""},
		{"minus one", claim("exp", `-1`), code401T, noDate, ""},
		{"minus zero", claim("exp", `-0`), code401T, "exp", ""},
		{"zero", claim("exp", `0`), code401T, "exp", ""},
		{"less than one second", claim("exp", `0.9`), code401T, "exp", ""},
		{"minus the date", claim("exp", num(-now-300)), code401T, noDate, ""},
		{"the least fraction", claim("exp", `1e-400`), code401T, "exp", ""},
		{"milliseconds", claim("exp", num((now+300)*1000)), code401T, noDate, ""},
		{"nanoseconds", claim("exp", num((now+300)*1e9)), code401T, noDate, ""},
		{"one second past the last date", claim("exp", `253402300800`), code401T, noDate, ""},
		{"2^63", claim("exp", `9223372036854775808`), code401T, noDate, ""},
		{"2^64 and a bit", claim("exp", `18446744073709551916`), code401T, noDate, ""},
		{"1e400", claim("exp", `1e400`), code401T, noDate, ""},
		{"huge exponent", claim("exp", `1e99999999999999999999`), code401T, noDate, ""},
		{"an hour ago", claim("exp", num(now-3600)), code401T, "exp", ""},
	})
}

// A JWT is not good before its nbf.
//
// Catalogue: J164.
func TestNotBeforeIsADatePassed(t *testing.T) {
	now := time.Now().Unix()
	num := func(n int64) string { return fmt.Sprint(n) }
	runJWTCases(t, []jwtCase{
		{"string", claim("nbf", `"0"`), code401T, "nbf", ""},
		{"null", claim("nbf", `null`), codeOK, "", ""},
		{"true", claim("nbf", `true`), code401T, "nbf", ""},
		{"milliseconds", claim("nbf", num(now*1000)), code401T, "nbf", ""},
		{"negative", claim("nbf", `-1`), code401T, "nbf", ""},
		{"a minute ago", claim("nbf", num(now-60)), codeOK, "", ""},
		{"zero", claim("nbf", `0`), codeOK, "", ""},
		{"an hour ahead", claim("nbf", num(now+3600)), code401T, "nbf", ""},
	})
}

// A JWT is not from the future. Only the profile of RFC 9068 wants to know
// when it was issued.
//
// Catalogue: J165, J172.
func TestIssuedAtIsADatePassed(t *testing.T) {
	now := time.Now().Unix()
	num := func(n int64) string { return fmt.Sprint(n) }
	runJWTCases(t, []jwtCase{
		{"ten minutes ahead", claim("iat", num(now+600)), code401T, "iat", ""},
		{"string", claim("iat", fmt.Sprintf("%q", num(now))), code401T, "iat", ""},
		{"null", claim("iat", `null`), codeOK, "iat", code401T},
		{"milliseconds", claim("iat", num(now*1000)), code401T, "iat", ""},
		{"with a fraction", claim("iat", num(now-1)+".999"), codeOK, "", ""},
		{"missing", claim("iat", ""), codeOK, "iat", code401T},
	})
}

// EXP is not exp, and beside exp it would confuse a reader that folds case.
//
// Catalogue: J166.
func TestExpInUpperCaseIsRefused(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"only EXP", es256(goodHeader, strings.Replace(goodPayload(), `"exp"`, `"EXP"`, 1)), code401T, "ambiguous exp", ""},
		{"EXP beside exp", claim("EXP", `9999999999`), code401T, "ambiguous exp", ""},
	})
}

// The leeway ends to the second. In a synctest bubble the clock stands still
// between the steps, so the boundaries are exact.
func TestLeewayIsExact(t *testing.T) {
	for _, leeway := range []time.Duration{0, 10 * time.Second, 5 * time.Minute} {
		sec := int64(leeway / time.Second)
		var extra []phantom.Option
		if leeway != 10*time.Second { // the default
			extra = append(extra, phantom.WithLeeway(leeway))
		}
		for _, tc := range []struct {
			name   string
			change map[string]int64 // to the bubble's time
			want   string
			detail string
		}{
			{"leeway left by a second", map[string]int64{"exp": 1 - sec, "iat": -1000}, codeOK, ""}, // J163
			{"leeway over", map[string]int64{"exp": -sec, "iat": -1000}, code401T, "exp"},           // J163
			{"nbf ahead by leeway", map[string]int64{"nbf": sec}, codeOK, ""},                       // J164
			{"nbf ahead by leeway and a second", map[string]int64{"nbf": sec + 1}, code401T, "nbf"}, // J164
			{"iat ahead by leeway", map[string]int64{"iat": sec}, codeOK, ""},                       // J165
			{"iat ahead by leeway and a second", map[string]int64{"iat": sec + 1}, code401T, "iat"}, // J165
		} {
			t.Run(fmt.Sprintf("%s %v", tc.name, leeway), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					changes := map[string]any{}
					for name, ahead := range tc.change {
						changes[name] = time.Now().Unix() + ahead
					}
					as := newAS(t)
					as.introspect = answerJWT(mint("ES256", claims(changes)))
					book := as.logBook()
					m := as.middleware(append(extra, phantom.WithLogger(slog.New(book)))...)
					if got := as.try(m, "opaque"); got != tc.want {
						t.Errorf("%s, want %s", got, tc.want)
					}
					checkLine(t, book.take(), tc.want, tc.detail)
				})
			})
		}
	}
}

// The fraction of exp is cut off, in the cache and in the check.
//
// Catalogue: J158.
func TestFractionOfExpIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		as := newAS(t)
		exp := json.Number(fmt.Sprint(start.Unix()+100) + ".75")
		as.introspect = answerJWT(mint("ES256", claims(map[string]any{"exp": exp})))
		m := as.middleware(phantom.WithMaxTTL(time.Hour), phantom.WithRefreshAhead(0))
		for _, step := range []struct {
			at    time.Duration
			want  string
			calls int64
		}{
			{0, codeOK, 1},
			{50 * time.Second, codeOK, 1},                         // cached, and
			{100 * time.Second, codeOK, 2},                        // past the floor of exp not any more,
			{110*time.Second - time.Nanosecond, codeOK, 3},        // but the leeway lets a fresh answer pass
			{110 * time.Second, code401T, 4},                      // and ends
			{110*time.Second + 749*time.Millisecond, code401T, 5}, // without regard to the fraction
		} {
			time.Sleep(time.Until(start.Add(step.at)))
			if got := as.try(m, "opaque"); got != step.want || as.calls.Load() != step.calls {
				t.Errorf("after %v: %s and %d introspections, want %s and %d", step.at, got, as.calls.Load(), step.want, step.calls)
			}
		}
	})
}

// A JWT that lives for centuries is cached no longer than the cap.
//
// Catalogue: J159.
func TestDistantExpIsCachedToTheCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(mint("ES256", claims(map[string]any{"exp": json.Number("9e9")})))
		m := as.middleware(phantom.WithRefreshAhead(0))
		start := time.Now()
		for _, step := range []struct {
			at    time.Duration
			calls int64
		}{{0, 1}, {30 * time.Second, 1}, {61 * time.Second, 2}} {
			time.Sleep(time.Until(start.Add(step.at)))
			if got := as.try(m, "opaque"); got != codeOK || as.calls.Load() != step.calls {
				t.Errorf("after %v: %s, %d introspections, want %d", step.at, got, as.calls.Load(), step.calls)
			}
		}
	})
}
