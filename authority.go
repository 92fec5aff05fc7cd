package phantom

import (
	"context"
	"net/http"
	"time"

	"github.com/phantom-token/phantom/internal/claims"
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
	ask             func(ctx context.Context, token string) (*introspection.Answer, error)
	verifySignature func(ctx context.Context, jwt string, msg *jose.Message) (*issuer.Key, error)
	ready           func() error // why no answer could be verified now, so that none is asked for
	rules           claims.Rules
	warm            []func(context.Context) error // what Warm fetches
}

func newAuthority(c *config, log *eventLog) *authority {
	a := &authority{
		gate:  gate.New(c.maxInFlight, c.timeout),
		ready: func() error { return nil },
		rules: claims.Rules{
			Issuer:     c.issuer,
			Audience:   c.audience,
			Leeway:     c.leeway,
			RFC9068:    c.rfc9068,
			Algorithms: c.algorithms,
		},
	}
	published := issuer.Config{
		Issuer:       c.issuer,
		InsecureHTTP: c.insecureHTTP,
		Certificate:  usesCertificate(c.auth),
		Timeout:      c.timeout,
		Upstream:     upstream.New(c.transport(), c.maxInFlight),
		Events:       issuer.Events{NotRenewed: log.notRenewed, KeysDropped: log.keysDropped},
	}
	metadata := issuer.NewMetadata(published)
	a.useIntrospection(c, published.Upstream, metadata)
	a.useKeys(c, published, metadata)
	return a
}

// useIntrospection chooses how to ask the server: through the caller's
// Introspector or with the client of RFC 7662.
func (a *authority) useIntrospection(c *config, up *upstream.Client, metadata *issuer.Metadata) {
	if c.introspector != nil {
		a.ask = func(ctx context.Context, token string) (*introspection.Answer, error) {
			return askWith(ctx, c.introspector, token)
		}
		return
	}
	endpoint := fixedURL(c.endpoint)
	if c.endpoint == "" {
		endpoint = metadata.IntrospectionEndpoint
		a.warm = append(a.warm, func(ctx context.Context) error {
			_, err := endpoint(ctx)
			return err
		})
	}
	client := &introspection.Client{
		Endpoint:     endpoint,
		Upstream:     up,
		Authenticate: forIssuer(c.auth, c.issuer).Authenticate,
		Member:       c.member,
		Strict:       c.strictCacheControl,
	}
	if c.member != "" {
		client.Format = introspection.JWTMember
	}
	a.ask = client.Ask
}

// useKeys chooses the keys: the caller's KeySet or the set that the issuer
// publishes.
func (a *authority) useKeys(c *config, published issuer.Config, metadata *issuer.Metadata) {
	if own, ok := c.keySet.(ownKeys); ok {
		a.verifySignature = func(_ context.Context, _ string, msg *jose.Message) (*issuer.Key, error) {
			return own.verify(msg)
		}
		return
	}
	if c.keySet != nil {
		a.verifySignature = func(ctx context.Context, jwt string, msg *jose.Message) (*issuer.Key, error) {
			return nil, verifyWith(ctx, c.keySet, jwt, msg)
		}
		return
	}
	jwksURL := fixedURL(c.jwksURL)
	if c.jwksURL == "" {
		jwksURL = metadata.JWKSURL
	}
	keys := issuer.NewKeys(published, jwksURL)
	a.verifySignature = func(ctx context.Context, _ string, msg *jose.Message) (*issuer.Key, error) {
		return keys.Verify(ctx, msg)
	}
	a.ready = keys.Unavailable
	a.warm = append(a.warm, keys.Fetch)
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

// verifyAnswer verifies the JWT of an active answer: its form, algorithm, type,
// signature and claims, in this order, and then what the answer says beside it.
// It returns the key that signed the JWT, or nil with a caller's KeySet.
func (a *authority) verifyAnswer(ctx context.Context, answer *introspection.Answer) (*issuer.Key, *claims.Set, error) {
	msg, err := jose.Parse(answer.JWT)
	if err != nil {
		return nil, nil, issuer.Refusal(err)
	}
	if err := a.rules.CheckHeader(msg); err != nil {
		return nil, nil, err
	}
	key, err := a.verifySignature(ctx, answer.JWT, msg)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	set, err := a.rules.Check(msg, now)
	if err != nil {
		return nil, nil, err
	}
	if err := a.rules.CheckAnswer(msg, set, answer.Members, answer.Expiry, now); err != nil {
		return nil, nil, err
	}
	return key, set, nil
}
