// Package httpauth implements the grammar of the fields Authorization and
// WWW-Authenticate (RFC 9110 section 11, RFC 6750): it reads credentials and
// writes challenges.
package httpauth

import (
	"net/http"
	"slices"
	"strings"

	"github.com/phantom-token/phantom/internal/failure"
)

// Bearer is the scheme of RFC 6750. A field's value is the scheme, a space and
// the token.
const Bearer = "Bearer"

// maxTokenSize is the longest opaque token that is looked at, in bytes. A JWT
// of Keycloak with hundreds of groups fits.
const maxTokenSize = 16 << 10

// TooLong is the detail of a token beyond that size.
const TooLong = "token too long"

// Fields is what one pass over a header finds.
type Fields struct {
	// Authorization holds the values of all fields of that name, in any
	// spelling: net/http canonicalizes names on arrival, but an outer middleware
	// can put any key into the map.
	Authorization []string
	Misspelt      bool // one of them is not spelt as net/http does
	Connection    bool // there is a Connection field
	Upgrade       bool // and one of this name
}

// Scan looks at the names of all fields, once for all who want to know.
func Scan(h http.Header) (f Fields) {
	for name, values := range h {
		switch {
		case len(name) == len("Authorization"):
			f.note(name, values)
		case name == "Connection":
			f.Connection = true
		case name == "Upgrade":
			f.Upgrade = true
		}
	}
	return f
}

func (f *Fields) note(name string, values []string) {
	switch {
	case name == "Authorization":
	case IsAuthorization(name):
		f.Misspelt = true
	default:
		return
	}
	if f.Authorization == nil {
		f.Authorization = values
	} else {
		f.Authorization = append(slices.Clip(f.Authorization), values...)
	}
}

// IsAuthorization reports whether name is that of the Authorization field, in
// any spelling.
func IsAuthorization(name string) bool { return strings.EqualFold(name, "Authorization") }

// The ways to have no credentials. Only a request without any Authorization
// field can be anonymous.
var (
	errNoField   = failure.New(failure.NoCredentials, "no Authorization field")
	ErrNoToken   = failure.New(failure.NoCredentials, "no token")
	errNotBearer = failure.New(failure.NoCredentials, "not the Bearer scheme")
)

func malformed(detail string) error { return failure.New(failure.Malformed, detail) }

// Token extracts the token from the values of Authorization by the grammar of
// RFC 6750 section 2.1: one field, the scheme in any case (RFC 9110 section
// 11.1), one or more spaces. [CheckToken] judges the rest. The scheme is Bearer
// or one of the others, as it is spelt there; empty if it is none of them. It
// is there also when the token is malformed.
func Token(values []string, others []string) (token, scheme string, err error) {
	switch len(values) {
	case 0:
		return "", "", errNoField
	case 1:
	default:
		return "", "", malformed("repeated Authorization field")
	}
	// As a rule it is spelt like this.
	if token, ok := strings.CutPrefix(values[0], Bearer+" "); ok && token != "" && token[0] != ' ' {
		return token, Bearer, nil
	}
	if token, err = tokenUnder(Bearer, values[0]); err != errNotBearer { //nolint:errorlint // it comes as it is
		return token, Bearer, err
	}
	for _, scheme := range others {
		if token, err = tokenUnder(scheme, values[0]); err != errNotBearer { //nolint:errorlint // as above
			return token, scheme, err
		}
	}
	return "", "", errNotBearer
}

// tokenUnder returns the token if it comes under the scheme, else errNotBearer.
func tokenUnder(scheme, v string) (string, error) {
	if len(v) < len(scheme) || !strings.EqualFold(v[:len(scheme)], scheme) {
		return "", errNotBearer
	}
	rest := v[len(scheme):]
	if rest != "" && tokenChar[rest[0]] {
		return "", errNotBearer // a longer scheme name that begins with ours
	}
	if rest == "" || rest[0] != ' ' {
		return "", malformed("no space after the scheme")
	}
	if rest = strings.TrimLeft(rest, " "); rest == "" {
		return "", malformed("no token after the scheme")
	}
	return rest, nil
}

// CheckToken refuses an empty token as missing, and one that is not a b64token
// (RFC 6750 section 2.1) of at most 16 KiB as malformed.
func CheckToken(token string) error {
	if err := CheckSize(token); err != nil {
		return err
	}
	n := 0
	for n < len(token) && b64tokenChar[token[n]] {
		n++
	}
	if n == 0 || strings.Trim(token[n:], "=") != "" {
		return malformed("not a b64token")
	}
	return nil
}

// CheckExtracted is CheckToken for a token that an extractor found. Some
// servers issue tokens with a pipe or an exclamation mark, so it may have any
// visible ASCII character but those that end a value in a list or in quotes.
func CheckExtracted(token string) error {
	if err := CheckSize(token); err != nil {
		return err
	}
	for i := range len(token) {
		if c := token[i]; c <= ' ' || c > '~' || c == ',' || c == '"' || c == '\\' {
			return malformed("a character that no token has")
		}
	}
	return nil
}

// CheckSize is the part of either check that takes no time.
func CheckSize(token string) error {
	switch {
	case token == "":
		return ErrNoToken
	case len(token) > maxTokenSize:
		return malformed(TooLong)
	}
	return nil
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// b64tokenChar holds the characters of a b64token before its padding.
var b64tokenChar = charTable(alphanumeric + "-._~+/")

// tokenChar holds the characters of a token as in RFC 9110 section 5.6.2.
var tokenChar = charTable(alphanumeric + "!#$%&'*+-.^_`|~")

func charTable(chars string) (t [256]bool) {
	for i := range len(chars) {
		t[chars[i]] = true
	}
	return t
}
