package claims

import (
	"slices"
	"strings"

	"github.com/phantom-token/phantom/internal/jose"
)

// accessTokenUses are the values of token_use and token_usage for an access
// token.
var accessTokenUses = []string{"access_token", "access"}

// otherUses are what servers write, in any case, about tokens that are not
// plain bearer access tokens.
var otherUses = []string{
	"id", "id_token", "refresh", "refresh_token", "offline", "offline_access", "logout", "dpop", "pop",
}

// isOtherUse reports whether the value is one of otherUses.
func isOtherUse(v jose.Value) bool {
	text, _ := v.Text()
	return slices.Contains(otherUses, strings.ToLower(text))
}

// saysOtherUse reports whether a value of token_use or token_usage says
// anything but access token.
func saysOtherUse(v jose.Value) bool {
	text, _ := v.Text()
	return !slices.Contains(accessTokenUses, text)
}

// otherUse returns the claim that shows that a JWT is not an access token, if
// any. Servers write it there (Amazon's token_use, Keycloak's typ, Curity's
// purpose), and some claims are in ID tokens only.
func otherUse(claims jose.Object) string {
	if use, given := lookUp(claims, "token_use"); given && saysOtherUse(use) {
		return "token_use"
	}
	for _, name := range []string{"typ", "purpose", "token_type"} {
		if isOtherUse(claims.Get(name)) {
			return name
		}
	}
	for _, name := range []string{"at_hash", "c_hash"} {
		if _, given := lookUp(claims, name); given {
			return name
		}
	}
	return ""
}

// saysAccessToken reports whether a JWT, or the answer around it, calls the
// token an access token. Some servers copy the nonce of the login into those
// (Keycloak), and then this word alone tells them from ID tokens.
func saysAccessToken(members jose.Object) bool {
	for _, name := range []string{"token_use", "token_usage"} {
		if !saysOtherUse(members.Get(name)) {
			return true
		}
	}
	for _, name := range []string{"typ", "purpose", "token_type"} {
		text, _ := members.Get(name).Text()
		if text = strings.ToLower(text); text == "bearer" || slices.Contains(accessTokenUses, text) {
			return true
		}
	}
	return false
}

// CheckUse refuses an answer about a token that is not a plain bearer access
// token. Servers call refresh tokens active too, and say so in different
// members.
func CheckUse(members jose.Object) error {
	for _, name := range []string{"token_use", "token_usage"} {
		if v, given := lookUp(members, name); given && saysOtherUse(v) {
			return refused("introspection " + name)
		}
	}
	if isOtherUse(members.Get("token_type")) {
		return refused("introspection token_type")
	}
	if isBound(members) {
		return refused("introspection cnf")
	}
	return nil
}

// isBound reports whether the claims tie the token to a key or certificate of
// the client (RFC 7800). Such a token must not pass as a plain bearer token
// (RFC 9449 section 7.2, RFC 8705 section 3).
func isBound(claims jose.Object) bool {
	_, given := lookUp(claims, "cnf")
	return given
}
