package claims

import (
	"slices"
	"strings"

	"github.com/phantom-token/phantom/internal/jose"
)

// registered are the claims to which this package gives a meaning.
var registered = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "azp", "scope", "cnf", "act",
	"token_use", "token_usage", "token_type",
}

var registeredInAnswers = append(slices.Clip(registered), "active")

// ambiguous returns a name that the object has in another spelling, if any. A
// JSON reader that folds case, such as encoding/json, would take "SUB" for
// "sub", and handlers must not decode anything but what was checked.
func ambiguous(members jose.Object, names []string) string {
	for name := range members.All() {
		for _, r := range names {
			if len(name) >= len(r) && name != r && strings.EqualFold(name, r) {
				return r
			}
		}
	}
	return ""
}

// readAudience reads a string or an array of strings, without empty ones. An
// absent claim is an empty audience. ok is false for anything else.
func readAudience(v jose.Value) (audience []string, ok bool) {
	if !v.Exists() {
		return nil, true
	}
	if one, isText := v.Text(); isText {
		audience = []string{one}
	} else if audience, ok = v.Texts(); !ok {
		return nil, false
	}
	// NUL separates the audiences in a Token.
	unfit := func(a string) bool { return a == "" || strings.Contains(a, "\x00") }
	return audience, !slices.ContainsFunc(audience, unfit)
}

// readScope reads the scope claim as a list separated by single spaces. The
// claim is a string (RFC 9068 section 2.2.3) or, from some servers, an array of
// strings. Anything else is no scope at all.
func readScope(v jose.Value) string {
	list, ok := v.Texts()
	if !ok {
		text, _ := v.Text()
		list = strings.Split(text, " ")
	}
	list = slices.DeleteFunc(list, func(s string) bool { return s == "" || strings.Contains(s, " ") })
	return strings.Join(list, " ")
}
