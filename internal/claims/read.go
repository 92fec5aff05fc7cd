package claims

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/phantom-token/phantom/internal/jose"
)

// registered are the claims to which this package gives a meaning, and those by
// which handlers decide what a user may do.
var registered = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "azp", "scope", "scp", "cnf", "act",
	"token_use", "token_usage", "token_type",
	"roles", "groups", "entitlements", "acr", "amr", "auth_time", "email", "may_act", "authorization_details",
}

var registeredInAnswers = append(slices.Clip(registered), "active", "typ", "purpose")

// IsJudged reports whether the member of an answer is one by which a token, or
// what it permits, is judged, or its session is found.
func IsJudged(name string) bool {
	return name == "sid" || name != "jti" && slices.Contains(registeredInAnswers, name)
}

// ambiguous returns a name that the object has in another spelling, if any. A
// JSON reader that folds case, such as encoding/json, would take "SUB" for
// "sub", and handlers must not decode anything but what was checked.
func ambiguous(members jose.Object, names []string) string {
	isOther := func(c rune) bool { return 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf }
	for name := range members.All() {
		if !strings.ContainsFunc(name, isOther) {
			continue // as nearly all are
		}
		for _, r := range names {
			if len(name) >= len(r) && name != r && strings.EqualFold(name, r) {
				return r
			}
		}
	}
	return ""
}

// lookUp returns a member that may be missing. A null is as good as none.
func lookUp(members jose.Object, name string) (v jose.Value, given bool) {
	v = members.Get(name)
	return v, v.Exists() && !v.IsNull()
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

// readScope reads the scopes, separated by single spaces: those of the scope
// claim (RFC 9068 section 2.2.3), or of scp if there is no scope, as Okta and
// Entra have it. Each is a string or, from some servers, an array of strings.
// Anything else is no scope at all.
func readScope(claims jose.Object) string {
	v, given := lookUp(claims, "scope")
	if !given {
		v = claims.Get("scp")
	}
	text, ok := v.Text()
	if !ok {
		list, _ := v.Texts()
		text = strings.Join(list, " ")
	}
	if text = strings.Trim(text, " "); !strings.Contains(text, "  ") {
		return text
	}
	scopes := slices.DeleteFunc(strings.Split(text, " "), func(s string) bool { return s == "" })
	return strings.Join(scopes, " ")
}
