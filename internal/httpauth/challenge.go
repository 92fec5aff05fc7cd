package httpauth

import (
	"slices"
	"strings"
)

// A Challenge is the value of a WWW-Authenticate field (RFC 9110 section
// 11.6.1): a scheme and its parameters, in the order in which they were added.
type Challenge struct {
	text  strings.Builder
	names []string
}

// NewChallenge returns a challenge without parameters.
func NewChallenge(scheme string) *Challenge {
	c := &Challenge{}
	c.text.WriteString(scheme)
	return c
}

var quotedPairs = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// Add adds a parameter. It leaves out a parameter whose name was added before
// or is not a token, or whose value cannot be a quoted-string.
func (c *Challenge) Add(name, value string) {
	if slices.Contains(c.names, name) || !IsToken(name) || !IsQuotable(value) {
		return
	}
	separator := ", "
	if len(c.names) == 0 {
		separator = " "
	}
	c.names = append(c.names, name)
	for _, part := range [...]string{separator, name, `="`, quotedPairs.Replace(value), `"`} {
		c.text.WriteString(part)
	}
}

// String returns the field's value.
func (c *Challenge) String() string { return c.text.String() }

// IsQuotable reports whether s can be written as a quoted-string of visible
// ASCII characters and spaces (RFC 9110 section 5.6.4).
func IsQuotable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// IsErrorText reports whether s is made of the characters that RFC 6750
// section 3 permits in error and error_description.
func IsErrorText(s string) bool {
	return IsQuotable(s) && !strings.ContainsAny(s, `"\`)
}

// IsScopeToken reports whether s is a scope-token (RFC 6749 section 3.3).
func IsScopeToken(s string) bool {
	return s != "" && IsErrorText(s) && !strings.Contains(s, " ")
}

// IsToken reports whether s is a token (RFC 9110 section 5.6.2), as the names
// of fields, schemes and parameters are.
func IsToken(s string) bool {
	for i := range len(s) {
		if !tokenChar[s[i]] {
			return false
		}
	}
	return s != ""
}
