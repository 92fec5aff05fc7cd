package claims

import (
	"slices"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/jose"
)

// refusedAnswer is the failure of an answer for what it is.
func refusedAnswer(check string) *failure.Error {
	f := failure.New(failure.RefusedAnswer, check)
	f.Lasting = true
	return f
}

// refusedAnswerNow is the failure of an answer for the time that it is.
func refusedAnswerNow(check string) error { return failure.New(failure.RefusedAnswer, check) }

// CheckMembers holds the members of an answer without a JWT (RFC 7662 section
// 2.2) to the rules of a JWT. What RFC 7662 leaves optional may be missing,
// except for the subject and, if it is checked, the audience. There is no
// leeway for exp: the server has just called the token active. In the Set, an
// Expiry of 0 stands for none.
func (r *Rules) CheckMembers(members jose.Object, now time.Time) (*Set, error) {
	if err := checkNames(members); err != nil {
		return nil, err
	}
	set := &Set{All: members}
	if iss, given := lookUp(members, "iss"); given {
		if text, ok := iss.Text(); !ok || text != r.Issuer {
			return nil, refusedAnswer("iss").Differs(r.Issuer, failure.Address(text))
		}
	}
	aud, _ := lookUp(members, "aud")
	audience, ok := readAudience(aud)
	if len(r.Audience) > 0 && (!ok || !r.forUs(audience)) {
		return nil, refusedAnswer("aud").Differs(strings.Join(r.Audience, " "), "")
	}
	if ok {
		set.Audience = audience
	}
	if err := r.checkMemberTimes(members, set, now); err != nil {
		return nil, err
	}
	for _, optional := range []struct {
		name string
		to   *string
	}{{"client_id", &set.ClientID}, {"jti", &set.ID}} {
		v, given := lookUp(members, optional.name)
		if *optional.to, ok = v.Text(); given && !ok {
			return nil, refusedAnswer(optional.name)
		}
	}
	if set.ClientID == "" {
		v, given := lookUp(members, "azp")
		if set.ClientID, ok = v.Text(); given && !ok {
			return nil, refusedAnswer("azp")
		}
	}
	if set.Confirmation, ok = r.confirmation(members); !ok {
		return nil, refusedAnswer("cnf")
	}
	use := r.useOf(members, set.Confirmation)
	if use == otherKind {
		return nil, refusedAnswer("not an access token")
	}
	sub, given := lookUp(members, "sub")
	if set.Subject, ok = sub.Text(); given && (!ok || set.Subject == "" || r.isClients(set.Subject)) {
		return nil, refusedAnswer("sub")
	}
	if !given {
		if set.Subject = r.clientSubject(set.ClientID); set.Subject == "" {
			return nil, refusedAnswer("sub")
		}
		set.All = members.With("sub", set.Subject)
	}
	// Refresh tokens come back active too, often with nothing that tells them
	// apart, except that they are meant for no resource server.
	if use == unsaid && (len(r.Audience) == 0 || !given) {
		return nil, refusedAnswer("token_type missing")
	}
	set.Scope = readScope(members)
	return set, nil
}

// checkNames refuses names that a reader that folds case would take for one.
func checkNames(members jose.Object) error {
	if name := ambiguous(members, registeredInAnswers); name != "" {
		return failure.New(failure.Protocol, "introspection claims: ambiguous "+name)
	}
	if members.Ambiguous() {
		return failure.New(failure.Protocol, "introspection claims: ambiguous name")
	}
	return nil
}

func (r *Rules) checkMemberTimes(members jose.Object, set *Set, now time.Time) error {
	if exp, given := lookUp(members, "exp"); given {
		var ok bool
		if set.Expiry, ok = exp.NumericDate(); !ok {
			return failure.New(failure.Protocol, "exp is no date")
		}
		if !now.Before(time.Unix(set.Expiry, 0)) {
			return refusedAnswerNow("exp")
		}
	}
	for _, name := range []string{"nbf", "iat"} {
		v, given := lookUp(members, name)
		if !given {
			continue
		}
		sec, ok := v.NumericDate()
		if !ok || time.Unix(sec, 0).After(now.Add(r.Leeway)) {
			return refusedAnswerNow(name)
		}
		if name == "iat" {
			set.IssuedAt = sec
		}
	}
	return nil
}

// clientSubject returns the subject of a token that stands for a client alone,
// or "" if there is none.
func (r *Rules) clientSubject(clientID string) string {
	if r.ClientSubject == "" || clientID == "" {
		return ""
	}
	return r.ClientSubject + clientID
}

// isClients reports whether a user's subject looks like one that clientSubject
// makes.
func (r *Rules) isClients(subject string) bool {
	return r.ClientSubject != "" && strings.HasPrefix(subject, r.ClientSubject)
}

// A use is what the members of an answer say about the kind of the token.
type use int

const (
	unsaid use = iota
	accessToken
	otherKind
)

// useOf reads the kind from the members in which servers write it. A token_type
// need not be Bearer: any word will do that does not name another kind. What is
// no word at all could name any.
func (r *Rules) useOf(members jose.Object, c Confirmation) use {
	said := unsaid
	for _, name := range []string{"token_use", "token_usage"} {
		v, given := lookUp(members, name)
		switch {
		case given && saysOtherUse(v):
			return otherKind
		case given:
			said = accessToken
		}
	}
	for _, name := range []string{"typ", "purpose", "token_type"} {
		v, given := lookUp(members, name)
		text, ok := v.Text()
		switch {
		case r.isOtherUse(v, c), given && !ok:
			return otherKind
		case name == "token_type" && text != "":
			said = accessToken
		}
	}
	return said
}

// signedType is the type of a signed introspection response (RFC 9701 section
// 5).
const signedType = "token-introspection+jwt"

// maxSignedAge is how old a signed response may be. It was made for us a moment
// ago.
const maxSignedAge = time.Minute

// CheckSigned checks a signed introspection response (RFC 9701 section 5) whose
// signature is good, and returns the answer in it and the response's own exp,
// if it has one. A failure of these checks is the server's fault.
func (r *Rules) CheckSigned(msg *jose.Message, audience string, now time.Time) (jose.Object, time.Time, error) {
	differs := func(check, expected, got string) (jose.Object, time.Time, error) {
		f := failure.New(failure.Protocol, "signed response: "+check)
		return jose.Object{}, time.Time{}, f.Differs(expected, got)
	}
	fault := func(check string) (jose.Object, time.Time, error) { return differs(check, "", "") }
	all := msg.Claims
	if name := ambiguous(all, append(slices.Clip(registered), "token_introspection")); name != "" {
		return fault("ambiguous " + name)
	}
	if iss, _ := all.Get("iss").Text(); iss != r.Issuer {
		return differs("iss", r.Issuer, failure.Address(iss))
	}
	if aud, ok := readAudience(all.Get("aud")); !ok || !slices.Contains(aud, audience) {
		return differs("aud", audience, "")
	}
	iat, ok := all.Get("iat").NumericDate()
	made := time.Unix(iat, 0)
	if !ok || made.After(now.Add(r.Leeway)) || made.Before(now.Add(-maxSignedAge)) {
		return fault("iat")
	}
	if nbf, given := lookUp(all, "nbf"); given {
		if sec, ok := nbf.NumericDate(); !ok || time.Unix(sec, 0).After(now.Add(r.Leeway)) {
			return fault("nbf")
		}
	}
	var expiry time.Time
	if exp, given := lookUp(all, "exp"); given {
		sec, ok := exp.NumericDate()
		if expiry = time.Unix(sec, 0); !ok || !now.Before(expiry) {
			return fault("exp")
		}
	}
	answer, ok := all.Get("token_introspection").Object()
	if !ok {
		return fault("token_introspection is missing or no object")
	}
	return answer, expiry, nil
}

// CheckSignedHeader applies the rules for a signed introspection response that
// need no key.
func (r *Rules) CheckSignedHeader(msg *jose.Message) error {
	switch {
	case !strings.EqualFold(msg.Type, signedType):
		return failure.New(failure.Protocol, "signed response: typ").Differs(signedType, shownType(typeOf(msg)))
	case !slices.Contains(r.Algorithms, msg.Algorithm):
		return failure.New(failure.Protocol, "signed response: alg").
			Differs(strings.Join(r.Algorithms, " "), msg.Algorithm)
	}
	return nil
}
