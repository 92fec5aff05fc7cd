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
	// ClientSubject, in front of the client_id, is the subject of a token that
	// has no sub. If it is empty, such a token is refused.
	ClientSubject string
	// Schemes has the authentication scheme of each confirmation method that is
	// checked; empty: Bearer. A token that is bound by another is refused.
	Schemes map[string]string
}

// A Set holds the claims that the rules read, and all claims as they came.
type Set struct {
	Subject, ClientID, ID, Scope string
	Audience                     []string
	Expiry, IssuedAt             int64 // seconds; 0 when absent
	Confirmation                 Confirmation
	All                          jose.Object
}

// refused is the failure of a JWT for what it is: it will be refused again.
func refused(check string) *failure.Error {
	f := failure.New(failure.Refused, check)
	f.Lasting = true
	return f
}

// refusedNow is the failure of a JWT for the time that it is.
func refusedNow(check string) error { return failure.New(failure.Refused, check) }

// CheckHeader applies the rules that need no key: the configured algorithms and
// the type of the JWT.
func (r *Rules) CheckHeader(msg *jose.Message) error {
	if !slices.Contains(r.Algorithms, msg.Algorithm) {
		return refused("alg").Differs(strings.Join(r.Algorithms, " "), msg.Algorithm)
	}
	switch typeOf(msg) {
	case typeAccessToken:
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
	expected := typeAccessToken
	if !r.RFC9068 {
		expected += ", JWT or none"
	}
	return refused("typ").Differs(expected, shownType(typeOf(msg)))
}

// shownType returns the type of a JWT if it is a known one.
func shownType(typ string) string {
	switch typ {
	case "jwt", "id+jwt", "logout+jwt", "dpop+jwt", "jwt+refresh", "secevent+jwt", signedType:
		return typ
	case "":
		return "(none)"
	}
	return "another"
}

const typeAccessToken = "at+jwt"

// typeOf returns the type of a JWT. It is a media type, so its case does not
// count, and "application/" may stand before it (RFC 7515 section 4.1.9).
func typeOf(msg *jose.Message) string {
	return strings.TrimPrefix(strings.ToLower(msg.Type), "application/")
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
	if claims.Ambiguous() {
		return nil, refused("ambiguous name")
	}
	set := &Set{All: claims}
	if iss := claims.Get("iss"); !iss.Is(r.Issuer) {
		named, _ := iss.Text()
		return nil, refused("iss").Differs(r.Issuer, failure.Address(named))
	}
	var ok bool
	if set.Audience, ok = readAudience(claims.Get("aud")); !ok || !r.forUs(set.Audience) {
		return nil, refused("aud").Differs(strings.Join(r.Audience, " "), "")
	}
	if err := r.checkTimes(claims, set, now); err != nil {
		return nil, err
	}
	for _, optional := range []struct {
		name string
		to   *string
	}{{"client_id", &set.ClientID}, {"jti", &set.ID}} {
		v, given := lookUp(claims, optional.name)
		if *optional.to, ok = v.Text(); given && !ok || r.RFC9068 && *optional.to == "" {
			return nil, refused(optional.name)
		}
	}
	if set.ClientID == "" {
		set.ClientID, _ = claims.Get("azp").Text() // OpenID's name, Keycloak's habit
	}
	sub, given := lookUp(claims, "sub")
	set.Subject, _ = sub.Text()
	if !given && (typeOf(msg) == typeAccessToken || saysAccessToken(claims)) {
		set.Subject = r.clientSubject(set.ClientID)
	}
	if set.Subject == "" || given && r.isClients(set.Subject) {
		return nil, refused("sub")
	}
	if set.Confirmation, ok = r.confirmation(claims); !ok {
		return nil, refused("cnf")
	}
	if member := r.otherUse(claims, set.Confirmation); member != "" {
		return nil, refused("not an access token: " + member)
	}
	set.Scope = readScope(claims)
	return set, nil
}

func (r *Rules) checkTimes(claims jose.Object, set *Set, now time.Time) error {
	var ok bool
	if set.Expiry, ok = claims.Get("exp").NumericDate(); !ok {
		return refusedNow("exp missing or out of range")
	}
	if r.Expired(set.Expiry, now) {
		return refusedNow("exp")
	}
	if nbf, given := lookUp(claims, "nbf"); given {
		if sec, ok := nbf.NumericDate(); !ok || time.Unix(sec, 0).After(now.Add(r.Leeway)) {
			return refusedNow("nbf")
		}
	}
	if iat, given := lookUp(claims, "iat"); given {
		if set.IssuedAt, ok = iat.NumericDate(); !ok || time.Unix(set.IssuedAt, 0).After(now.Add(r.Leeway)) {
			return refusedNow("iat")
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
// have called a refresh token active, or sent the JWT of another token. A JWT
// with a nonce is an ID token unless the JWT or the answer says otherwise. The
// set takes what only the answer says of the token's confirmation.
func (r *Rules) CheckAnswer(
	msg *jose.Message, set *Set, members jose.Object, expiry, now time.Time,
) error {
	// Without leeway: the server has just called the token active.
	if !expiry.IsZero() && !now.Before(expiry) {
		return refusedNow("introspection exp")
	}
	if err := checkNames(members); err != nil {
		return err
	}
	if err := r.checkConfirmation(set, members); err != nil {
		return err
	}
	if _, given := lookUp(msg.Claims, "nonce"); given && typeOf(msg) != typeAccessToken &&
		!saysAccessToken(msg.Claims) && !saysAccessToken(members) {
		return refused("not an access token: nonce")
	}
	for _, same := range []struct{ name, ours string }{{"sub", set.Subject}, {"client_id", set.ClientID}} {
		v, given := lookUp(members, same.name)
		if !given || same.ours == "" {
			continue
		}
		if text, ok := v.Text(); !ok || text != same.ours {
			return refused("introspection " + same.name + " differs")
		}
	}
	return nil
}

// checkConfirmation compares what the answer and the JWT say about the key that
// the token is bound to, and about the kind of token that it therefore is.
func (r *Rules) checkConfirmation(set *Set, members jose.Object) error {
	beside, ok := r.confirmation(members)
	switch none := (Confirmation{}); {
	case !ok:
		return refused("introspection cnf")
	case set.Confirmation == none:
		set.Confirmation = beside
	case beside != none && beside != set.Confirmation:
		return refused("introspection cnf differs")
	}
	return r.checkUse(members, set.Confirmation)
}
