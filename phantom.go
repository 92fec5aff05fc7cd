// Package phantom swaps opaque access tokens for JWTs in net/http servers.
//
// A [Middleware] takes the bearer token of a request, has the authorization
// server swap it for a JWT at the introspection endpoint (RFC 7662), verifies
// that JWT, remembers the answer, and hands the request on with the JWT in the
// Authorization field and the verified [Token] in its context.
//
// It fails closed: a request reaches the next handler only with a token that
// was verified, by one path, whatever else goes wrong. A verdict on the token is
// answered 400, 401 or 403 with a challenge (RFC 6750); the absence of a
// verdict 502 or 503.
package phantom

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/phantom-token/phantom/internal/jose"
)

// A Middleware authenticates requests. Make one with [New]; it is immutable and
// safe for concurrent use, has no goroutine at rest, and needs no closing. The zero Middleware protects nothing, so it refuses to wrap
// a handler.
type Middleware struct {
	rules        claimRules
	introspector Introspector
	keys         KeySet
	cache        *cache
	flights      flights[*Token]
	breaker      *breaker
	extract      func(*http.Request) (string, error)
	requirements []Requirement
	rejecter     rejecter
	log          *eventLog
}

// New returns a Middleware. It does no I/O. If anything is wrong with the
// options, it returns all the mistakes at once, each a [*ConfigError], joined
// with [errors.Join].
func New(opts ...Option) (*Middleware, error) {
	c, err := readOptions(opts)
	if err != nil {
		return nil, err
	}
	client := newTransport(c.client, c.maxInFlight)
	m := &Middleware{
		rules: claimRules{
			issuer:    c.issuer,
			audience:  c.audience,
			leeway:    c.leeway,
			strict:    c.given["WithRFC9068"],
			algorithm: c.algorithms,
		},
		introspector: c.introspector,
		keys:         c.keySet,
		breaker:      newBreaker(c.maxInFlight, c.timeout),
		extract:      c.extractor,
		requirements: c.requirements,
		rejecter:     rejecter{realm: c.realm, resourceMetadata: c.resourceMetadata, handler: c.errorHandler},
		log:          &eventLog{logger: c.logger, issuer: c.issuer},
	}
	m.flights.timeout = c.timeout
	discovered := newDiscovery(c.issuer, c.given["WithInsecureHTTP"], c.timeout, client, m.log)
	clientID := ""
	if m.introspector == nil {
		auth := c.auth
		if ours, ok := auth.(*clientAuth); ok {
			own := *ours
			own.issuer = c.issuer
			auth, clientID = &own, own.id
		}
		endpoint := fixedURL(c.endpoint)
		if c.endpoint == "" {
			endpoint = discovered.introspectionEndpoint
		}
		m.introspector = &introspectionClient{
			endpoint: endpoint, client: client, auth: auth, member: c.member, strict: c.given["WithStrictCacheControl"],
		}
	}
	if m.keys == nil {
		jwksURL := fixedURL(c.jwksURL)
		if c.jwksURL == "" {
			jwksURL = discovered.jwksURL
		}
		m.keys = newRemoteKeys(c.timeout, client, jwksURL, m.log)
	}
	m.cache = newCache(c.cacheSize, cacheTimes{
		maxTTL: c.maxTTL, negativeTTL: c.negativeTTL, refreshAhead: c.refreshAhead, stale: c.staleIfError,
	}, c.issuer, c.endpoint, clientID, c.member)
	return m, nil
}

// Handler returns a handler that requires a token and hands requests on to
// next with the token's JWT in Authorization and the [Token] in the context.
// The request that next gets is a shallow copy with a header map of its own.
// It panics if m is nil or zero or next is nil.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return m.protect(next, (*Middleware).required, nil)
}

// Optional returns a handler that lets requests without any Authorization field
// pass as anonymous ones, without a [Token] in their context, an inherited one
// included; with [WithTokenExtractor], those in which the extractor finds no
// token either. Any other request must have a valid token, as with Handler. The
// answers vary with Authorization, and say so (RFC 9110 section 12.5.5); what
// else an extractor looks at is for the caller to say.
func (m *Middleware) Optional(next http.Handler) http.Handler {
	protected := m.protect(next, (*Middleware).optional, nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Authorization")
		protected.ServeHTTP(w, r)
	})
}

// RequireScopes returns a wrapper of handlers that requires a token with all of
// the scopes. It authenticates by itself unless an outer handler of m has done
// so. It panics if there are no scopes or one is not a scope-token (RFC 6749
// section 3.3).
func (m *Middleware) RequireScopes(scopes ...string) func(http.Handler) http.Handler {
	return m.Require(AllScopes(scopes...))
}

// Require returns a wrapper of handlers that requires a token that meets all of
// the requirements. It authenticates by itself unless an outer handler of m
// has done so, so that there is no order of wrapping that lets a request pass
// unchecked. Without requirements it is Handler. It panics if one is nil.
func (m *Middleware) Require(requirements ...Requirement) func(http.Handler) http.Handler {
	requirements = slices.Clone(requirements)
	for _, r := range requirements {
		if r == nil {
			panic("phantom: Require: nil Requirement")
		}
	}
	return func(next http.Handler) http.Handler { return m.protect(next, (*Middleware).required, requirements) }
}

// protect is the only place that calls next.
func (m *Middleware) protect(next http.Handler, identify func(*Middleware, *http.Request) (*Token, bool, error), requirements []Requirement) http.Handler {
	if m == nil || m.cache == nil {
		panic("phantom: a Middleware that New did not make protects nothing")
	}
	if next == nil {
		panic("phantom: nil next handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		admitted, err := m.admit(r, identify, requirements)
		if err != nil {
			rejected := asError(err, ReasonInternal, "")
			defer func() { m.log.rejected(r.Context(), rejected) }() // also when the error handler aborts
			rejected = m.rejecter.reject(w, r, rejected)
			return
		}
		next.ServeHTTP(w, admitted)
	})
}

// admit decides on a request and returns the one to hand on.
func (m *Middleware) admit(r *http.Request, identify func(*Middleware, *http.Request) (*Token, bool, error), requirements []Requirement) (admitted *http.Request, err error) {
	decided := false
	defer refusePanic(&decided, &err)
	tok, hit, err := identify(m, r)
	if err == nil && tok != nil {
		err = m.permits(tok, requirements)
	}
	if err != nil {
		err = asError(err, ReasonInternal, "")
	} else {
		m.log.admitted(r.Context(), tok, hit)
		admitted = m.forward(r, tok)
	}
	decided = true
	return admitted, err
}

// permits checks the requirements of the Middleware and those of the route.
func (m *Middleware) permits(tok *Token, requirements []Requirement) error {
	for _, set := range [2][]Requirement{m.requirements, requirements} {
		for _, requirement := range set {
			if err := requirement(tok); err != nil {
				return asError(err, ReasonScope, "requirement")
			}
		}
	}
	return nil
}

// required returns the request's token. One that an outer handler of this
// Middleware verified is good for the inner ones too.
func (m *Middleware) required(r *http.Request) (tok *Token, hit bool, err error) {
	if tok, ok := FromContext(r.Context()); ok && tok.owner == m && m.speaksFor(tok, r) {
		if m.rules.expired(tok.expiry, time.Now()) {
			return nil, false, refused("exp")
		}
		return tok, true, nil
	}
	token, err := m.token(r)
	if err != nil {
		return nil, false, err
	}
	return m.verify(r.Context(), token)
}

// optional returns no token for a request that has no Authorization field at
// all and in which the extractor, if there is one, finds none.
func (m *Middleware) optional(r *http.Request) (tok *Token, hit bool, err error) {
	if len(authorization(r.Header)) > 0 {
		return m.required(r)
	}
	if m.extract == nil {
		return nil, false, nil
	}
	// Only the extractor can say that there is no token; what is said of one
	// that there is never makes the request an anonymous one.
	token, err := m.token(r)
	switch {
	case errors.Is(err, ErrNoToken):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	return m.verify(r.Context(), token)
}

// Authenticate extracts and verifies the request's token and writes nothing.
// Behind a handler of m it returns the token that was verified there.
// The error is an [*Error]. Requirements given to [WithRequirements] apply.
func (m *Middleware) Authenticate(r *http.Request) (*Token, error) {
	return m.authenticate(func() (*Token, bool, error) { return m.required(r) })
}

// Verify verifies an opaque token, for servers other than net/http's. The
// error is an [*Error]. Requirements given to [WithRequirements] apply.
func (m *Middleware) Verify(ctx context.Context, token string) (*Token, error) {
	return m.authenticate(func() (*Token, bool, error) { return m.verify(ctx, token) })
}

// authenticate gives both the same protection that requests have.
func (m *Middleware) authenticate(identify func() (*Token, bool, error)) (verified *Token, err error) {
	decided := false
	defer refusePanic(&decided, &err)
	tok, _, err := identify()
	if err == nil {
		err = m.permits(tok, nil)
	}
	if err != nil {
		tok, err = nil, asError(err, ReasonInternal, "")
	}
	decided = true
	return tok, err
}

// token extracts the request's opaque token.
func (m *Middleware) token(r *http.Request) (string, error) {
	if m.extract == nil {
		return bearerToken(r.Header)
	}
	token, err := m.extract(r)
	switch {
	case err != nil:
		return "", asError(err, ReasonMalformedRequest, "token extractor")
	case token == "":
		return "", errNoField
	}
	return token, nil
}

// verify answers from the cache or looks the token up.
func (m *Middleware) verify(ctx context.Context, token string) (tok *Token, hit bool, err error) {
	if token == "" {
		return nil, false, errNoField
	}
	if err := checkTokenSyntax(token); err != nil {
		return nil, false, err
	}
	d := m.cache.digest(token)
	found := m.cache.get(d, m.cache.now())
	switch {
	case found.inactive:
		return nil, true, rejection(ReasonInactive, "")
	case found.token != nil && !found.stale:
		if found.refresh {
			generation := m.cache.generation(d)
			m.flights.start(ctx, flightKey(d, generation), m.lookup(d, generation, token, found))
		}
		return found.token, true, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, false, rejectionOf(ReasonUnavailable, "caller left", err)
	}
	generation := m.cache.generation(d)
	tok, err = m.flights.do(ctx, flightKey(d, generation), m.lookup(d, generation, token, found))
	if err != nil && found.stale && errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		// The server may have called it inactive meanwhile.
		if again := m.cache.get(d, m.cache.now()); again.token != nil {
			m.log.stale(ctx, asError(err, ReasonUnavailable, ""))
			return again.token, true, nil
		}
	}
	return tok, false, err
}

// lookup returns the flight that asks the authorization server about the token,
// of which the cache said what was found, and verifies and remembers what it
// says.
func (m *Middleware) lookup(d digest, generation uint64, token string, found finding) func(context.Context) (*Token, error) {
	return func(ctx context.Context) (*Token, error) {
		asked := m.cache.now()
		if !found.refresh {
			// A flight may have landed between our look at the cache and its end.
			switch again := m.cache.get(d, asked); {
			case again.inactive:
				return nil, rejection(ReasonInactive, "")
			case again.token != nil && !again.stale:
				return again.token, nil
			}
		}
		answer, err := m.breaker.do(ctx, found.known, func(ctx context.Context) (*Introspection, error) {
			asked = m.cache.now()
			return m.introspector.Introspect(ctx, token)
		})
		if err == nil && answer == nil {
			err = protocolFault("no answer of the Introspector")
		}
		if err == nil && !answer.Active {
			err = rejection(ReasonInactive, "")
		}
		if err != nil {
			e := asError(err, ReasonUnavailable, "Introspector")
			if e.Reason == ReasonInactive {
				m.cache.addInactive(d, generation, asked)
			} else if e.StatusCode() < 500 {
				m.cache.remove(d)
			}
			return nil, e
		}
		tok, e := m.judge(ctx, d, answer)
		if e != nil {
			if e.StatusCode() < 500 {
				m.cache.remove(d)
			}
			return nil, e
		}
		m.cache.add(d, generation, tok, asked, answer)
		return tok, nil
	}
}

// judge verifies the JWT of an answer: form, algorithm, type, signature,
// claims, in this order.
func (m *Middleware) judge(ctx context.Context, d digest, answer *Introspection) (*Token, *Error) {
	msg, err := jose.Parse(answer.JWT)
	if err != nil {
		return nil, asRefused(err)
	}
	if e := m.rules.checkHeader(msg); e != nil {
		return nil, e
	}
	key, err := m.verifySignature(ctx, answer.JWT, msg)
	if err != nil {
		return nil, asError(err, ReasonInternal, "")
	}
	now := time.Now()
	set, e := m.rules.check(msg, now)
	if e != nil {
		return nil, e
	}
	if e := m.rules.checkAnswer(answer, set, now); e != nil {
		return nil, e
	}
	return newToken(m, d, key, answer.JWT, set, answer.Claims), nil
}

// Forget drops what is remembered of an opaque token, for logout and
// revocation webhooks. A lookup that is under way is not remembered either.
func (m *Middleware) Forget(token string) { m.cache.forget(m.cache.digest(token)) }

// Purge is Forget for every token.
func (m *Middleware) Purge() { m.cache.purge() }

// Warm fetches the metadata and the key set, if they are to be fetched, so that
// the first request need not wait. It is optional. The error is an [*Error];
// requests fetch again what could not be fetched.
func (m *Middleware) Warm(ctx context.Context) error {
	if client, ok := m.introspector.(*introspectionClient); ok {
		if _, err := client.endpoint(ctx); err != nil {
			return asError(err, ReasonUnavailable, "metadata")
		}
	}
	if keys, ok := m.keys.(*remoteKeys); ok {
		if _, err := keys.get(ctx); err != nil {
			return keysUnavailable(err)
		}
	}
	return nil
}
