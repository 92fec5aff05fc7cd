// Package claims holds the rules that a JWT, and the introspection answer that
// it came with, must meet (RFC 7519, RFC 7662, RFC 9068).
package claims

import (
	"slices"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/jose"
)

// Rules are what one resource server demands of a token.
type Rules struct {
	Issuer     string
	Audience   []string // any of; empty: not checked
	Leeway     time.Duration
	RFC9068    bool // its profile, to the letter
	Algorithms []string
}

// A Set holds the claims that the rules read.
type Set struct {
	Subject, ClientID, ID, Scope string
	Audience                     []string
	Expiry, IssuedAt             int64 // seconds; IssuedAt is 0 when absent
}

func refused(check string) error { return failure.New(failure.Refused, check) }

// CheckHeader applies the rules that need no key: the configured algorithms and
// the type of the JWT. Types are compared without case, as media types are (RFC
// 9068 section 2.1, RFC 7515 section 4.1.9).
func (r *Rules) CheckHeader(msg *jose.Message) error {
	if !slices.Contains(r.Algorithms, msg.Algorithm) {
		return refused("alg")
	}
	switch strings.ToLower(msg.Type) {
	case "at+jwt", "application/at+jwt":
		return nil
	case "jwt":
		if !r.RFC9068 {
			return nil
		}
	case "":
		if !r.RFC9068 && !msg.Header.Get("typ").Exists() {
			return nil
		}
	}
	return refused("typ")
}

// Check applies the checks of RFC 9068 section 4 and RFC 7519 section 4.1 to
// the claims of a JWT whose signature is good. The leeway widens each
// comparison with the clock; RFC 7519 wants it to be no more than a few
// minutes.
func (r *Rules) Check(msg *jose.Message, now time.Time) (*Set, error) {
	claims := msg.Claims
	if name := ambiguous(claims, registered); name != "" {
		return nil, refused("ambiguous " + name)
	}
	set := &Set{}
	if iss, ok := claims.Get("iss").Text(); !ok || iss != r.Issuer {
		return nil, refused("iss")
	}
	var ok bool
	if set.Audience, ok = readAudience(claims.Get("aud")); !ok || !r.forUs(set.Audience) {
		return nil, refused("aud")
	}
	if err := r.checkTimes(claims, set, now); err != nil {
		return nil, err
	}
	if set.Subject, ok = claims.Get("sub").Text(); !ok || set.Subject == "" {
		return nil, refused("sub")
	}
	for _, optional := range []struct {
		name string
		to   *string
	}{{"client_id", &set.ClientID}, {"jti", &set.ID}} {
		v := claims.Get(optional.name)
		if *optional.to, ok = v.Text(); v.Exists() && !ok || r.RFC9068 && *optional.to == "" {
			return nil, refused(optional.name)
		}
	}
	if set.ClientID == "" {
		set.ClientID, _ = claims.Get("azp").Text() // OpenID's name, Keycloak's habit
	}
	if isBound(claims) {
		return nil, refused("cnf")
	}
	if member := otherUse(msg); member != "" {
		return nil, refused("not an access token: " + member)
	}
	set.Scope = readScope(claims.Get("scope"))
	return set, nil
}

func (r *Rules) checkTimes(claims jose.Object, set *Set, now time.Time) error {
	var ok bool
	if set.Expiry, ok = claims.Get("exp").NumericDate(); !ok {
		return refused("exp missing or out of range")
	}
	if r.Expired(set.Expiry, now) {
		return refused("exp")
	}
	if nbf := claims.Get("nbf"); nbf.Exists() {
		if sec, ok := nbf.NumericDate(); !ok || time.Unix(sec, 0).After(now.Add(r.Leeway)) {
			return refused("nbf")
		}
	}
	iat := claims.Get("iat")
	if iat.Exists() {
		if set.IssuedAt, ok = iat.NumericDate(); !ok || time.Unix(set.IssuedAt, 0).After(now.Add(r.Leeway)) {
			return refused("iat")
		}
	} else if r.RFC9068 {
		return refused("iat")
	}
	return nil
}

// Expired reports whether a JWT with that exp, in seconds, is expired.
func (r *Rules) Expired(expiry int64, now time.Time) bool {
	return !now.Before(time.Unix(expiry, 0).Add(r.Leeway))
}

// forUs reports whether the token is meant for this resource server (RFC 9068
// section 4).
func (r *Rules) forUs(audience []string) bool {
	return len(r.Audience) == 0 ||
		slices.ContainsFunc(audience, func(a string) bool { return slices.Contains(r.Audience, a) })
}

// CheckAnswer compares the members of a JSON introspection answer (RFC 7662
// section 2.2) and its exp with the JWT that came with them. The server may
// have called a refresh token active, or sent the JWT of another token.
func (r *Rules) CheckAnswer(members jose.Object, expiry time.Time, set *Set, now time.Time) error {
	// Without leeway: the server has just called the token active.
	if !expiry.IsZero() && !now.Before(expiry) {
		return refused("introspection exp")
	}
	if name := ambiguous(members, registeredInAnswers); name != "" {
		return failure.New(failure.Protocol, "introspection claims: ambiguous "+name)
	}
	if err := CheckUse(members); err != nil {
		return err
	}
	for _, same := range []struct{ name, ours string }{{"sub", set.Subject}, {"client_id", set.ClientID}} {
		v := members.Get(same.name)
		if !v.Exists() || v.IsNull() || same.ours == "" {
			continue
		}
		if text, ok := v.Text(); !ok || text != same.ours {
			return refused("introspection " + same.name + " differs")
		}
	}
	return nil
}
