package claims

import (
	"slices"
	"strings"

	"github.com/phantom-token/phantom/internal/jose"
)

// accessTokenUses are the values of token_use and token_usage for an access
// token.
var accessTokenUses = []string{"access_token", "access"}

// otherUses are what servers write, in any case, about tokens that are no
// access tokens.
var otherUses = []string{"id", "id_token", "refresh", "refresh_token", "offline", "offline_access", "logout"}

// boundUses are what they write about access tokens that are bound.
var boundUses = []string{"dpop", "pop"}

// isOtherUse reports whether the value is one of otherUses. One of boundUses is
// right for a token that comes under this scheme (RFC 9449 section 6.2).
func (r *Rules) isOtherUse(v jose.Value, c Confirmation) bool {
	text, _ := v.Text()
	text = strings.ToLower(text)
	return slices.Contains(otherUses, text) || slices.Contains(boundUses, text) && !r.comesUnder(text, c)
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
func (r *Rules) otherUse(claims jose.Object, c Confirmation) string {
	if use, given := lookUp(claims, "token_use"); given && saysOtherUse(use) {
		return "token_use"
	}
	for _, name := range []string{"typ", "purpose", "token_type"} {
		if r.isOtherUse(claims.Get(name), c) {
			return name
		}
	}
	for _, name := range []string{"at_hash", "c_hash"} {
		if _, given := lookUp(claims, name); given {
			return name
		}
	}
	if events, _ := claims.Get("events").Object(); events.Get(logoutEvent).Exists() {
		return "events" // its type need not say that it is a logout token
	}
	return ""
}

// saysAccessToken reports whether a JWT, or the answer around it, calls the
// token an access token. Some servers copy the nonce of the login into those
// (Keycloak), and then this word alone tells them from ID tokens. That a token
// is bound, as it says, is checked elsewhere.
func saysAccessToken(members jose.Object) bool {
	for _, name := range []string{"token_use", "token_usage"} {
		if !saysOtherUse(members.Get(name)) {
			return true
		}
	}
	for _, name := range []string{"typ", "purpose", "token_type"} {
		text, _ := members.Get(name).Text()
		if text = strings.ToLower(text); text == "bearer" || text == "dpop" || slices.Contains(accessTokenUses, text) {
			return true
		}
	}
	return false
}

// CheckUse refuses an answer about a token that is not an access token, or that
// is bound in a way that is not checked. Servers call refresh tokens active
// too, and say so in different members.
func (r *Rules) CheckUse(members jose.Object) error {
	c, ok := r.confirmation(members)
	if !ok {
		return refused("introspection cnf")
	}
	return r.checkUse(members, c)
}

// checkUse is the part of CheckUse that looks at the kind of the token.
func (r *Rules) checkUse(members jose.Object, c Confirmation) error {
	for _, name := range []string{"token_use", "token_usage"} {
		if v, given := lookUp(members, name); given && saysOtherUse(v) {
			return refused("introspection " + name)
		}
	}
	if r.isOtherUse(members.Get("token_type"), c) {
		return refused("introspection token_type")
	}
	return nil
}
