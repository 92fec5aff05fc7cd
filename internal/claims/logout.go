package claims

import (
	"slices"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/jose"
)

// A Logout is what a logout token says (OpenID Connect Back-Channel Logout 1.0
// section 2.4): whose session has ended. Subject or Session may be empty.
type Logout struct{ Subject, Session, ID string }

// logoutEvent is the member of events that makes a JWT a logout token.
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// MaxLogoutAge is how old a logout token may be.
const MaxLogoutAge = 2 * time.Minute

// CheckLogoutHeader applies the rules for a logout token that need no key.
func (r *Rules) CheckLogoutHeader(msg *jose.Message) error {
	switch typeOf(msg) {
	case "logout+jwt", "jwt":
	case "":
		if msg.Header.Get("typ").Exists() {
			return failure.New(failure.Malformed, "logout token: typ")
		}
	default:
		return failure.New(failure.Malformed, "logout token: typ")
	}
	if !slices.Contains(r.Algorithms, msg.Algorithm) {
		return failure.New(failure.Malformed, "logout token: alg")
	}
	return nil
}

// CheckLogout checks a logout token whose signature is good (section 2.6). The
// audience is any of those by which the server knows us.
func (r *Rules) CheckLogout(msg *jose.Message, audience []string, now time.Time) (*Logout, error) {
	// The server signed it, so it is for the operator to mend.
	differs := func(check, expected, got string) (*Logout, error) {
		return nil, failure.New(failure.Refused, "logout token: "+check).Differs(expected, got)
	}
	fault := func(check string) (*Logout, error) { return differs(check, "", "") }
	all := msg.Claims
	if name := ambiguous(all, append(slices.Clip(registered), "sid", "events", "nonce")); name != "" {
		return fault("ambiguous " + name)
	}
	if iss, _ := all.Get("iss").Text(); iss != r.Issuer {
		return differs("iss", r.Issuer, failure.Address(iss))
	}
	aud, ok := readAudience(all.Get("aud"))
	if !ok || !slices.ContainsFunc(aud, func(a string) bool { return a != "" && slices.Contains(audience, a) }) {
		return differs("aud", strings.Join(audience, " "), "")
	}
	iat, ok := all.Get("iat").NumericDate()
	made := time.Unix(iat, 0)
	if !ok || made.After(now.Add(r.Leeway)) || made.Before(now.Add(-MaxLogoutAge)) {
		return fault("iat")
	}
	if exp, given := lookUp(all, "exp"); given {
		if sec, ok := exp.NumericDate(); !ok || r.Expired(sec, now) {
			return fault("exp")
		}
	}
	events, _ := all.Get("events").Object()
	if _, ok := events.Get(logoutEvent).Object(); !ok {
		return fault("events")
	}
	if all.Get("nonce").Exists() {
		return fault("nonce")
	}
	l := &Logout{}
	if l.ID, _ = all.Get("jti").Text(); l.ID == "" {
		return fault("jti")
	}
	for _, optional := range []struct {
		name string
		to   *string
	}{{"sub", &l.Subject}, {"sid", &l.Session}} {
		v, given := lookUp(all, optional.name)
		if *optional.to, ok = v.Text(); given && (!ok || *optional.to == "") {
			return fault(optional.name)
		}
	}
	if l.Subject == "" && l.Session == "" {
		return fault("neither sub nor sid")
	}
	return l, nil
}
