package phantom

import (
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/phantom-token/phantom/internal/jose"
)

// An Option configures a Middleware. It only records a value: [New] checks all
// of them together. For nil and empty arguments, and for whatever the comment
// of an option calls refused, New returns a [*ConfigError] that names it. An
// option given twice counts as given last, except [WithRequirements], which adds
// up. Functions and interfaces given to an option are called by many goroutines
// at once.
type Option interface{ apply(c *config) }

type option func(c *config)

func (o option) apply(c *config) { o(c) }

// with makes an Option that records a value and that it was given.
func with(name string, set func(c *config)) Option {
	return option(func(c *config) {
		c.given[name] = true
		set(c)
	})
}

// config holds what the options said. Its zero values are not the defaults:
// those are in defaults.
type config struct {
	given              map[string]bool // which options, for validate.go alone
	issuer             string
	audience           []string
	endpoint           string
	jwksURL            string
	keySet             KeySet
	auth               ClientAuth
	introspector       Introspector
	member             string
	algorithms         []string
	rfc9068            bool
	leeway             time.Duration
	cacheSize          int
	maxTTL             time.Duration
	negativeTTL        time.Duration
	strictCacheControl bool
	refreshAhead       float64
	staleIfError       time.Duration
	timeout            time.Duration
	maxInFlight        int
	client             *http.Client
	extractor          func(*http.Request) (string, error)
	errorHandler       ErrorHandler
	realm              string
	resourceMetadata   string
	requirements       []Requirement
	logger             *slog.Logger
	insecureHTTP       bool
}

func defaults() *config {
	return &config{
		given:        map[string]bool{},
		algorithms:   jose.Algorithms(),
		leeway:       10 * time.Second,
		cacheSize:    10_000,
		maxTTL:       time.Minute,
		negativeTTL:  5 * time.Second,
		refreshAhead: 0.8,
		timeout:      3 * time.Second,
		maxInFlight:  64,
		realm:        "api",
	}
}

// WithIssuer names the authorization server that issues the JWTs. It is
// required, is compared byte by byte with the iss claim (RFC 9068 section 4),
// and must be an absolute https URL without query or fragment (RFC 8414
// section 2). Endpoints that no option names are found in its metadata when
// they are first needed.
func WithIssuer(issuer string) Option {
	return with("WithIssuer", func(c *config) { c.issuer = issuer })
}

// WithAudience names this resource server as the aud claim does: a JWT must
// have at least one of the values (RFC 9068 section 4), byte by byte. It is
// required unless [WithoutAudienceCheck] is given. No value may be empty.
func WithAudience(audience ...string) Option {
	audience = slices.Clone(audience)
	return with("WithAudience", func(c *config) { c.audience = audience })
}

// WithoutAudienceCheck accepts JWTs that are meant for other resource servers
// too. Whoever runs one of those can then use the tokens it receives here.
func WithoutAudienceCheck() Option {
	return with("WithoutAudienceCheck", func(*config) {})
}

// WithIntrospectionEndpoint sets the URL of the introspection endpoint (RFC
// 7662). Default: the one in the issuer's metadata. It must be absolute https.
func WithIntrospectionEndpoint(url string) Option {
	return with("WithIntrospectionEndpoint", func(c *config) { c.endpoint = url })
}

// WithJWKSURL sets the URL of the issuer's key set (RFC 7517). Default: the one
// in the issuer's metadata. It must be absolute https. It excludes
// [WithKeySet].
func WithJWKSURL(url string) Option {
	return with("WithJWKSURL", func(c *config) { c.jwksURL = url })
}

// WithKeySet sets the keys that verify the JWTs: [StaticKeys], a go-oidc key
// set, or your own. It excludes [WithJWKSURL].
func WithKeySet(keys KeySet) Option {
	return with("WithKeySet", func(c *config) { c.keySet = keys })
}

// WithClientAuth sets how this service authenticates at the introspection
// endpoint. It is required unless [WithIntrospector] is given; for an endpoint
// that wants no credentials say so with [NoClientAuth].
func WithClientAuth(auth ClientAuth) Option {
	return with("WithClientAuth", func(c *config) { c.auth = auth })
}

// WithIntrospector replaces the client of RFC 7662. It excludes the options
// that configure that client: [WithIntrospectionEndpoint], [WithClientAuth],
// [WithJSONResponse] and [WithStrictCacheControl].
func WithIntrospector(introspector Introspector) Option {
	return with("WithIntrospector", func(c *config) { c.introspector = introspector })
}

// WithJSONResponse asks the introspection endpoint for application/json, with
// the JWT in the member of the given name, such as "phantom_token"; "active" is
// refused. Default: application/jwt is asked for, and JSON with a member
// phantom_token or jwt is understood as well.
func WithJSONResponse(member string) Option {
	return with("WithJSONResponse", func(c *config) { c.member = member })
}

// WithAlgorithms restricts the signature algorithms of JWTs. Default, and all
// that there are: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384,
// ES512, EdDSA. Anything else, "none" and HMAC above all, is refused.
func WithAlgorithms(algorithms ...string) Option {
	algorithms = slices.Clone(algorithms)
	return with("WithAlgorithms", func(c *config) { c.algorithms = algorithms })
}

// WithRFC9068 demands JWTs that follow RFC 9068 to the letter: of type at+jwt,
// with client_id, iat and jti. Default: the type may also be JWT or absent,
// and these claims may be missing.
func WithRFC9068() Option {
	return with("WithRFC9068", func(c *config) { c.rfc9068 = true })
}

// WithLeeway sets how far the clocks of the authorization server and of this
// machine may differ when exp, nbf and iat are checked. Default: 10 s; at most
// 5 min, and not negative. It never lengthens the life of a cached token.
func WithLeeway(d time.Duration) Option {
	return with("WithLeeway", func(c *config) { c.leeway = d })
}

// WithCacheSize sets how many verified tokens are remembered at most, and as
// many inactive ones beside them. Default: 10,000. 0 turns caching off, not
// coalescing; a negative size is refused.
func WithCacheSize(n int) Option {
	return with("WithCacheSize", func(c *config) { c.cacheSize = n })
}

// WithMaxTTL sets how long a verified token is remembered at most, which is the
// longest that a revocation can go unseen. Default: 60 s. A token is never
// remembered beyond its exp, the answer's exp, or the max-age that the server
// gave. 0 turns caching off; a negative duration is refused.
func WithMaxTTL(d time.Duration) Option {
	return with("WithMaxTTL", func(c *config) { c.maxTTL = d })
}

// WithNegativeTTL sets how long the authorization server's word that a token is
// inactive is remembered. Default: 5 s. 0 turns that off; a negative duration
// is refused. An outage is never remembered as a verdict.
func WithNegativeTTL(d time.Duration) Option {
	return with("WithNegativeTTL", func(c *config) { c.negativeTTL = d })
}

// WithStrictCacheControl obeys no-store and no-cache in the authorization
// server's answers (RFC 9111 section 5.2.2). Default: these are taken for the
// boilerplate that nearly every server sends, and ignored together with a
// max-age beside them; a max-age without them is always an upper bound.
func WithStrictCacheControl() Option {
	return with("WithStrictCacheControl", func(c *config) { c.strictCacheControl = true })
}

// WithRefreshAhead sets the share of its life after which a remembered token is
// looked up again by the next request that uses it, in the background and
// once, so that nobody waits when it runs out. Default: 0.8. 0 turns it off;
// otherwise it must be between 0 and 1.
func WithRefreshAhead(fraction float64) Option {
	return with("WithRefreshAhead", func(c *config) { c.refreshAhead = fraction })
}

// WithStaleIfError lets a remembered token serve for d beyond its life while
// the authorization server is unavailable (after RFC 5861 section 4): never
// past its exp, never after the server called it inactive. It lengthens the
// time that a revocation can go unseen during an outage. Default: off; a
// negative duration is refused.
func WithStaleIfError(d time.Duration) Option {
	return with("WithStaleIfError", func(c *config) { c.staleIfError = d })
}

// WithTimeout bounds one whole lookup, a retry and the fetching of keys
// included, for all who wait for it. Default: 3 s; it must be positive.
func WithTimeout(d time.Duration) Option {
	return with("WithTimeout", func(c *config) { c.timeout = d })
}

// WithMaxInFlight sets how many lookups may be at the authorization server at
// once. Default: 64; at least 1. For each of them 32 more may wait, and apart
// from these 32 of tokens that were verified before, which go first; beyond
// that, requests are answered 503.
func WithMaxInFlight(n int) Option {
	return with("WithMaxInFlight", func(c *config) { c.maxInFlight = n })
}

// WithHTTPClient sets the client for requests to the authorization server. Only
// its transport is used: no redirects, no cookies, and time limits are those of
// the other options. A client without a transport gets the default one, which uses no proxy, speaks
// HTTP/1.1 and keeps as many connections as there may be lookups at once. A
// transport of yours has its own bounds; the example of
// [TLSClientAuth] has sensible ones.
func WithHTTPClient(client *http.Client) Option {
	return with("WithHTTPClient", func(c *config) { c.client = client })
}

// WithTokenExtractor replaces the reading of the Authorization field. An empty
// token without an error means that the request has none. An error that is not
// an [*Error] and wraps none of this package's is a malformed request, status
// 400. The token must be a b64token (RFC 6750 section 2.1). Next gets the JWT in
// Authorization; the token stays where the extractor found it, and an inner
// handler of the same Middleware looks for it again, so that an extractor is to
// say of a request with nothing but the JWT that it has no token.
func WithTokenExtractor(extract func(*http.Request) (string, error)) Option {
	return with("WithTokenExtractor", func(c *config) { c.extractor = extract })
}

// WithErrorHandler replaces the application/problem+json answer (RFC 9457) to
// rejected requests. It cannot let one in.
func WithErrorHandler(handler ErrorHandler) Option {
	return with("WithErrorHandler", func(c *config) { c.errorHandler = handler })
}

// WithRealm sets the realm of challenges (RFC 9110 section 11.5). Default:
// "api". It must be visible ASCII characters and spaces, and not empty.
func WithRealm(realm string) Option {
	return with("WithRealm", func(c *config) { c.realm = realm })
}

// WithResourceMetadataURL adds the resource_metadata attribute (RFC 9728
// section 5.1) to challenges. It must be an absolute https URL. Default: none.
func WithResourceMetadataURL(url string) Option {
	return with("WithResourceMetadataURL", func(c *config) { c.resourceMetadata = url })
}

// WithRequirements adds requirements for every token of this Middleware,
// before those of [Middleware.Require].
func WithRequirements(requirements ...Requirement) Option {
	requirements = slices.Clone(requirements)
	return with("WithRequirements", func(c *config) {
		c.requirements = append(c.requirements, requirements...)
	})
}

// WithLogger sets where the Middleware logs. Default: nowhere. Requests are
// logged at DEBUG, the client's faults at INFO, everything an operator must
// know at WARN and ERROR. What ends in a 5xx has one line in 10 s for each
// cause; a JWT that a check refuses, at ERROR, has one each time. No line holds
// a token, a JWT or a secret.
func WithLogger(logger *slog.Logger) Option {
	return with("WithLogger", func(c *config) { c.logger = logger })
}

// WithInsecureHTTP permits plain http for the issuer and its endpoints. Whoever
// is on the way then reads tokens and puts in keys of their own. Without it
// plain http is for the loopback interface only.
func WithInsecureHTTP() Option {
	return with("WithInsecureHTTP", func(c *config) { c.insecureHTTP = true })
}
