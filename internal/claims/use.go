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
// purpose), and some claims are in ID tokens only. A nonce counts only without
// RFC 9068's type: some servers copied it into access tokens.
func otherUse(msg *jose.Message) string {
	claims := msg.Claims
	if use := claims.Get("token_use"); use.Exists() && saysOtherUse(use) {
		return "token_use"
	}
	for _, name := range []string{"typ", "purpose", "token_type"} {
		if isOtherUse(claims.Get(name)) {
			return name
		}
	}
	for _, name := range []string{"at_hash", "c_hash"} {
		if claims.Get(name).Exists() {
			return name
		}
	}
	if claims.Get("nonce").Exists() && (msg.Type == "" || strings.EqualFold(msg.Type, "JWT")) {
		return "nonce"
	}
	return ""
}

// CheckUse refuses an answer about a token that is not a plain bearer access
// token. Servers call refresh tokens active too, and say so in different
// members.
func CheckUse(members jose.Object) error {
	for _, name := range []string{"token_use", "token_usage"} {
		if v := members.Get(name); v.Exists() && !v.IsNull() && saysOtherUse(v) {
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
	cnf := claims.Get("cnf")
	return cnf.Exists() && !cnf.IsNull()
}
