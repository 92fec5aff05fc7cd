package phantom

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unique"

	"github.com/phantom-token/phantom/internal/cache"
	"github.com/phantom-token/phantom/internal/claims"
	"github.com/phantom-token/phantom/internal/httpauth"
	"github.com/phantom-token/phantom/internal/issuer"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/packed"
)

// A Token is a verified JWT. Its signature, issuer, audience, times and type
// were checked before the Token was made. It is immutable and safe for
// concurrent use. Its methods return copies or values that cannot change. Only
// a Middleware makes one: the zero Token is of no use.
//
// A Token prints as a fixed text, so that it cannot end up in a log by
// accident. Where fmt cannot ask it, in an unexported field, its JWT is out of
// fmt's reach.
type Token struct { //nolint:recvcheck // String and Format are there for a copied Token too
	text             packed.Text          // the Authorization field, if any; the subject and the ID, unless they are long
	key              *issuer.Key          // nil: a key of a caller's KeySet, or none
	entry            *cache.Entry[*Token] // in the cache, or that would be; its key is the opaque token's digest
	owner            *Middleware
	common           unique.Handle[common]
	rare             *rare            // nil for most Tokens
	answer           *jose.Difference // the JSON members of the introspection answer, if any, less the claims
	expiry, issuedAt int64            // seconds since the epoch; 0: none
	claimTags        [2]claimTag      // of what it can be forgotten by
}

// rare holds what few Tokens have.
type rare struct {
	key          *issuer.Key // a second one: that of a signed answer beside the JWT's
	confirmation claims.Confirmation
}

// common holds what many Tokens share, once for all of them.
type common struct{ clientID, scope, audience string }

const bearerPrefix = httpauth.Bearer + " "

func newToken(owner *Middleware, d digest, v *verified, r *reply) *Token {
	set, prefix := v.set, bearerPrefix
	if r.JWT == "" {
		prefix = ""
	}
	// In one allocation, what a hit reads stands together.
	var made struct {
		entry cache.Entry[*Token]
		text  string
		token Token
	}
	t := &made.token
	made.entry = cache.NewEntry(d, t)
	*t = Token{
		text:     packed.New(&made.text, prefix, r.JWT, set.Subject, set.ID),
		entry:    &made.entry,
		common:   unique.Make(common{set.ClientID, set.Scope, strings.Join(set.Audience, "\x00")}),
		owner:    owner,
		key:      cmp.Or(v.keys[1], v.keys[0]),
		expiry:   v.exp,
		issuedAt: set.IssuedAt,
	}
	second := v.keys[0]
	if second == t.key {
		second = nil
	}
	if unbound := (claims.Confirmation{}); second != nil || set.Confirmation != unbound {
		t.rare = &rare{second, set.Confirmation}
	}
	if r.IsJSON {
		t.answer = r.Members.Minus(v.jwt)
	}
	sid, _ := set.All.Get("sid").Text()
	for i, claim := range owner.memory.claimsFor(set.Subject, sid) {
		t.claimTags[i] = tagOf(claim)
	}
	return t
}

// digest returns that of the opaque token.
func (t *Token) digest() digest { return t.entry.Key() }

// isRetired reports whether a key on which the Token rests has left the
// issuer's set.
func (t *Token) isRetired() bool { return t.key.Retired() || t.rare != nil && t.rare.key.Retired() }

// confirmation returns what the token is bound to.
func (t *Token) confirmation() claims.Confirmation {
	if t.rare == nil {
		return claims.Confirmation{}
	}
	return t.rare.confirmation
}

// header returns the value of the Authorization field; empty if there is no
// JWT.
func (t *Token) header() string {
	if t.text.IsBare() {
		return bearerPrefix + t.text.Field()
	}
	return t.text.Field()
}

// claims returns the claims of the JWT; none if there is no JWT.
func (t *Token) claims() jose.Object {
	if t.JWT() == "" {
		return jose.Object{}
	}
	payload, _ := t.payload() // it was verified
	all, _ := jose.ParseObject(payload)
	return all
}

// said returns a claim of what the Token speaks of: the answer in an answer
// mode, else the JWT.
func (t *Token) said(name string) string {
	all := t.claims()
	if t.answer != nil && t.owner.authority.answerMode {
		members, _ := t.answer.Plus(all) // it was parsed before
		all, _ = jose.ParseObject(members)
	}
	text, _ := all.Get(name).Text()
	return text
}

// payload returns the JWT's payload, or the answer if there is no JWT.
func (t *Token) payload() ([]byte, error) {
	if t.JWT() == "" && t.answer != nil {
		return t.answer.Plus(jose.Object{})
	}
	_, rest, _ := strings.Cut(t.JWT(), ".")
	segment, _, _ := strings.Cut(rest, ".")
	return base64.RawURLEncoding.DecodeString(segment)
}

// Subject returns the sub claim, or what [WithClientSubject] makes of a missing
// one. It is never empty. If it and the ID have more than 256 bytes, both are
// read from the JWT or the answer at each call.
func (t *Token) Subject() string {
	if t.text.HasNames() {
		return t.text.Subject()
	}
	if subject := t.said("sub"); subject != "" || t.owner == nil {
		return subject
	}
	return t.owner.authority.rules.ClientSubject + t.ClientID()
}

// Issuer returns the configured issuer, that of [WithIssuer], also when the JWT
// is a [Minter]'s.
func (t *Token) Issuer() string { return t.owner.authority.rules.Issuer }

// ClientID returns the client_id claim, or else azp; empty if the JWT has
// neither.
func (t *Token) ClientID() string { return t.common.Value().clientID }

// ID returns the jti claim; empty if the JWT has none.
func (t *Token) ID() string {
	if t.text.HasNames() {
		return t.text.ID()
	}
	return t.said("jti")
}

// Audience returns a copy of the aud claim.
func (t *Token) Audience() []string {
	joined := t.common.Value().audience
	if joined == "" {
		return nil
	}
	return strings.Split(joined, "\x00")
}

// Expiry returns the exp claim; of a JWT and the answer that it was supplied
// for, the earlier one. It is the zero time if neither has one, which only
// happens with [WithoutJWT].
func (t *Token) Expiry() time.Time {
	if t.expiry == 0 {
		return time.Time{}
	}
	return time.Unix(t.expiry, 0)
}

// IssuedAt returns the iat claim; the zero time if the JWT has none.
func (t *Token) IssuedAt() time.Time {
	if t.issuedAt == 0 {
		return time.Time{}
	}
	return time.Unix(t.issuedAt, 0)
}

// Scopes returns a copy of the scopes in the scope claim, or in scp if the JWT
// has no scope claim. Either is a string or an array (RFC 9068 section 2.2.3,
// Okta, Entra).
func (t *Token) Scopes() []string {
	scope := t.common.Value().scope
	if scope == "" {
		return nil
	}
	return strings.Split(scope, " ")
}

// withoutScopes returns a copy that has none.
func (t *Token) withoutScopes() *Token {
	own, shared := *t, t.common.Value()
	shared.scope = ""
	own.common = unique.Make(shared)
	return &own
}

// HasScope reports whether [Token.Scopes] has the given scope. It does not
// allocate.
func (t *Token) HasScope(scope string) bool {
	if scope == "" {
		return false
	}
	for rest := t.common.Value().scope; rest != ""; {
		var next string
		next, rest, _ = strings.Cut(rest, " ")
		if next == scope {
			return true
		}
	}
	return false
}

// Decode decodes the JWT's verified payload, or with [WithoutJWT] the members
// of the introspection answer, into v as [json.Unmarshal] does, except that a
// number in an interface value becomes a [json.Number] and keeps all its
// digits. Each call decodes a copy of its own.
//
// encoding/json folds the case of names: a field roles takes the claim "Roles"
// too. A JWT is therefore refused if two names in one of its objects are equal
// except for case, or if one of these claims is spelt in another case: the
// registered claims that phantom checks, scope, scp, roles, groups,
// entitlements, acr, amr, auth_time, email, may_act and authorization_details.
// Any other claim may come in a case that you do not expect.
func (t *Token) Decode(v any) error {
	payload, err := t.payload()
	if err != nil {
		return fmt.Errorf("phantom: payload: %w", err) // cannot happen: it was verified
	}
	return decodeJSON(payload, v)
}

// Introspection decodes the other members of a JSON introspection answer into
// v, as [Token.Decode] does. It returns an error if the answer had none, as a
// bare JWT has.
//
// These members are not signed, unless [WithSignedResponse] is given. Of them,
// sub and, if the JWT came with them, client_id agree with the JWT.
// Their names meet the same conditions as those of the JWT.
func (t *Token) Introspection(v any) error {
	if t.answer == nil {
		return errNoMembers
	}
	members, err := t.answer.Plus(t.claims())
	if err != nil {
		return fmt.Errorf("phantom: introspection: %w", err) // cannot happen: it was parsed before
	}
	return decodeJSON(members, v)
}

var errNoMembers = errors.New("phantom: the introspection answer has no JSON members")

func decodeJSON(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("phantom: claims: %w", err)
	}
	return nil
}

// JWT returns the verified JWT, for calls to other services. It is empty with
// [WithoutJWT].
func (t *Token) JWT() string { return strings.TrimPrefix(t.text.Field(), bearerPrefix) }

// SetAuthHeader sets r's Authorization field to the JWT. If there is none
// ([WithoutJWT]), it removes the field.
func (t *Token) SetAuthHeader(r *http.Request) {
	if r.Header == nil {
		r.Header = http.Header{}
	}
	if t.header() == "" {
		r.Header.Del("Authorization")
		return
	}
	r.Header["Authorization"] = []string{t.header()}
}

// String returns a fixed text in place of the token.
func (t Token) String() string { return "phantom.Token(redacted)" }

// Format writes a fixed text in place of the token, for every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue returns what is harmless to log: issuer, client and expiry.
func (t *Token) LogValue() slog.Value {
	if t == nil || t.owner == nil {
		return slog.StringValue("none")
	}
	attrs := []slog.Attr{slog.String("issuer", t.Issuer()), slog.String("client_id", t.ClientID())}
	if t.expiry != 0 {
		attrs = append(attrs, slog.Time("expiry", t.Expiry()))
	}
	return slog.GroupValue(attrs...)
}
