package phantom

import (
	"net/http"
	"slices"
	"strings"
)

// maxTokenSize is the longest opaque token that is looked at, in bytes.
const maxTokenSize = 8 << 10

// authorization returns the values of all Authorization fields, whatever the
// case of their name: net/http canonicalizes names on arrival, but an outer
// middleware can put any key into the map.
func authorization(h http.Header) []string {
	values := h["Authorization"]
	for name := range h {
		if len(name) == len("Authorization") && name != "Authorization" && isAuthorization(name) {
			values = append(slices.Clip(values), h[name]...)
		}
	}
	return values
}

func isAuthorization(name string) bool { return strings.EqualFold(name, "Authorization") }

// bearerToken extracts the token by the grammar of RFC 6750 section 2.1: one
// field, the scheme in any case (RFC 9110 section 11.1), one or more spaces.
// Whether the rest is a b64token is for checkTokenSyntax to say.
func bearerToken(h http.Header) (string, error) {
	values := authorization(h)
	switch len(values) {
	case 0:
		return "", errNoField
	case 1:
	default:
		return "", rejection(ReasonMalformedRequest, "repeated Authorization field")
	}
	const scheme = "Bearer"
	v := values[0]
	if len(v) < len(scheme) || !strings.EqualFold(v[:len(scheme)], scheme) {
		return "", errNotBearer
	}
	rest := v[len(scheme):]
	if rest != "" && isTokenChar(rest[0]) {
		return "", errNotBearer // a longer scheme name that begins with ours
	}
	if rest == "" || rest[0] != ' ' {
		return "", rejection(ReasonMalformedRequest, "no space after the scheme")
	}
	if rest = strings.TrimLeft(rest, " "); rest == "" {
		return "", rejection(ReasonMalformedRequest, "no token after the scheme")
	}
	return rest, nil
}

// errNoField and errNotBearer are both a lack of credentials; only a request
// without any Authorization field can be an anonymous one.
var (
	errNoField   = rejection(ReasonNoCredentials, "no Authorization field")
	errNotBearer = rejection(ReasonNoCredentials, "not the Bearer scheme")
)

// checkTokenSyntax refuses what is not a b64token (RFC 6750 section 2.1) of at
// most maxTokenSize bytes.
func checkTokenSyntax(token string) error {
	if len(token) > maxTokenSize {
		return rejection(ReasonMalformedRequest, "token too long")
	}
	n := 0
	for n < len(token) && b64tokenChar[token[n]] {
		n++
	}
	if n == 0 || strings.Trim(token[n:], "=") != "" {
		return rejection(ReasonMalformedRequest, "not a b64token")
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

func isTokenChar(c byte) bool { return tokenChar[c] }
