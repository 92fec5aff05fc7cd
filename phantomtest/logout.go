package phantomtest

import (
	"crypto/rand"
	"maps"
	"time"
)

// typeLogout is the type of a logout token.
const typeLogout = "logout+jwt"

// LogoutToken returns a logout token (OpenID Connect Back-Channel Logout 1.0
// section 2.4) for a test of [phantom.Middleware.BackchannelLogout]: the form
// field logout_token. The claims say who logs out: sid, sub or both. They go on
// top of these, and a nil value removes one:
//
//	iss     the issuer
//	aud     the id of the server's first client
//	iat     now
//	exp     2 minutes from now
//	jti     random
//	events  the one of a logout
//
// The key is that of the JWTs. LogoutToken ends nothing at the server: see
// [AuthorizationServer.Revoke]. It panics if claims cannot be written as JSON.
func (s *AuthorizationServer) LogoutToken(claims map[string]any) string {
	now := time.Now()
	all := map[string]any{
		"iss":    s.issuer,
		"aud":    s.clients[0].id,
		"iat":    now.Unix(),
		"exp":    now.Add(2 * time.Minute).Unix(),
		"jti":    rand.Text(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return s.sign(typeLogout, mustMarshal(all))
}
