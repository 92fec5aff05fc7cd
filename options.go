package phantom

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/phantom-token/phantom/internal/jose"
)

// An Option configures a Middleware. It only records a value: [New] checks all
// of them together. If an argument is nil or empty, or the comment of an option
// refuses it, New returns a [*ConfigError] that names the option. If an option
// is given twice, the last one counts, except that [WithRequirements],
// [WithBinding] and [WithTrace] add up.
// A duration above 0 and below a millisecond is refused, because it is a number
// that lacks its unit: WithMaxTTL(60) means 60 nanoseconds. Functions and
// interfaces given to an option are called by many goroutines at once.
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

// config holds what the options said. The defaults are in defaults, not in its
// zero values.
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
	minter             Minter
	minterName         string // what minter.Issuer said
	minterKeys         KeySet
	clientSubject      string
	signedAudience     string
	exchangeEndpoint   string
	exchangeForm       url.Values
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
	bindings           []Binding
	store              Store
	storeSecret        []byte
	logger             *slog.Logger
	insecureHTTP       bool
	traces             []*Trace
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
// required. It must be an absolute https URL without query or fragment (RFC
// 8414 section 2), and is compared byte by byte with the iss claim (RFC 9068
// section 4). The endpoints that no option names come from its metadata, when
// they are first needed. These are looked for at each of its well-known URLs
// (RFC 8414 section 3, OpenID Connect Discovery) until one of them has them.
func WithIssuer(issuer string) Option {
	return with("WithIssuer", func(c *config) { c.issuer = issuer })
}

// WithAudience names this resource server as the aud claim does: a JWT must
// have at least one of the values (RFC 9068 section 4), byte by byte. It is
// required unless [WithoutAudienceCheck] is given. No value may be empty or
// have a control character.
func WithAudience(audience ...string) Option {
	audience = slices.Clone(audience)
	return with("WithAudience", func(c *config) { c.audience = audience })
}

// WithoutAudienceCheck accepts JWTs that are meant for other resource servers
// too. The operator of such a server can then use the tokens it receives here.
// It excludes [WithAudience].
func WithoutAudienceCheck() Option {
	return with("WithoutAudienceCheck", func(*config) {})
}

// WithIntrospectionEndpoint sets the URL of the introspection endpoint (RFC
// 7662). Default: the one in the issuer's metadata, or its alias there for
// [TLSClientAuth]. It must be absolute https.
func WithIntrospectionEndpoint(url string) Option {
	return with("WithIntrospectionEndpoint", func(c *config) { c.endpoint = url })
}

// WithJWKSURL sets the URL of the issuer's key set (RFC 7517). Default: the one
// in the issuer's metadata. It must be absolute https. It excludes
// [WithKeySet]. While there are no keys, because each fetch fails or the host
// asks to wait, the introspection endpoint is not asked.
func WithJWKSURL(url string) Option {
	return with("WithJWKSURL", func(c *config) { c.jwksURL = url })
}

// WithKeySet sets the keys that verify the JWTs: [StaticKeys], a go-oidc key
// set, or your own. It excludes [WithJWKSURL].
func WithKeySet(keys KeySet) Option {
	return with("WithKeySet", func(c *config) { c.keySet = keys })
}

// WithClientAuth sets how this service authenticates at the introspection
// endpoint and, for [WithTokenExchange], at the token endpoint. It is required
// unless [WithIntrospector] is given. If the endpoint wants no credentials, say
// so with [NoClientAuth].
func WithClientAuth(auth ClientAuth) Option {
	return with("WithClientAuth", func(c *config) { c.auth = auth })
}

// WithIntrospector replaces the client of RFC 7662. It excludes the options
// that configure that client: [WithIntrospectionEndpoint], [WithJSONResponse],
// [WithSignedResponse], [WithStrictCacheControl] and, unless the token endpoint
// is used too ([WithTokenExchange]), [WithClientAuth].
func WithIntrospector(introspector Introspector) Option {
	return with("WithIntrospector", func(c *config) { c.introspector = introspector })
}

// WithJSONResponse asks the introspection endpoint for application/json and
// takes the JWT from the member of the given name, such as "phantom_token";
// "active" is refused. Default: the Middleware asks for application/jwt and
// also understands JSON with a member phantom_token or jwt.
func WithJSONResponse(member string) Option {
	return with("WithJSONResponse", func(c *config) { c.member = member })
}

// WithAlgorithms restricts the signature algorithms of JWTs. Default, and all
// that there are: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384,
// ES512, EdDSA. Ed25519 is another name for EdDSA (RFC 9864), here and in JWTs
// and keys. Anything else, "none" and HMAC above all, is refused.
func WithAlgorithms(algorithms ...string) Option {
	algorithms = slices.Clone(algorithms)
	for i, alg := range algorithms {
		algorithms[i] = jose.Canonical(alg)
	}
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

// WithCacheSize bounds how many verified tokens are remembered, and separately
// how many inactive ones. Default: 10,000. 0 turns caching off, not coalescing;
// a negative size is refused. Without a cache no token is known, so junk that
// the authorization server fails on can keep out users: if that can happen, and
// nothing may be cached, set [WithMaxTTL] to 0 instead.
func WithCacheSize(n int) Option {
	return with("WithCacheSize", func(c *config) { c.cacheSize = n })
}

// WithMaxTTL bounds how long a verified token is remembered, and so how long a
// revocation can go unseen: a request that comes more than d after the
// authorization server began to call its token inactive is refused, unless
// [WithStaleIfError] permits more. Default: 60 s. A token is never remembered
// beyond its exp, the answer's exp, or the max-age that the server gave. 0
// turns caching off, of inactive tokens too: it is only remembered which tokens
// were good, so that they go before others. A negative duration is refused.
func WithMaxTTL(d time.Duration) Option {
	return with("WithMaxTTL", func(c *config) { c.maxTTL = d })
}

// WithNegativeTTL sets how long to remember that the authorization server
// called a token inactive, gave a JWT that is refused for what it is (such as
// its audience or its type), or gave none. Default: 5 s. 0 turns that off; a
// negative duration is refused. An outage is never remembered as a verdict.
func WithNegativeTTL(d time.Duration) Option {
	return with("WithNegativeTTL", func(c *config) { c.negativeTTL = d })
}

// WithStrictCacheControl obeys no-store and no-cache in the authorization
// server's answers (RFC 9111 section 5.2.2). Default: both are ignored,
// together with a max-age beside them, because nearly every server sends them
// as boilerplate. A max-age without them is always an upper bound.
func WithStrictCacheControl() Option {
	return with("WithStrictCacheControl", func(c *config) { c.strictCacheControl = true })
}

// WithRefreshAhead sets the share of its life after which a remembered token is
// looked up again. The next request that uses the token starts this lookup,
// once and in the background, so that no request waits when the entry runs out.
// Default: 0.8. 0 turns it off; a negative share, and 1 or more, are refused.
func WithRefreshAhead(fraction float64) Option {
	return with("WithRefreshAhead", func(c *config) { c.refreshAhead = fraction })
}

// WithStaleIfError lets a remembered token serve for d beyond its life (after
// RFC 5861 section 4) if its lookup got no answer: no connection, none in time,
// a 5xx other than 501, or what a router says in the server's place, such as
// 404. It also does while known tokens are known to get none. It does not if
// the server declines (400, 401, 403, 429, 501) or our own queue is full, never
// past the token's exp, and never after the server called it inactive. During
// an outage a revocation can go unseen for so much longer: also one of a
// [Minter] or of the token endpoint ([WithTokenExchange]), which the breaker
// does not tell from one of introspection. Default: off; a negative duration is
// refused.
func WithStaleIfError(d time.Duration) Option {
	return with("WithStaleIfError", func(c *config) { c.staleIfError = d })
}

// WithTimeout bounds one whole lookup for all who wait for it, including a
// retry and the fetching of keys. Default: 3 s; it must be positive.
func WithTimeout(d time.Duration) Option {
	return with("WithTimeout", func(c *config) { c.timeout = d })
}

// WithMaxInFlight bounds how many lookups may be at the authorization server at
// once. Default: 64; at least 1. For each of them 32 more may wait, and
// separately 32 for tokens that were verified before, which have priority but
// leave a quarter of the places to others. Requests beyond that are answered
// 503.
func WithMaxInFlight(n int) Option {
	return with("WithMaxInFlight", func(c *config) { c.maxInFlight = n })
}

// WithHTTPClient sets the client for requests to the authorization server. Only
// its transport is used: there are no redirects and no cookies, and the other
// options set the time limits. A client without a transport gets the default
// one, which uses no proxy, speaks HTTP/1.1, keeps as many connections as there
// may be lookups at once, and uses none for more than two minutes, so that a
// new address of the server is noticed. A transport of yours has its own
// bounds, and its idle connections stay open after a lookup that failed;
// [NewTransport] makes one to begin with.
func WithHTTPClient(client *http.Client) Option {
	return with("WithHTTPClient", func(c *config) { c.client = client })
}

// WithTokenExtractor replaces the reading of the Authorization field. An empty
// token without an error means that the request has none. An error that wraps
// [ErrUnavailable], such as that of a session store that is down, gives 503. An
// error that is not an [*Error] and wraps no Err variable of this package means
// a malformed request, status 400. So does a token of more than 16 KiB, or with
// anything but visible ASCII characters, or with a comma, a double quote or a
// backslash. Without an extractor, the token must be a b64token (RFC 6750
// section 2.1). The error's text is logged, up to 512 bytes, and never sent: it
// must not quote the token.
//
// The next handler gets the JWT in Authorization. The token stays where the
// extractor found it, and an inner handler of the same Middleware calls the
// extractor again. If a request has nothing but the JWT, the extractor should
// find no token.
func WithTokenExtractor(extract func(*http.Request) (string, error)) Option {
	return with("WithTokenExtractor", func(c *config) { c.extractor = extract })
}

// WithErrorHandler replaces the application/problem+json answer (RFC 9457) to
// rejected requests. It cannot let a request in.
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

// WithRequirements adds requirements for every token of this Middleware. They
// run before those of [Middleware.Require].
func WithRequirements(requirements ...Requirement) Option {
	requirements = slices.Clone(requirements)
	return with("WithRequirements", func(c *config) {
		c.requirements = append(c.requirements, requirements...)
	})
}

// WithLogger sets where the Middleware logs. Default: [slog.Default], asked for
// at each line. A logger with [slog.DiscardHandler] silences it.
//
// Requests that pass, and verdicts on a client (400, 401, 403), are logged at
// DEBUG; a JWT of the authorization server that a check refuses, and what is
// bridged, at WARN; a 5xx at ERROR; that a trouble is over at INFO. Above DEBUG
// there is one line in 10 s for each reason, detail and endpoint, and the next
// one says how many were left out. No line holds a token, a JWT, a secret, a
// subject, or the path of a request. docs/operating.md lists all lines.
func WithLogger(logger *slog.Logger) Option {
	return with("WithLogger", func(c *config) { c.logger = logger })
}

// WithInsecureHTTP permits plain http for the issuer and its endpoints. Anyone
// on the network path can then read tokens and substitute keys, and with
// [WithoutJWT], [WithMinter] or [WithTokenExchange] write identities, unless
// [WithSignedResponse] is given too. [New] logs that once, at WARN. Without
// this option, plain http is for the loopback interface only.
func WithInsecureHTTP() Option {
	return with("WithInsecureHTTP", func(c *config) { c.insecureHTTP = true })
}
