package phantom

import (
	"slices"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/jose"
)

// claimRules are the checks on a JWT whose signature is good.
type claimRules struct {
	issuer    string
	audience  []string // any of; empty: not checked
	leeway    time.Duration
	strict    bool // RFC 9068
	algorithm []string
}

// claimSet is what the checks read on their way.
type claimSet struct {
	subject, clientID, id, scope string
	audience                     []string
	expiry, issuedAt             int64 // seconds; issuedAt is 0 when absent
}

// registered are the claims that are given a meaning here.
var registered = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "azp", "scope", "cnf", "act", "token_use", "token_usage", "token_type",
}

// ambiguous returns the claim of which there is another spelling, if any. A JSON
// reader that folds case, such as encoding/json, would take "SUB" for "sub":
// what handlers decode must not differ from what was checked.
func ambiguous(claims jose.Object, names []string) string {
	for name := range claims.All() {
		for _, r := range names {
			if len(name) >= len(r) && name != r && strings.EqualFold(name, r) {
				return r
			}
		}
	}
	return ""
}

// checkHeader applies what can be judged before any key is looked at: the
// configured algorithms and the type of the JWT. Types are compared without
// case, as media types are (RFC 9068 section 2.1, RFC 7515 section 4.1.9).
func (c *claimRules) checkHeader(msg *jose.Message) *Error {
	if !slices.Contains(c.algorithm, msg.Algorithm) {
		return refused("alg")
	}
	switch strings.ToLower(msg.Type) {
	case "at+jwt", "application/at+jwt":
		return nil
	case "jwt":
		if !c.strict {
			return nil
		}
	case "":
		if !c.strict && !msg.Header.Get("typ").Exists() {
			return nil
		}
	}
	return refused("typ")
}

func refused(check string) *Error { return rejection(ReasonJWTRejected, check) }

// check applies the checks of RFC 9068 section 4 and RFC 7519 section 4.1 to
// the claims. The leeway widens each comparison with the clock; RFC 7519 wants
// it to be no more than a few minutes.
func (c *claimRules) check(msg *jose.Message, now time.Time) (*claimSet, *Error) {
	claims := msg.Claims
	if name := ambiguous(claims, registered); name != "" {
		return nil, refused("ambiguous " + name)
	}
	set := &claimSet{}
	if iss, ok := claims.Get("iss").Text(); !ok || iss != c.issuer {
		return nil, refused("iss")
	}
	var ok bool
	if set.audience, ok = readAudience(claims.Get("aud")); !ok || !c.forUs(set.audience) {
		return nil, refused("aud")
	}
	if err := c.checkTimes(claims, set, now); err != nil {
		return nil, err
	}
	if set.subject, ok = claims.Get("sub").Text(); !ok || set.subject == "" {
		return nil, refused("sub")
	}
	for _, optional := range []struct {
		name string
		to   *string
	}{{"client_id", &set.clientID}, {"jti", &set.id}} {
		v := claims.Get(optional.name)
		if *optional.to, ok = v.Text(); v.Exists() && !ok || c.strict && *optional.to == "" {
			return nil, refused(optional.name)
		}
	}
	if set.clientID == "" {
		set.clientID, _ = claims.Get("azp").Text() // OpenID's name, Keycloak's habit
	}
	if isBound(claims) {
		return nil, refused("cnf")
	}
	if kind := otherKind(msg); kind != "" {
		return nil, refused("not an access token: " + kind)
	}
	set.scope = readScope(claims.Get("scope"))
	return set, nil
}

func (c *claimRules) checkTimes(claims jose.Object, set *claimSet, now time.Time) *Error {
	var ok bool
	if set.expiry, ok = claims.Get("exp").NumericDate(); !ok {
		return refused("exp missing or out of range")
	}
	if c.expired(set.expiry, now) {
		return refused("exp")
	}
	if nbf := claims.Get("nbf"); nbf.Exists() {
		if sec, ok := nbf.NumericDate(); !ok || time.Unix(sec, 0).After(now.Add(c.leeway)) {
			return refused("nbf")
		}
	}
	iat := claims.Get("iat")
	if iat.Exists() {
		if set.issuedAt, ok = iat.NumericDate(); !ok || time.Unix(set.issuedAt, 0).After(now.Add(c.leeway)) {
			return refused("iat")
		}
	} else if c.strict {
		return refused("iat")
	}
	return nil
}

func (c *claimRules) expired(expiry int64, now time.Time) bool {
	return !now.Before(time.Unix(expiry, 0).Add(c.leeway))
}

// forUs reports whether the token is meant for this resource server (RFC 9068
// section 4).
func (c *claimRules) forUs(audience []string) bool {
	return len(c.audience) == 0 ||
		slices.ContainsFunc(audience, func(a string) bool { return slices.Contains(c.audience, a) })
}

// readAudience reads a string or an array of strings, without empty ones. ok
// is false for anything else; an absent claim is an empty audience.
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

// readScope reads the scope claim as a list separated by single spaces: a
// string (RFC 9068 section 2.2.3) or an array of strings, as some servers have
// it. Anything else is no scope at all.
func readScope(v jose.Value) string {
	list, ok := v.Texts()
	if !ok {
		text, _ := v.Text()
		list = strings.Split(text, " ")
	}
	list = slices.DeleteFunc(list, func(s string) bool { return s == "" || strings.Contains(s, " ") })
	return strings.Join(list, " ")
}

// isBound reports whether the claims tie the token to a key or certificate of
// the client (RFC 7800): such a token must not be taken as a plain bearer
// token (RFC 9449 section 7.2, RFC 8705 section 3).
func isBound(claims jose.Object) bool {
	cnf := claims.Get("cnf")
	return cnf.Exists() && !cnf.IsNull()
}

// otherKind names the kind of a JWT that is not an access token, as far as it
// can be told: by what servers write into it (Amazon's token_use, Keycloak's
// typ, Curity's purpose), and by the claims that only an ID token has. A nonce
// counts only without RFC 9068's type: some servers copied it into access
// tokens.
func otherKind(msg *jose.Message) string {
	claims := msg.Claims
	if use := claims.Get("token_use"); use.Exists() {
		if text, _ := use.Text(); text != "access" && text != "access_token" {
			return "token_use"
		}
	}
	for _, name := range []string{"typ", "purpose", "token_type"} {
		text, _ := claims.Get(name).Text()
		switch strings.ToLower(text) {
		case "id", "id_token", "refresh", "refresh_token", "offline", "offline_access", "logout", "dpop":
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

// checkAnswer compares the members of a JSON introspection answer (RFC 7662
// section 2.2) with the JWT that came with them. The server may have called a
// refresh token active, or sent somebody else's JWT.
func (c *claimRules) checkAnswer(answer *Introspection, set *claimSet, now time.Time) *Error {
	// Without leeway: the server has just called the token active.
	if !answer.Expiry.IsZero() && !now.Before(answer.Expiry) {
		return refused("introspection exp")
	}
	if len(answer.Claims) == 0 {
		return nil
	}
	members, err := jose.ParseObject(answer.Claims)
	if err != nil {
		return rejection(ReasonProtocol, "introspection claims: not strict JSON")
	}
	if name := ambiguous(members, append(slices.Clip(registered), "active")); name != "" {
		return protocolFault("introspection claims: ambiguous " + name)
	}
	if e := checkKind(members); e != nil {
		return e
	}
	for _, same := range []struct{ name, ours string }{{"sub", set.subject}, {"client_id", set.clientID}} {
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

// checkKind refuses an answer about another kind of token than a plain bearer
// access token. Servers call refresh tokens active too, and say so in
// different members.
func checkKind(members jose.Object) *Error {
	for _, name := range []string{"token_use", "token_usage"} {
		if v := members.Get(name); v.Exists() && !v.IsNull() {
			if text, _ := v.Text(); text != "access_token" && text != "access" {
				return refused("introspection " + name)
			}
		}
	}
	kind, _ := members.Get("token_type").Text()
	switch strings.ToLower(kind) {
	case "refresh_token", "refresh", "id_token", "dpop", "pop":
		return refused("introspection token_type")
	}
	if isBound(members) {
		return refused("introspection cnf")
	}
	return nil
}
