package phantom

import (
	"cmp"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/phantom-token/phantom/internal/claims"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/handoff"
	"github.com/phantom-token/phantom/internal/httpauth"
)

// A Binding checks that the sender of a request holds the key that its token is
// bound to (RFC 7800). Packages dpop and mtls make the two that are in use.
type Binding struct {
	// Method is the member of the token's cnf claim that the Binding is for:
	// "jkt" (RFC 9449) or "x5t#S256" (RFC 8705).
	Method string
	// Scheme is the authentication scheme that such tokens come under, "DPoP"
	// for example. They are then refused under Bearer, and other tokens are
	// refused under Scheme. Empty: they come under Bearer.
	Scheme string
	// Params are the parameters of the Scheme's challenge. Those that phantom
	// sets itself, and those that cannot be written, are left out.
	Params map[string]string
	// Required refuses tokens whose cnf lacks the member.
	Required bool
	// Fields are the request fields that the next handler must not see, such as
	// the one with the proof, in any spelling, and with underscores for hyphens
	// too, which CGI does not tell apart. No request brings them there, not even
	// an anonymous one or in a trailer.
	Fields []string
	// Check is called on every request whose verified token has the member, also
	// if the token comes from the cache. It runs after every check of the token
	// and before the requirements, at most once a request. token is what the
	// client sent, thumbprint the member's value: 43 characters, canonical
	// base64url of 32 bytes. Check must be safe for concurrent use, and must not
	// keep or log the token.
	//
	// An error refuses the request: an [*Error] as it says, one that wraps
	// [ErrUnavailable] with 503, [ErrUpstream] with 502, and any other with 401
	// and [ReasonBinding]. What Check says is never remembered.
	Check func(r *http.Request, token, thumbprint string) error
}

// WithBinding accepts tokens that are bound by the method of b and have it
// check each request. Given again, it adds up; the same method twice is
// refused. Default: a token with a cnf claim is refused, by 401.
//
// The cnf of the introspection answer and of the JWT count; if both have one,
// they must agree. Each confirmation method in it (RFC 7800 section 3, jkt and
// x5t#S256) needs a Binding, and all must hold; other members are ignored. With
// [WithMinter] and [WithTokenExchange] the answer's counts, and the JWT must
// have none. A token_type, or a claim typ, of DPoP is right for a token that
// comes under this Scheme.
//
// The challenge of a 400, 401 or 403 has a WWW-Authenticate field for each
// scheme. The first is that of the request, and the only one with the error. A
// Required Binding with a Scheme leaves out the one for Bearer.
//
// The next handler gets the JWT under Bearer. In the default mode it may still
// have a cnf; an upstream that insists on checking that cannot be served, since
// the proof covers the opaque token.
//
// [Middleware.Verify] sees no request, so it refuses bound tokens and, if a
// Binding is Required, every token. A Scheme excludes [WithTokenExtractor].
// [Dispatch] takes no Binding: its members do, and it reads all their schemes.
func WithBinding(b Binding) Option {
	b.Params, b.Fields = maps.Clone(b.Params), slices.Clone(b.Fields)
	return with("WithBinding", func(c *config) { c.bindings = append(c.bindings, b) })
}

// checkBindings checks the Bindings.
func (v *validator) checkBindings() {
	for i, b := range v.bindings {
		switch {
		case b.Method != claims.KeyThumbprint && b.Method != claims.CertificateThumbprint:
			v.fault("WithBinding", "the Method %q is neither jkt nor x5t#S256", b.Method)
		case slices.ContainsFunc(v.bindings[:i], func(o Binding) bool { return o.Method == b.Method }):
			v.fault("WithBinding", "the Method %q twice", b.Method)
		}
		if b.Check == nil {
			v.fault("WithBinding", "nil Check for the Method %q", b.Method)
		}
		switch {
		case b.Scheme == "":
		case !httpauth.IsToken(b.Scheme):
			v.fault("WithBinding", "the Scheme %q is no token of RFC 9110", b.Scheme)
		case strings.EqualFold(b.Scheme, httpauth.Bearer):
			v.fault("WithBinding", "the Scheme %q is the default one: leave it empty", b.Scheme)
		case v.given["WithTokenExtractor"]:
			v.fault("WithBinding", "the Scheme %q excludes WithTokenExtractor", b.Scheme)
		}
		for _, field := range b.Fields {
			if !httpauth.IsToken(field) {
				v.fault("WithBinding", "the Field %q is no token of RFC 9110", field)
			}
		}
	}
}

// bindings is what a Middleware makes of its Bindings, or a dispatcher of those
// of its members.
type bindings struct {
	all     []Binding // in the order in which they check; a dispatcher has none
	schemes []string  // beside Bearer
	proofs  handoff.Proofs
	offers  []offer // the one for requests without a scheme first
}

// An offer is a scheme that the challenges name, with parameters of its own.
type offer struct {
	scheme string
	params map[string]string
}

func newBindings(all []Binding) *bindings {
	b := &bindings{all: slices.Clone(all)}
	// What uses a proof up comes last.
	slices.SortStableFunc(b.all, func(x, y Binding) int {
		return cmp.Compare(min(len(x.Scheme), 1), min(len(y.Scheme), 1))
	})
	var required, optional []offer
	for _, one := range b.all {
		b.proofs = append(b.proofs, one.Fields...)
		switch {
		case one.Scheme == "":
			continue
		case one.Required:
			required = append(required, offer{one.Scheme, one.Params})
		default:
			optional = append(optional, offer{one.Scheme, one.Params})
		}
	}
	if len(required) == 0 {
		required = []offer{{scheme: httpauth.Bearer}}
	}
	b.addOffers(slices.Concat(required, optional))
	return b
}

// bindingsOf returns what a dispatcher needs of those of its members.
func bindingsOf(members []*Middleware) *bindings {
	b := &bindings{}
	var offers []offer
	for _, member := range members {
		b.proofs = append(b.proofs, member.bindings.proofs...)
		offers = append(offers, member.bindings.offers...)
	}
	// Bearer comes first wherever a token may come under it.
	slices.SortStableFunc(offers, func(x, y offer) int {
		switch bearer := httpauth.Bearer; {
		case x.scheme == y.scheme, x.scheme != bearer && y.scheme != bearer:
			return 0
		case x.scheme == bearer:
			return -1
		}
		return 1
	})
	b.addOffers(offers)
	return b
}

// addOffers offers each scheme once.
func (b *bindings) addOffers(offers []offer) {
	for _, o := range offers {
		if slices.ContainsFunc(b.offers, func(known offer) bool { return strings.EqualFold(known.scheme, o.scheme) }) {
			continue
		}
		b.offers = append(b.offers, o)
		if o.scheme != httpauth.Bearer {
			b.schemes = append(b.schemes, o.scheme)
		}
	}
}

// methods returns the scheme of each confirmation method that is checked.
func (b *bindings) methods() map[string]string {
	schemes := map[string]string{}
	for _, one := range b.all {
		schemes[one.Method] = one.Scheme
	}
	return schemes
}

// check decides whether the sender of a request may use the verified token,
// which came under the scheme. It runs at most once for a request, because it
// may use a proof up.
func (b *bindings) check(r *http.Request, tok *Token, token, scheme string) error {
	if err := b.checkScheme(tok, scheme); err != nil {
		return err
	}
	for _, one := range b.all {
		thumbprint := tok.confirmation().Thumbprint(one.Method)
		if thumbprint == "" {
			continue
		}
		if err := one.Check(r, token, thumbprint); err != nil {
			return unproven(err, token)
		}
	}
	return nil
}

// checkScheme refuses a token that lacks what is required, a bound token under
// a scheme that is not its own (RFC 9449 section 7.2), and an unbound one under
// any but Bearer.
func (b *bindings) checkScheme(tok *Token, scheme string) error {
	right, own := false, false
	for _, one := range b.all {
		isBound := tok.confirmation().Thumbprint(one.Method) != ""
		switch {
		case one.Required && !isBound:
			return failure.New(failure.Unproven, "not bound by "+one.Method)
		case isBound && one.Scheme != "":
			own, right = true, right || strings.EqualFold(one.Scheme, scheme)
		}
	}
	if !own {
		right = scheme == httpauth.Bearer
	}
	if !right {
		return failure.New(failure.Unproven, "scheme")
	}
	return nil
}

// checkWithoutRequest is check where there is no request that could prove
// anything.
func (b *bindings) checkWithoutRequest(tok *Token) error {
	for _, one := range b.all {
		if one.Required || tok.confirmation().Thumbprint(one.Method) != "" {
			return failure.New(failure.Unproven, "no request to check "+one.Method+" with")
		}
	}
	return nil
}

// schemeOf returns the scheme under which the token comes.
func (b *bindings) schemeOf(tok *Token) string {
	for _, one := range b.all {
		if one.Scheme != "" && tok.confirmation().Thumbprint(one.Method) != "" {
			return one.Scheme
		}
	}
	return httpauth.Bearer
}

// unproven makes a failure from the error of a Check, which had the token.
func unproven(err error, token string) error {
	const detail = "binding"
	var own *Error
	switch {
	case errors.As(err, &own):
		return translate(err, failure.Unproven, detail, token)
	case errors.Is(err, ErrUnavailable):
		return failure.New(failure.Unavailable, detail)
	case errors.Is(err, ErrUpstream):
		return failure.New(failure.Protocol, detail)
	}
	return failure.New(failure.Unproven, detail)
}

// verifySent verifies the token that a request brings under the scheme, and
// that the request's sender may use it.
func (m *Middleware) verifySent(r *http.Request, token, scheme string) (tok *Token, outcome Outcome, err error) {
	if tok, outcome, err = m.verify(r.Context(), token); err != nil {
		return nil, outcome, err
	}
	if b := tok.owner.bindings; len(b.all) > 0 || scheme != httpauth.Bearer {
		if err := b.check(r, tok, token, scheme); err != nil {
			return nil, outcome, m.log.about(r.Context(), tok.digest(), m.blame(tok.owner, err))
		}
	}
	return tok, outcome, nil
}

// usedScheme returns the scheme under which a request's token came: also of a
// request that an outer handler has handed on. It is empty if there is none.
func (m *Middleware) usedScheme(r *http.Request) string {
	if len(m.bindings.schemes) == 0 {
		return httpauth.Bearer
	}
	found := httpauth.Scan(r.Header)
	if tok, ok := FromContext(r.Context()); ok && m.vouchesFor(tok) && m.carriesOnly(r, found, tok) {
		return tok.owner.bindings.schemeOf(tok)
	}
	_, scheme, _ := httpauth.Token(found.Authorization, m.bindings.schemes)
	return scheme
}
