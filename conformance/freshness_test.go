package conformance_test

import (
	"math"
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
	{"nothing", nil, untilCap, untilCap},                                                                                                 // A108
	{"max-age", []string{"Cache-Control: max-age=5"}, 5 * time.Second, 5 * time.Second},                                                  // A108
	{"max-age in other case", []string{"cache-control: MAX-Age=5"}, 5 * time.Second, 5 * time.Second},                                    // A108
	{"max-age among others", []string{"Cache-Control: private , must-revalidate,max-age=5,  foo=bar"}, 5 * time.Second, 5 * time.Second}, // A108
	{"max-age, quoted", []string{`Cache-Control: max-age="5"`}, 5 * time.Second, 5 * time.Second},                                        // A108
	{"max-age with space around the value", []string{"Cache-Control: max-age = 5 "}, 5 * time.Second, 5 * time.Second},                   // A108
	{"max-age among empty elements", []string{"Cache-Control: ,, ,max-age=5,,"}, 5 * time.Second, 5 * time.Second},                       // A108
	{"max-age of a year", []string{"Cache-Control: max-age=31536000"}, 31536000 * time.Second, 31536000 * time.Second},                   // A108
	{"max-age with zeros before", []string{"Cache-Control: max-age=0000000000000000000005"}, 5 * time.Second, 5 * time.Second},           // A108
	{"max-age of zero", []string{"Cache-Control: max-age=0"}, notAtAll, notAtAll},                                                        // A108
	{"directives that end the same", []string{"Cache-Control: x-max-age=5, max-ages=6"}, untilCap, untilCap},                             // A108
	{"directives of shared caches", []string{"Cache-Control: s-maxage=5, public"}, untilCap, untilCap},                                   // A108
	{"max-age within a quoted value", []string{`Cache-Control: ext="a, max-age=5"`}, untilCap, untilCap},                                 // A108
	{"max-age behind a quoted value", []string{`Cache-Control: ext="a, \", b", max-age=5`}, 5 * time.Second, 5 * time.Second},            // A108
	{"no directives", []string{"Cache-Control: "}, untilCap, untilCap},                                                                   // A108
	{"Age", []string{"Cache-Control: max-age=5", "Age: 4"}, time.Second, time.Second},                                                    // A109
	{"Age over", []string{"Cache-Control: max-age=5", "Age: 5"}, notAtAll, notAtAll},                                                     // A109
	{"Age far over", []string{"Cache-Control: max-age=5", "Age: 99999999999999999999"}, notAtAll, notAtAll},                              // A109
	{"Age unreadable", []string{"Cache-Control: max-age=5", "Age: abc"}, notAtAll, notAtAll},                                             // A109
	{"Age negative", []string{"Cache-Control: max-age=5", "Age: -1"}, notAtAll, notAtAll},                                                // A109
	{"Age twice", []string{"Cache-Control: max-age=5", "Age: 1", "Age: 1"}, notAtAll, notAtAll},                                          // A109
	{"Age alone", []string{"Age: 100"}, untilCap, untilCap},                                                                              // A109
	{"two max-age", []string{"Cache-Control: max-age=5, max-age=6"}, notAtAll, notAtAll},                                                 // A109
	{"two equal max-age", []string{"Cache-Control: max-age=5, max-age=5"}, notAtAll, notAtAll},                                           // A109
	{"two max-age in two fields", []string{"Cache-Control: max-age=5", "Cache-Control: max-age=5"}, notAtAll, notAtAll},                  // A109
	{"max-age and no-cache", []string{"Cache-Control: max-age=5, no-cache"}, untilCap, notAtAll},                                         // A109
	{"no-cache and max-age", []string{"Cache-Control: no-cache, max-age=5"}, untilCap, notAtAll},                                         // A109
	{"max-age and no-cache in two fields", []string{"Cache-Control: max-age=5", "Cache-Control: no-cache"}, untilCap, notAtAll},          // A109
	{"max-age: too many digits", []string{"Cache-Control: max-age=99999999999999999999"}, deltaMost, deltaMost},                          // A110
	{"max-age: more than 31 bits", []string{"Cache-Control: max-age=2147483648"}, deltaMost, deltaMost},                                  // A110
	{"max-age: negative", []string{"Cache-Control: max-age=-1"}, notAtAll, notAtAll},                                                     // A110
	{"max-age: a word", []string{"Cache-Control: max-age=abc"}, notAtAll, notAtAll},                                                      // A110
	{"max-age: a fraction", []string{"Cache-Control: max-age=5.5"}, notAtAll, notAtAll},                                                  // A110
	{"max-age: signed", []string{"Cache-Control: max-age=+5"}, notAtAll, notAtAll},                                                       // A110
	{"max-age: hexadecimal", []string{"Cache-Control: max-age=0x5"}, notAtAll, notAtAll},                                                 // A110
	{"max-age: no value", []string{"Cache-Control: max-age"}, notAtAll, notAtAll},                                                        // A110
	{"max-age: empty value", []string{"Cache-Control: max-age="}, notAtAll, notAtAll},                                                    // A110
	{"max-age: empty quoted value", []string{`Cache-Control: max-age=""`}, notAtAll, notAtAll},                                           // A110
	{"max-age: half quoted value", []string{`Cache-Control: max-age="5`}, notAtAll, notAtAll},                                            // A110
	{"max-age: unreadable, then readable", []string{"Cache-Control: max-age=abc, max-age=5"}, notAtAll, notAtAll},                        // A110
	{"no-store", []string{"Cache-Control: no-store"}, untilCap, notAtAll},                                                                // A111
	{"no-cache", []string{"Cache-Control: no-cache"}, untilCap, notAtAll},                                                                // A111
	{"no-store in other case", []string{"Cache-Control: No-Store"}, untilCap, notAtAll},                                                  // A111
	{"no-cache for some fields", []string{`Cache-Control: no-cache="Set-Cookie, Vary"`}, untilCap, notAtAll},                             // A111
	{"no-store with max-age=0", []string{"Cache-Control: no-store, no-cache, max-age=0, must-revalidate"}, untilCap, notAtAll},           // A111
	{"no-store as Hydra sends it", []string{"Cache-Control: private, no-cache, no-store, must-revalidate"}, untilCap, notAtAll},          // A111
	{"no-store in a second field", []string{"Cache-Control: private", "Cache-Control: no-store"}, untilCap, notAtAll},                    // A111
	{"an unreadable max-age beside", []string{"Cache-Control: max-age=abc, no-store"}, untilCap, notAtAll},                               // A111
	{"no-store within a quoted value", []string{`Cache-Control: ext="no-store"`}, untilCap, untilCap},                                    // A111
	{"Pragma and Expires", []string{"Pragma: no-cache", "Expires: 0"}, untilCap, untilCap},                                               // A111
}

// The server's Cache-Control and Age decide how long the cache answers,
// within the cap.
func TestFreshnessFollowsCacheControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range freshnessCases {
			for _, strict := range []bool{false, true} {
				as := newAS(t)
				as.introspect = reply(200, mint("ES256", claims(nil)), append(tc.fields, asJWT)...)
				want, opts := tc.want, []phantom.Option{phantom.WithRefreshAhead(0)}
				if strict {
					want, opts = tc.strict, append(opts, phantom.WithStrictCacheControl())
				}
				if want < 0 || want > time.Minute {
					want = time.Minute
				}
				life := cachedFor(t, as, as.middleware(opts...))
				// To the tenth of a second that cachedFor looks at.
				if life < want*7/8 || life > want+100*time.Millisecond {
					t.Errorf("%s, strict %v: kept for %v, want %v or up to an eighth less", tc.name, strict, life, want)
				}
			}
		}
	})
}

// An inactive answer has its own, short life, no matter what the server says
// of caching.
//
// Catalogue: A77.
func TestInactiveAnswerHasItsOwnLifetime(t *testing.T) {
	for _, fields := range [][]string{
		nil,
		{"Cache-Control: no-store"},
		{"Cache-Control: max-age=0"},
		{"Cache-Control: max-age=3600"},
	} {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			as.introspect = reply(204, "", fields...)
			m := as.middleware()
			for i, want := range []int64{1, 1, 2, 2} { // asked at 0, 4.999, 5, 9.999 s
				if got := as.try(m, "tok"); got != code401T || as.calls.Load() != want {
					t.Errorf("%q, request %d: %s, asked %d times, want %d", fields, i+1, got, as.calls.Load(), want)
				}
				time.Sleep([]time.Duration{4999 * time.Millisecond, time.Millisecond}[i%2])
			}
		})
	}
}
