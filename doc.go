// Package phantom is net/http middleware: opaque access tokens outside, JWTs
// inside.
//
// A [Middleware] takes the bearer token of a request, asks the authorization
// server about it at the introspection endpoint (RFC 7662), verifies the JWT
// that the server gives for it, and remembers the answer. The request goes on
// with the JWT in Authorization and the verified [Token] in its context.
//
// # From New to FromContext
//
// [New] makes a Middleware, once. It does no I/O, and returns every mistake in
// the options. [Middleware.Warm] fetches metadata and keys in advance, and says
// what is wrong with the server or the credentials.
// [Middleware.Handler] and its siblings wrap what needs a token. Behind them,
// [FromContext] and [Claims] tell who is asking:
//
//	auth, err := phantom.New(
//		phantom.WithIssuer("https://login.example.com/realms/shop"),
//		phantom.WithAudience("https://api.example.com"),
//		phantom.WithClientAuth(phantom.ClientSecretBasic(id, secret)),
//	)
//	...
//	mux.Handle("GET /orders", auth.RequireScopes("orders:read")(orders))
//	...
//	tok, ok := phantom.FromContext(r.Context())
//
// A Middleware is immutable, is safe for concurrent use, runs no goroutine
// while idle, and needs no closing.
//
// # Required options
//
//   - [WithIssuer]: the authorization server. Its endpoints come from its
//     metadata, unless options name them.
//   - [WithAudience]: what the server calls this service in aud.
//     [WithoutAudienceCheck] is the way out.
//   - [WithClientAuth]: how this service authenticates at the introspection
//     endpoint. [NoClientAuth] is for one that wants no credentials.
//     [WithIntrospector] and [WithoutIntrospection] need none.
//
// # Servers that give no JWT
//
// One option says where the JWT comes from instead. The answer of the server
// has to pass the same checks as a JWT.
//
//   - [WithMinter]: package mint makes it of the answer, with keys of yours.
//   - [WithTokenExchange]: the token endpoint gives it (RFC 8693).
//   - [WithoutJWT]: there is none. Handlers read the claims.
//   - [WithoutIntrospection]: the client's own token is the JWT.
//
// The options for 29 servers are in
// https://github.com/phantom-token/phantom/blob/main/docs/servers.md.
//
// # Outcomes
//
// It fails closed. Except for the anonymous requests that [Middleware.Optional]
// permits, a request reaches the next handler only with a verified token, and
// there is one path to it. A verdict on the token is 400, 401 or 403, with a
// challenge (RFC 6750). An outage or a mistake in the set-up is no verdict, and
// no client's fault: 500, 502 or 503.
//
//	status  Reason             means
//	400     malformed_request  the Authorization field is malformed
//	401     no_credentials     no token, or another scheme
//	401     inactive           the server calls the token inactive
//	401     jwt_rejected       a check refuses the JWT that the server gave
//	401     answer_rejected    a check refuses an answer without a JWT
//	401     token_rejected     a check refuses the client's own JWT
//	401     binding            the sender does not prove that it is its token
//	403     scope              a requirement is not met
//	500     internal           a hook panicked
//	502     as_protocol        the answer is unusable, or refuses our credentials
//	503     as_unavailable     no answer in time
//	503     keys_unavailable   no key to verify the JWT with
//
// Each rejection is an [*Error], which wraps [ErrNoToken], [ErrInvalidRequest],
// [ErrInvalidToken], [ErrInsufficientScope], [ErrUpstream] or [ErrUnavailable].
// The log ([WithLogger]; by default that of [log/slog]) has a line that says
// what happened, and never a token:
// https://github.com/phantom-token/phantom/blob/main/docs/operating.md.
// [WithTrace] is told of every request and lookup, and [Middleware.Stats] has
// the numbers.
//
// # What is remembered
//
// A verified token is remembered for [WithMaxTTL] at most, an inactive one for
// [WithNegativeTTL], an outage never. A token in use is looked up again ahead
// of time ([WithRefreshAhead]). [Middleware.Forget], [Middleware.ForgetSession]
// and [Middleware.ForgetSubject] end a token, a session or a user at once, and
// [Middleware.BackchannelLogout] has the authorization server do so.
// [WithStore] shares it all with the other replicas.
//
// # Packages beside this one
//
//   - [github.com/phantom-token/phantom/mint] makes JWTs and serves
//     their keys.
//   - [github.com/phantom-token/phantom/dpop] and
//     [github.com/phantom-token/phantom/mtls] check who sends a bound token
//     ([WithBinding]).
//   - [github.com/phantom-token/phantom/stepup] and
//     [github.com/phantom-token/phantom/resource] are for RFC 9470 and RFC
//     9728.
//   - [github.com/phantom-token/phantom/forwardauth] answers proxies that
//     ask before they hand a request on.
//   - [github.com/phantom-token/phantom/phantomtest] is an authorization
//     server in memory, for your tests.
//
// The modules phantomgrpc, phantomotel, valkeystore and contrib/caddy have
// dependencies of their own.
package phantom
