// Package httpcache reads the fields of an answer that say how long it may be
// kept and when to ask again (RFC 9110 and RFC 9111).
package httpcache

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Freshness reads from Cache-Control and Age how long an answer may be kept
// (RFC 9111 sections 4.2 and 5.2.2). The result is negative if the answer does
// not say. An answer whose max-age or Age cannot be read is not kept at all,
// and neither is one with a quoted-string that does not end: it may hide a
// max-age.
//
// Most servers send no-store or no-cache by habit, and RFC 7662 section 4
// leaves caching to the resource server. Unless strict, an answer with one of
// them therefore does not say, even if it has a max-age too.
func Freshness(h http.Header, strict bool) time.Duration {
	maxAge := time.Duration(-1)
	fields := h.Values("Cache-Control")
	if slices.ContainsFunc(fields, isOpen) {
		return 0
	}
	for name, value := range directives(fields) {
		switch name {
		case "no-store", "no-cache":
			if strict {
				return 0
			}
			return -1
		case "max-age":
			seconds, ok := deltaSeconds(value)
			if !ok || maxAge >= 0 {
				maxAge = 0
				continue
			}
			maxAge = seconds
		}
	}
	if maxAge <= 0 {
		return maxAge
	}
	if ages := h.Values("Age"); len(ages) > 0 {
		age, ok := deltaSeconds(ages[0])
		if !ok || len(ages) > 1 {
			return 0
		}
		maxAge = max(maxAge-age, 0)
	}
	return maxAge
}

// isOpen reports whether a quoted-string in the field does not end.
func isOpen(field string) bool {
	quoted := false
	for i := 0; i < len(field); i++ {
		switch {
		case field[i] == '"':
			quoted = !quoted
		case field[i] == '\\' && quoted:
			i++
		}
	}
	return quoted
}

// directives yields the directives of Cache-Control fields in order, their
// names in lower case (RFC 9111 section 5.2). A comma inside a quoted-string
// separates nothing.
func directives(fields []string) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		for rest := strings.Join(fields, ","); rest != ""; {
			end, quoted := 0, false
			for ; end < len(rest) && (quoted || rest[end] != ','); end++ {
				switch {
				case rest[end] == '"':
					quoted = !quoted
				case rest[end] == '\\' && quoted:
					end++
				}
			}
			end = min(end, len(rest))
			name, value, _ := strings.Cut(rest[:end], "=")
			rest = strings.TrimPrefix(rest[end:], ",")
			value = strings.Trim(value, " \t")
			if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			if name = strings.ToLower(strings.Trim(name, " \t")); name != "" && !yield(name, value) {
				return
			}
		}
	}
}

// deltaSeconds reads RFC 9111 section 1.2.2's delta-seconds. A number too
// large to represent is the greatest one.
func deltaSeconds(s string) (time.Duration, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		n = math.MaxInt32
	}
	return time.Duration(n) * time.Second, true
}

// MaxRetryAfter bounds how long a server can make us wait.
const MaxRetryAfter = 30 * time.Second

// RetryAfter reads Retry-After (RFC 9110 section 10.2.3). It returns at least
// one second and at most MaxRetryAfter.
func RetryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	value := strings.Trim(h.Get("Retry-After"), " \t")
	after, ok := deltaSeconds(value)
	if !ok {
		date, err := http.ParseTime(value)
		if err != nil {
			return 0, false
		}
		after = date.Sub(now)
	}
	return min(max(after, time.Second), MaxRetryAfter), true
}

// RetryAfterSeconds rounds up to whole seconds, bounded (RFC 9110 section
// 10.2.3).
func RetryAfterSeconds(d time.Duration) int64 {
	d = min(max(d, time.Second), MaxRetryAfter)
	return int64((d + time.Second - 1) / time.Second)
}
