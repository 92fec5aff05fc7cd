package phantom

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/flight"
	"github.com/phantom-token/phantom/internal/handoff"
	"github.com/phantom-token/phantom/internal/httpauth"
	"github.com/phantom-token/phantom/internal/introspection"
)

// A Middleware authenticates requests. Make one with [New]. It is immutable and
// safe for concurrent use, runs no goroutine while idle, and needs no closing.
// The zero Middleware protects nothing, so it refuses to wrap a handler.
type Middleware struct {
	*parts // out of reach of fmt, which follows one pointer at most
}

type parts struct {
	authority    *authority // nil for a dispatcher, as memory and flights are
	digests      *digestKey
	memory       *memory
	shared       *replicas // nil: there is no Store
	flights      *flight.Group[*Token]
	dispatcher   *dispatcher // nil unless Dispatch made the Middleware
	extract      func(*http.Request) (string, error)
	requirements []Requirement
	bindings     *bindings
	rejecter     *rejecter
	log          *eventLog
	hooks        hooks
	counts       *counts
}

// New returns a Middleware. It does no I/O. If anything is wrong with the
// options, it returns all the mistakes at once, each a [*ConfigError], joined
// with [errors.Join].
func New(opts ...Option) (*Middleware, error) {
	c, err := readOptions(opts)
	if err != nil {
		return nil, err
	}
	log := &eventLog{logger: c.logger, issuer: c.issuer, named: c.asksForTokens()}
	if c.insecureHTTP && c.format() == introspection.Members {
		log.unprotected()
	}
	bindings := newBindings(c.bindings)
	m := &Middleware{&parts{
		authority:    newAuthority(c, bindings, log),
		digests:      c.digestKey(),
		memory:       newMemory(c),
		flights:      flight.New[*Token](c.timeout),
		extract:      c.extractor,
		requirements: c.requirements,
		bindings:     bindings,
		rejecter:     newRejecter(c, bindings.offers),
		log:          log,
		hooks:        newHooks(c.traces),
		counts:       &counts{},
	}}
	m.join(c)
	m.attach(c.traces)
	return m, nil
}

// Handler returns a handler that requires a token and hands requests on to next
// with the token's JWT in Authorization and the [Token] in the context. The
// request that next gets is a shallow copy with a header map of its own, in
// which Upgrade offers no h2c: it would bring requests that nobody has checked.
// When next returns or panics, the temporary files of a form that it parsed are
// removed, and r.Pattern is set if next was a mux and it was empty.
//
// The token is verified when the request comes. A handler that goes on for
// long, with a websocket or an event stream, lives past the token's expiry and
// past a revocation: end it at [Token.Expiry], or ask [Middleware.Verify]
// again.
//
// Handler panics if m is nil or zero or next is nil.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return m.protect(next, m.required, route{})
}

// Optional returns a handler that also lets anonymous requests pass. A request
// is anonymous if it has no Authorization field and, with [WithTokenExtractor],
// the extractor finds no token either. Its context has no [Token], not even an
// inherited one. Any other request must have a valid token, as with Handler.
// The answers vary with Authorization and say so (RFC 9110 section 12.5.5). If
// an extractor looks at other fields, the caller must name those in Vary.
// Optional panics as Handler does.
func (m *Middleware) Optional(next http.Handler) http.Handler {
	protected := m.protect(next, m.optional, route{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Authorization")
		protected.ServeHTTP(w, r)
	})
}

// RequireScopes returns a wrapper of handlers that requires a token with all of
// the scopes. It authenticates by itself unless an outer handler of m has done
// so. With [WithResourceMetadataURL], the challenge of a 401 names the scopes
// too. It panics if there are no scopes or one is not a scope-token (RFC 6749
// section 3.3).
func (m *Middleware) RequireScopes(scopes ...string) func(http.Handler) http.Handler {
	route := route{requirements: []Requirement{AllScopes(scopes...)}, scopes: slices.Clone(scopes)}
	return func(next http.Handler) http.Handler { return m.protect(next, m.required, route) }
}

// Require returns a wrapper of handlers that requires a token that meets all of
// the requirements. It authenticates by itself unless an outer handler of m has
// done so, so no order of wrapping lets a request pass unchecked. Without
// requirements it does what Handler does. It panics if one is nil.
func (m *Middleware) Require(requirements ...Requirement) func(http.Handler) http.Handler {
	requirements = slices.Clone(requirements)
	for _, r := range requirements {
		if r == nil {
			panic("phantom: Require: nil Requirement")
		}
	}
	route := route{requirements: requirements}
	return func(next http.Handler) http.Handler { return m.protect(next, m.required, route) }
}

// A route is what one handler demands beyond a token.
type route struct {
	requirements []Requirement
	scopes       []string // that the requirements are known to need
}

// An identifier finds the token that a request brings and verifies it. found is
// what r.Header has.
type identifier func(r *http.Request, found httpauth.Fields) (*Token, Outcome, error)

// protect is the only place that calls next.
func (m *Middleware) protect(next http.Handler, identify identifier, route route) http.Handler {
	if m == nil || m.parts == nil {
		panic("phantom: a Middleware that New did not make protects nothing")
	}
	if next == nil {
		panic("phantom: nil next handler")
	}
	rejecter := m.rejecter.forScopes(route.scopes)
	requirements := slices.Concat(m.requirements, route.requirements)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		way := handoff.New(r)
		defer way.End()
		admitted, tok, outcome, err := m.admit(r, identify, requirements)
		if err != nil {
			if admitted == nil { // else a Trace has been told, and panicked
				err = m.hooks.rejected(r.Context(), tok, outcome, err)
			}
			m.reject(w, r, rejecter, m.refuse(err))
			return
		}
		way.To(admitted)
		next.ServeHTTP(w, admitted)
	})
}

// admit decides on a request and returns the one to hand on.
func (m *Middleware) admit(
	r *http.Request, identify identifier, requirements []Requirement,
) (admitted *http.Request, tok *Token, outcome Outcome, err error) {
	decided := false
	defer failure.Recover(&decided, &err)
	found := httpauth.Scan(r.Header)
	tok, outcome, err = identify(r, found)
	if err == nil && tok != nil {
		err = m.permits(tok, requirements)
	}
	if err == nil {
		m.log.admitted(r.Context(), tok, outcome != OutcomeMiss)
		admitted = m.forward(r, tok, found)
		for _, told := range m.hooks.decided {
			told(r.Context(), Decision{Token: tok, Outcome: outcome})
		}
	}
	decided = true
	return admitted, tok, outcome, err
}

// forward returns the request for next: a copy with the token in its context
// and the JWT in Authorization. With a nil token the request is anonymous.
func (m *Middleware) forward(r *http.Request, tok *Token, found httpauth.Fields) *http.Request {
	ctx, authorization := newHandedOn(r.Context(), tok, m)
	if m.extract != nil {
		found = httpauth.Scan(r.Header) // what did the extractor leave of it?
	}
	return handoff.Copy(ctx, r, authorization, found, m.bindings.proofs)
}

// permits checks the requirements of the member that verified the token, if
// that is another Middleware, then own: those of m and of the route.
func (m *Middleware) permits(tok *Token, own []Requirement) error {
	var before []Requirement
	if tok.owner != m {
		before = tok.owner.requirements // of the member of a dispatcher
	}
	for i, requirement := range before {
		if err := requirement(tok); err != nil {
			return m.insufficient(tok, err, i, before, own)
		}
	}
	for i, requirement := range own {
		if err := requirement(tok); err != nil {
			return m.insufficient(tok, err, len(before)+i, before, own)
		}
	}
	return nil
}

// insufficient is the rejection by the i-th requirement of all in the sets.
func (m *Middleware) insufficient(tok *Token, err error, i int, sets ...[]Requirement) error {
	all := slices.Concat(sets...)
	return m.blame(tok.owner, refusal(tok, err, all[:i], all[i+1:]))
}

// required returns the request's token. A token that an outer handler of this
// Middleware verified serves the inner handlers too.
func (m *Middleware) required(r *http.Request, found httpauth.Fields) (*Token, Outcome, error) {
	tok, inside := r.Context().Value(contextKey{}).(*Token) // nil: NewContext hides one
	switch {
	case tok == nil || !m.vouchesFor(tok) || !m.carriesOnly(r, found, tok):
	case tok.expiry != 0 && tok.owner.authority.rules.Expired(tok.expiry, time.Now()):
		return nil, OutcomeNone, failure.New(failure.Refused, "exp")
	default:
		return tok, OutcomeNone, nil
	}
	token, scheme, err := m.token(r, found)
	switch {
	case err != nil:
		return nil, OutcomeNone, err
	case inside && m.isOfSibling(r.Context(), token):
		return nil, OutcomeNone, errOtherMember
	}
	return m.verifySent(r, token, scheme)
}

// carriesOnly reports whether the request brings no credentials except the
// token's own JWT or, with an extractor, the opaque token behind it. A request
// made with another request's context can bring different ones.
func (m *Middleware) carriesOnly(r *http.Request, found httpauth.Fields, tok *Token) bool {
	values := found.Authorization
	if len(values) > 1 || len(values) == 1 && (values[0] != tok.header() || tok.header() == "") {
		return false
	}
	if m.extract == nil {
		return true
	}
	token, _, err := m.token(r, found)
	if err != nil {
		return isAbsent(err)
	}
	return token == tok.JWT() || tok.owner.digests.of(token) == tok.digest()
}

// isAbsent reports whether the error says that a request has no token.
func isAbsent(err error) bool {
	return failure.Of(err).Class == failure.NoCredentials
}

// optional returns no token for a request that has no Authorization field at
// all and in which the extractor, if there is one, finds none. A token without
// a JWT, which an outer handler verified, left no field behind.
func (m *Middleware) optional(r *http.Request, found httpauth.Fields) (*Token, Outcome, error) {
	if len(found.Authorization) > 0 {
		return m.required(r, found)
	}
	if tok, ok := FromContext(r.Context()); ok && m.vouchesFor(tok) && tok.JWT() == "" && m.carriesOnly(r, found, tok) {
		return m.required(r, found)
	}
	if m.extract == nil {
		return nil, OutcomeNone, nil
	}
	// Only the extractor can say that there is no token. Once there is one, no
	// failure to verify it makes the request anonymous.
	token, scheme, err := m.token(r, found)
	switch {
	case err == nil && m.isOfSibling(r.Context(), token):
		return nil, OutcomeNone, errOtherMember
	case err == nil:
		return m.verifySent(r, token, scheme)
	case isAbsent(err):
		return nil, OutcomeNone, nil
	}
	return nil, OutcomeNone, err
}

// Authenticate extracts and verifies the request's token and writes nothing.
// Behind a handler of m it returns the token that was verified there. Otherwise
// it has each [Binding] check the request, which a proof passes once.
// The error is an [*Error]. Requirements given to [WithRequirements] apply.
func (m *Middleware) Authenticate(r *http.Request) (*Token, error) {
	return m.authenticate(func() (*Token, Outcome, error) { return m.required(r, httpauth.Scan(r.Header)) })
}

// Verify verifies an opaque token, for servers other than net/http's. The token
// must be a b64token (RFC 6750 section 2.1) or, with [WithTokenExtractor], what
// an extractor may return. The error is an [*Error]. Requirements given to
// [WithRequirements] apply. A bound token is refused: there is no request to
// check ([WithBinding]).
func (m *Middleware) Verify(ctx context.Context, token string) (*Token, error) {
	return m.authenticate(func() (*Token, Outcome, error) {
		tok, outcome, err := m.verify(ctx, token)
		if err == nil {
			err = m.blame(tok.owner, tok.owner.bindings.checkWithoutRequest(tok))
		}
		return tok, outcome, err
	})
}

// authenticate protects Authenticate and Verify from panics, as admit protects
// requests.
func (m *Middleware) authenticate(identify func() (*Token, Outcome, error)) (*Token, error) {
	tok, err := m.decide(identify)
	if err != nil {
		return nil, m.refuse(err)
	}
	return tok, nil
}

// decide is admit for callers that have no request to hand on.
func (m *Middleware) decide(identify func() (*Token, Outcome, error)) (tok *Token, err error) {
	decided := false
	defer failure.Recover(&decided, &err)
	if tok, _, err = identify(); err == nil {
		err = m.permits(tok, m.requirements)
	}
	decided = true
	return tok, err
}

// token extracts the request's opaque token and its scheme.
func (m *Middleware) token(r *http.Request, found httpauth.Fields) (token, scheme string, err error) {
	if m.extract == nil {
		return httpauth.Token(found.Authorization, m.bindings.schemes)
	}
	token, err = m.extract(r)
	switch {
	case errors.Is(err, ErrUnavailable):
		// Then it is no verdict on the request, even if it wraps one too.
		f := translate(err, failure.Unavailable, "token extractor", token)
		if !f.IsOutage() {
			f = &failure.Error{Class: failure.Unavailable, Detail: "token extractor", Wait: f.Wait, Facts: f.Facts}
		}
		return "", "", f
	case err != nil:
		return "", "", translate(err, failure.Malformed, "token extractor", token)
	case token == "":
		return "", "", httpauth.ErrNoToken
	}
	return token, httpauth.Bearer, nil
}

// TokenFromHeader returns the bearer token in the request's Authorization
// field. It is the default extractor, for a [WithTokenExtractor] that combines
// it with another place. The error is an [*Error]: one that wraps [ErrNoToken]
// if there is no field or it has another scheme, and one that wraps
// [ErrInvalidRequest] if it is malformed (RFC 6750 section 2.1) or repeated.
func TokenFromHeader(r *http.Request) (string, error) {
	token, _, err := httpauth.Token(httpauth.Scan(r.Header).Authorization, nil)
	if err == nil {
		err = httpauth.CheckToken(token)
	}
	if err != nil {
		return "", rejection(err)
	}
	return token, nil
}

// verify checks the token's form and has it resolved, by the member of a
// dispatcher that is responsible.
func (m *Middleware) verify(ctx context.Context, token string) (tok *Token, outcome Outcome, err error) {
	if err := httpauth.CheckSize(token); err != nil {
		return nil, OutcomeNone, err
	}
	at := time.Now() // first: a processor that still works on the digest would wait for it here
	d := m.digests.of(token)
	if m.dispatcher != nil {
		tok, outcome, err = m.dispatch(ctx, token, d)
	} else {
		tok, outcome, err = m.resolve(ctx, token, d, at, m.checkToken)
	}
	if err != nil {
		err = m.log.about(ctx, d, err)
	}
	return tok, outcome, err
}

func (m *Middleware) checkToken(token string) error {
	if m.extract != nil {
		return httpauth.CheckExtracted(token)
	}
	return httpauth.CheckToken(token)
}
