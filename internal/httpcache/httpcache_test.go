package httpcache_test

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom/internal/httpcache"
)

const deltaMost = math.MaxInt32 * time.Second

// FuzzFreshness checks what must hold for whatever a server writes.
func FuzzFreshness(f *testing.F) {
	for _, control := range []string{
		"", "max-age=5", "MAX-Age=5 , private", `max-age="5"`, `max-age="5`, "max-age=5.5", "max-age=-1", "max-age",
		"max-age=5, max-age=5", "max-age=5\nno-cache", "no-store, max-age=0", `ext="a, max-age=5"`, `ext="a, \", b", max-age=5`,
		"max-age=99999999999999999999", ",, ,max-age=5,,", `no-cache="Set-Cookie, Vary"`,
	} {
		f.Add(control, "")
		f.Add(control, "4")
	}
	f.Add("max-age=5", "abc")
	f.Add("max-age=5", "99999999999999999999")
	f.Fuzz(func(t *testing.T, control, age string) {
		h := http.Header{"Cache-Control": strings.Split(control, "\n")}
		if age != "" {
			h.Set("Age", age)
		}
		lax, strict := httpcache.Freshness(h, false), httpcache.Freshness(h, true)
		for _, d := range []time.Duration{lax, strict} {
			if d < -1 || d > deltaMost || d%time.Second != 0 && d != -1 {
				t.Fatalf("%q: %v", h, d)
			}
		}
		// To obey more never means to keep longer.
		if strict != lax && strict != 0 {
			t.Errorf("%q: %v strictly, else %v", h, strict, lax)
		}
		if again := http.Header(h.Clone()); httpcache.Freshness(again, true) != strict {
			t.Errorf("%q: not the same twice", h)
		}
		open := false // a quoted-string that one line begins, another might end
		for _, line := range h["Cache-Control"] {
			open = open || strings.Count(line, `"`)%2 != 0 || strings.Contains(line, `\`)
		}
		if open {
			return
		}
		upper := http.Header{"Cache-Control": {strings.ToUpper(strings.Join(h["Cache-Control"], ","))}, "Age": h["Age"]}
		if isASCII(control) && httpcache.Freshness(upper, true) != strict {
			t.Errorf("%q: case or the number of fields matters", h)
		}
		if strings.ContainsAny(control, `"\`) {
			return
		}
		// Without quoting, commas are all there is to separate by.
		lifetime, boilerplate, ages := "", false, 0
		for part := range strings.SplitSeq(strings.Join(h["Cache-Control"], ","), ",") {
			name, value, _ := strings.Cut(part, "=")
			switch strings.ToLower(strings.Trim(name, " \t")) {
			case "no-store", "no-cache":
				boilerplate = true
			case "max-age":
				lifetime = strings.Trim(value, " \t")
				ages++
			}
		}
		switch {
		case boilerplate:
			if strict != 0 || lax != -1 {
				t.Errorf("%q: %v, strictly %v", h, lax, strict)
			}
		case ages == 0:
			if strict != -1 {
				t.Errorf("%q: %v without a max-age", h, strict)
			}
		case ages > 1 || lifetime == "" || strings.Trim(lifetime, "0123456789") != "":
			if strict != 0 {
				t.Errorf("%q: %v with an unreadable max-age", h, strict)
			}
		default:
			seconds, err := strconv.ParseInt(lifetime, 10, 32)
			if err != nil {
				seconds = math.MaxInt32
			}
			if most := time.Duration(seconds) * time.Second; strict > most || age == "" && strict != most {
				t.Errorf("%q: %v, want %v less its age", h, strict, most)
			}
		}
	})
}

// What cannot be read counts as 0: it may hide something.
func TestUnreadableFreshnessIsNone(t *testing.T) {
	for _, test := range []struct {
		fields []string
		want   time.Duration
	}{
		{[]string{`x="`, "max-age=5"}, 0},
		{[]string{"max-age=5", `x="`}, 0},
		{[]string{`x="a`, `max-age=5, y="b`}, 0},
		{[]string{`x="a\"`, "max-age=5"}, 0},
		{[]string{`x="a", max-age=5`}, 5 * time.Second},
		{[]string{`x="a\""`, "max-age=5"}, 5 * time.Second},
		{[]string{`x="a, max-age=9"`}, -1},
		{[]string{`no-store, x="`}, 0},
	} {
		if got := httpcache.Freshness(http.Header{"Cache-Control": test.fields}, false); got != test.want {
			t.Errorf("%q: %v, want %v", test.fields, got, test.want)
		}
	}
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 0x7f || r == 0xfffd }) < 0
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{ // 0: does not say
		"":                     0,
		"7":                    7 * time.Second,
		" 7\t":                 7 * time.Second,
		"0":                    time.Second,
		"31":                   httpcache.MaxRetryAfter,
		"99999999999999999999": httpcache.MaxRetryAfter,
		"-1":                   0,
		"+7":                   0,
		"7.5":                  0,
		"abc":                  0,
		now.Add(20 * time.Second).Format(http.TimeFormat): 20 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):       time.Second,
		now.Add(time.Hour).Format(http.TimeFormat):        httpcache.MaxRetryAfter,
		now.Add(20 * time.Second).Format(time.RFC3339):    0,
	} {
		got, ok := httpcache.RetryAfter(http.Header{"Retry-After": {value}}, now)
		if ok != (want != 0) || ok && got != want {
			t.Errorf("%q: %v, %v, want %v", value, got, ok, want)
		}
	}
	if got, ok := httpcache.RetryAfter(nil, now); ok {
		t.Errorf("no field: %v", got)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"", "7", "-1", "Wed, 25 Nov 2026 12:00:20 GMT", "Wednesday, 25-Nov-26 12:00:20 GMT", "Wed Nov 25 12:00:20 2026"} {
		f.Add(value, int64(1795608000))
	}
	f.Fuzz(func(t *testing.T, value string, now int64) {
		got, ok := httpcache.RetryAfter(http.Header{"Retry-After": {value}}, time.Unix(now, 0))
		if ok && (got < time.Second || got > httpcache.MaxRetryAfter) {
			t.Errorf("%q: %v", value, got)
		}
		if digits := strings.Trim(value, " \t"); digits != "" && strings.Trim(digits, "0123456789") == "" && !ok {
			t.Errorf("%q: not understood", value)
		}
	})
}
