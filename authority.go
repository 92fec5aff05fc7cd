package phantom

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/claims"
	"github.com/phantom-token/phantom/internal/exchange"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/gate"
	"github.com/phantom-token/phantom/internal/introspection"
	"github.com/phantom-token/phantom/internal/issuer"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/upstream"
)

// An authority is one authorization server: the gate in front of it, the way to
// ask it, and the keys and rules that verify its JWTs.
type authority struct {
	gate            *gate.Gate
	ask             func(ctx context.Context, token string) (*introspection.Answer, error) // nil: the token is the JWT
	answerMode      bool                                                                   // the answer itself is judged
	signedAudience  string                                                                 // of signed answers; empty: answers are not signed
	supply          supplier                                                               // of the JWT in an answer mode; nil: there is none
	rules           claims.Rules
	verifySignature signatures // with the server's keys
	jwtRules        claims.Rules
	jwtSignature    signatures                    // of the JWTs that are handed on
	logoutSignature signatures                    // of logout tokens, with the server's keys
	keys            *issuer.Keys                  // the server's; nil: not used
	clientID        string                        // empty: not known
	ready           func() error                  // why no answer could be verified now, so that none is asked for
	timeout         time.Duration                 // of a lookup
	outage          atomic.Pointer[failure.Error] // what the last lookup met; nil: an answer
	place           atomic.Pointer[failure.Facts] // the introspection endpoint, once it is known
	warm            []func(context.Context) error // what Warm fetches
}

// signatures verifies the signature of a JWT. It returns the key that fits, or
// nil for a caller's KeySet.
type signatures func(ctx context.Context, jwt string, msg *jose.Message) (*issuer.Key, error)

func newAuthority(c *config, bindings *bindings, log *eventLog) *authority {
	a := &authority{
		gate:           gate.New(c.maxInFlight, c.timeout),
		answerMode:     c.answerMode(),
		signedAudience: c.signedAudience,
		ready:          func() error { return nil },
		timeout:        c.timeout,
		rules: claims.Rules{
			Issuer:        c.issuer,
			Audience:      c.audience,
			Leeway:        c.leeway,
			RFC9068:       c.rfc9068,
			Algorithms:    c.algorithms,
			ClientSubject: c.clientSubject,
			Schemes:       bindings.methods(),
		},
	}
	published := issuer.Config{
		Issuer:       c.issuer,
		InsecureHTTP: c.insecureHTTP,
		Certificate:  usesCertificate(c.auth),
		Timeout:      c.timeout,
		Upstream:     upstream.New(c.transport(), c.maxInFlight),
		Events: issuer.Events{
			NotRenewed: log.notRenewed, Again: log.documentAgain, KeysDropped: log.keysDropped,
		},
	}
	a.gate.Opened = func(lasted time.Duration) { log.again(msgAnswersAgain, lasted, a.where()...) }
	metadata := issuer.NewMetadata(published)
	a.useIntrospection(c, published.Upstream, metadata)
	if c.usesServerKeys() {
		a.useKeys(c, published, metadata)
	}
	a.useLogoutKeys(c, published)
	if own, ok := c.auth.(*clientAuth); ok {
		a.clientID = own.id
	}
	a.useSource(c, published.Upstream, metadata)
	return a
}

// useIntrospection chooses how to ask the server: through the caller's
// Introspector or with the client of RFC 7662.
func (a *authority) useIntrospection(c *config, up *upstream.Client, metadata *issuer.Metadata) {
	if c.given["WithoutIntrospection"] {
		return
	}
	if c.introspector != nil {
		a.ask = func(ctx context.Context, token string) (*introspection.Answer, error) {
			return askWith(ctx, c.introspector, token)
		}
		return
	}
	client := &introspection.Client{
		Endpoint:     a.placed(a.endpoint(c.endpoint, metadata, issuer.IntrospectionEndpoint)),
		Upstream:     up,
		Authenticate: forIssuer(c.auth, c.issuer).Authenticate,
		Format:       c.format(),
		Member:       c.member,
		Strict:       c.strictCacheControl,
		Rules:        &a.rules,
	}
	a.ask = client.Ask
}

// useKeys chooses the server's keys: the caller's KeySet or the set that the
// issuer publishes.
func (a *authority) useKeys(c *config, published issuer.Config, metadata *issuer.Metadata) {
	if c.keySet != nil {
		a.verifySignature = callersKeys(c.keySet)
		return
	}
	jwksURL := fixedURL(c.jwksURL)
	if c.jwksURL == "" {
		jwksURL = metadata.Endpoint(issuer.JWKSURI)
	}
	keys := issuer.NewKeys(published, jwksURL)
	a.verifySignature = publishedKeys(keys)
	a.keys, a.ready = keys, keys.Unavailable
	a.warm = append(a.warm, keys.Fetch)
}

// useLogoutKeys chooses the server's keys for logout tokens. Anybody can send
// one: that its key is unknown must not put off when the keys of access tokens
// are fetched. So it has a key set of its own, and metadata that nothing else
// may need. Neither is fetched before the first logout token comes.
func (a *authority) useLogoutKeys(c *config, published issuer.Config) {
	switch {
	case c.keySet != nil:
		a.logoutSignature = callersKeys(c.keySet)
	case c.jwksURL != "":
		a.logoutSignature = publishedKeys(issuer.NewKeys(published, fixedURL(c.jwksURL)))
	default:
		jwksURL := issuer.NewMetadata(published).Endpoint(issuer.JWKSURI)
		a.logoutSignature = publishedKeys(issuer.NewKeys(published, jwksURL))
	}
}

// publishedKeys verifies signatures with the keys that the issuer publishes.
func publishedKeys(keys *issuer.Keys) signatures {
	return func(ctx context.Context, _ string, msg *jose.Message) (*issuer.Key, error) {
		return keys.Verify(ctx, msg)
	}
}

// useSource chooses where the JWT comes from, and what verifies it.
func (a *authority) useSource(c *config, up *upstream.Client, metadata *issuer.Metadata) {
	a.jwtRules, a.jwtSignature = a.rules, a.verifySignature
	if !a.answerMode {
		return
	}
	a.rules.RFC9068, a.jwtRules.ClientSubject = false, ""
	a.jwtRules.Schemes = nil  // it is for the upstream, which gets no proof
	a.jwtRules.Audience = nil // the business of those who get the JWT
	switch {
	case c.minter != nil:
		a.supply = mintWith(c.minter)
		if c.minterKeys != nil {
			a.jwtRules.Issuer, a.jwtSignature = c.minterName, callersKeys(c.minterKeys)
		}
	case c.given["WithTokenExchange"]:
		a.supply = exchangeWith(&exchange.Client{
			Endpoint:     a.endpoint(c.exchangeEndpoint, metadata, issuer.TokenEndpoint),
			Upstream:     up,
			Authenticate: forIssuer(c.auth, c.issuer).Authenticate,
			Form:         c.exchangeForm,
		})
	}
}

// endpoint returns the URL function for an endpoint: the configured one, or the
// one in the metadata, which Warm then fetches.
func (a *authority) endpoint(
	configured string, metadata *issuer.Metadata, name string,
) func(context.Context) (string, error) {
	if configured != "" {
		return fixedURL(configured)
	}
	discovered := metadata.Endpoint(name)
	a.warm = append(a.warm, func(ctx context.Context) error {
		_, err := discovered(ctx)
		return err
	})
	return discovered
}

// fixedURL returns the URL function for an endpoint that needs no discovery.
func fixedURL(url string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return url, nil }
}

// transport returns the transport of the caller's client. The client itself
// would follow redirects and keep cookies.
func (c *config) transport() http.RoundTripper {
	if c.client == nil {
		return nil
	}
	return c.client.Transport
}

// What is verified of a reply makes a Token.
type verified struct {
	set  *claims.Set    // what the Token says
	jwt  jose.Object    // the claims of the JWT, if there is one
	exp  int64          // the earliest exp; 0: none
	keys [2]*issuer.Key // on which all this rests; nil: a key of a caller's KeySet
}

// verifyReply verifies the JWT of a reply, if there is to be one. In an answer
// mode a JWT that fails is not the token's fault, which passed every check.
func (a *authority) verifyReply(ctx context.Context, r *reply) (*verified, error) {
	v := &verified{set: r.claims, keys: [2]*issuer.Key{r.signedBy}}
	switch {
	case r.noKeys != nil:
		return nil, r.noKeys
	case r.claims != nil && a.supply == nil:
		v.exp = r.claims.Expiry
		return v, nil
	}
	key, set, err := a.verifyJWT(ctx, r)
	if err == nil && r.claims != nil && set.Subject != r.claims.Subject {
		err = &failure.Error{Class: failure.Refused, Detail: "sub", Lasting: true}
	}
	switch {
	case err != nil && r.claims != nil:
		return nil, blamed(err, failure.Protocol, "supplied JWT: ")
	case err != nil && a.ask == nil:
		return nil, blamed(err, failure.RefusedToken, "")
	case err != nil:
		return nil, err
	}
	v.jwt, v.exp, v.keys[1] = set.All, set.Expiry, key
	if r.claims == nil {
		v.set = set
	} else if exp := r.claims.Expiry; exp != 0 {
		v.exp = min(exp, v.exp)
	}
	return v, nil
}

// verifyJWT verifies the JWT of a reply: its form, algorithm, type, signature
// and claims, in this order, and then what a JSON answer says beside it. It
// returns the key that signed the JWT, or nil for one of a caller's KeySet.
func (a *authority) verifyJWT(ctx context.Context, r *reply) (*issuer.Key, *claims.Set, error) {
	msg, err := jose.Parse(r.JWT)
	if err != nil && a.ask == nil {
		return nil, nil, &failure.Error{Class: failure.RefusedToken, Detail: "form", Lasting: true}
	}
	if err != nil {
		return nil, nil, issuer.Refusal(err)
	}
	if err := a.jwtRules.CheckHeader(msg); err != nil {
		return nil, nil, err
	}
	key, err := a.jwtSignature(ctx, r.JWT, msg)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	set, err := a.jwtRules.Check(msg, now)
	if err != nil || r.claims != nil {
		return key, set, err
	}
	if err := a.rules.CheckAnswer(msg, set, r.Members, r.Expiry, now); err != nil {
		return nil, nil, err
	}
	return key, set, nil
}
