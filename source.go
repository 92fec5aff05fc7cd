package phantom

import (
	"context"
	"net/url"
	"time"

	"github.com/phantom-token/phantom/internal/claims"
	"github.com/phantom-token/phantom/internal/exchange"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/introspection"
	"github.com/phantom-token/phantom/internal/issuer"
	"github.com/phantom-token/phantom/internal/jose"
)

// A Minter gives the JWT for a token that the authorization server calls active
// and whose answer passed every check. Package mint has one; [WithMinter] takes
// it.
//
// A Middleware calls Mint once per lookup, at most once at a time for one
// token, unless the token is forgotten in between. The context ends with
// [WithTimeout]. A Minter must be safe for concurrent use.
type Minter interface {
	// Mint returns the JWT. The token is the opaque one: it must not be kept,
	// logged, or sent anywhere but to the authorization server. The answer is a
	// copy of the Minter's own, with a non-empty sub in its Claims, and without
	// members that hold the token or a JWT in its place.
	//
	// The error is treated as an [Introspector]'s is, its text too. The JWT is
	// verified like any other, by the keys and the name that Issuer returns. It
	// must have an exp, the answer's sub, and no cnf. If a check fails, that is
	// the Minter's fault, not the client's: status 502.
	Mint(ctx context.Context, token string, answer *Introspection) (jwt string, err error)
	// Issuer returns the iss of the JWTs and the keys that verify them. [New]
	// calls it once. An empty name and a nil KeySet stand for the authorization
	// server's own.
	Issuer() (name string, keys KeySet)
}

// WithMinter asks the introspection endpoint for application/json and takes the
// JWT from the Minter. The members of the answer are checked as the claims of a
// JWT would be. It is for the many servers that give no JWT there.
//
// The [Token] speaks of the token that the client sent: its subject, client,
// scopes and audience are the answer's. [Token.JWT] and [Token.Decode] are the
// minted JWT's. [WithAlgorithms] and [WithRFC9068] judge the minted JWT.
//
// It excludes [WithJSONResponse], [WithoutJWT], [WithTokenExchange] and, unless
// the Minter uses the server's own keys, [WithKeySet] and [WithJWKSURL] without
// [WithSignedResponse].
func WithMinter(minter Minter) Option {
	return with("WithMinter", func(c *config) { c.minter = minter })
}

// WithoutJWT is for services that need the claims and no JWT. The introspection
// endpoint is asked for application/json, and the members of its answer are
// checked as the claims of a JWT would be. The next handler gets the request
// without any Authorization field.
//
// [Token.JWT] is empty, [Token.Decode] and [Claims] decode the answer, and
// [Token.SetAuthHeader] removes the field. The answer is not signed: TLS is all
// its protection, unless [WithSignedResponse] is given too. So with
// [WithInsecureHTTP] anyone on the network path can write identities.
//
// It excludes [WithJSONResponse], [WithMinter], [WithTokenExchange] and
// [WithRFC9068] and, without [WithSignedResponse], [WithAlgorithms],
// [WithKeySet] and [WithJWKSURL].
func WithoutJWT() Option {
	return with("WithoutJWT", func(*config) {})
}

// WithoutIntrospection is for issuers whose access tokens are JWTs. The
// client's token itself is verified, by the same checks and with the keys of
// the issuer, and handed on. The authorization server is not asked, so a
// revocation is never seen: a token lives until its exp. Every failed check is
// the client's (401), also that the token is no JWT at all; it is logged at
// DEBUG. Missing keys are not (503). A verified token is remembered for
// [WithMaxTTL] at most, which saves the check of its signature.
//
// It excludes [WithIntrospector], [WithIntrospectionEndpoint],
// [WithClientAuth], [WithJSONResponse], [WithStrictCacheControl],
// [WithStaleIfError], [WithRefreshAhead], [WithoutJWT], [WithMinter],
// [WithTokenExchange] and [WithSignedResponse].
func WithoutIntrospection() Option {
	return with("WithoutIntrospection", func(c *config) { c.refreshAhead = 0 })
}

// WithClientSubject accepts a token without a sub, or with a null, as some
// servers give for clients that act on behalf of no user. Its subject becomes
// the prefix followed by the client_id. An empty prefix is refused: a client
// could choose an id that is somebody's sub (RFC 9068 section 5). So is a token
// whose own sub begins with the prefix: its user could have chosen that name.
// The token must say that it is an access token: a JWT by its typ at+jwt,
// token_use or token_type, an answer by its token_type, token_use or
// token_usage.
//
// It works wherever the JWT comes from. It is not for servers that leave sub
// out of users' tokens too. It excludes [WithRFC9068], unless that judges a
// JWT of [WithMinter] or [WithTokenExchange].
func WithClientSubject(prefix string) Option {
	return with("WithClientSubject", func(c *config) { c.clientSubject = prefix })
}

// WithSignedResponse asks for the signed introspection response of RFC 9701 and
// takes nothing else: plain JSON, also one that says inactive, is unusable
// (502). The response must have the type token-introspection+jwt, a signature
// by the server's keys, an iss equal to [WithIssuer], the given audience among
// its aud (the client_id of the introspection client, as a rule), and an iat at
// most 60 s old and not further ahead than the leeway. Only its member
// token_introspection is looked at. Encrypted responses are refused.
//
// The response is never handed on, because it is no access token. So one of
// [WithMinter], [WithTokenExchange] and [WithoutJWT] is needed. It excludes
// [WithIntrospector] and [WithJSONResponse].
func WithSignedResponse(audience string) Option {
	return with("WithSignedResponse", func(c *config) { c.signedAudience = audience })
}

// WithTokenExchange takes the JWT from the token endpoint by token exchange
// (RFC 8693), after the introspection endpoint has called the token active and
// its answer passed the checks that [WithMinter] describes. An empty endpoint
// stands for the token_endpoint in the issuer's metadata. The form holds
// further parameters, such as audience, resource, scope or requested_token_type
// (default: urn:ietf:params:oauth:token-type:access_token). Those of the grant
// itself, credentials and empty values are refused. The client of
// [WithClientAuth] authenticates, which is required also with
// [WithIntrospector].
//
// The response must have an access_token that is a JWT by the server's keys and
// issuer, with the answer's sub, an issued_token_type of access_token or jwt,
// and a token_type of Bearer or N_A. A refusal is unusable (502) with any error
// code: the token was found good. A lookup takes two round trips.
//
// It excludes [WithMinter], [WithoutJWT] and [WithJSONResponse].
func WithTokenExchange(endpoint string, form url.Values) Option {
	own := url.Values{}
	for name, values := range form {
		own[name] = append([]string(nil), values...)
	}
	return with("WithTokenExchange", func(c *config) { c.exchangeEndpoint, c.exchangeForm = endpoint, own })
}

// answerMode reports whether the answer itself is judged and the JWT, if any,
// comes from elsewhere.
func (c *config) answerMode() bool {
	return c.given["WithMinter"] || c.given["WithoutJWT"] || c.given["WithTokenExchange"]
}

// format returns what the introspection endpoint is asked for.
func (c *config) format() introspection.Format {
	switch {
	case c.given["WithSignedResponse"]:
		return introspection.Signed
	case c.answerMode():
		return introspection.Members
	case c.member != "":
		return introspection.JWTMember
	}
	return introspection.JWT
}

// A reply is what the authorization server said of an active token, and in an
// answer mode what the checks made of it.
type reply struct {
	*introspection.Answer
	signed   string      // the answer as it came, if it was signed
	said     jose.Object // its members before the checks made anything of them
	claims   *claims.Set // of the answer; nil: the JWT is still to be judged
	signedBy *issuer.Key // the key of a signed answer
	noKeys   error       // there were no keys to verify a signed answer with
}

// A supplier gets the JWT for a reply that passed the checks.
type supplier func(ctx context.Context, token string, r *reply) error

// question asks the authorization server about a token. In an answer mode it
// judges the answer and gets the JWT.
func (a *authority) question(ctx context.Context, token string) (*reply, error) {
	answer, err := a.ask(ctx, token)
	if err != nil {
		return nil, err
	}
	r := &reply{Answer: answer}
	if !a.answerMode {
		return r, nil
	}
	if a.signedAudience != "" {
		if err := a.open(ctx, r, time.Now()); err != nil || r.noKeys != nil {
			return r, err
		}
	}
	if err := a.judge(r, token); err != nil {
		return nil, err
	}
	if a.supply == nil {
		return r, nil
	}
	return r, a.supply(ctx, token, r)
}

// judge holds the members of an answer to the rules of a JWT.
func (a *authority) judge(r *reply, token string) error {
	active := r.Members.Get("active") // a user's Introspector may leave it out
	switch isTrue, _ := active.Bool(); {
	case r.JWT != "":
		return failure.New(failure.Protocol, "a JWT where none was asked for")
	case !r.IsJSON, active.Exists() && !isTrue:
		return failure.New(failure.Protocol, "no members of an active answer")
	}
	now := time.Now()
	if !r.Expiry.IsZero() && !now.Before(r.Expiry) {
		return failure.New(failure.RefusedAnswer, "exp")
	}
	var err error
	if r.said, err = introspection.Clean(r.Members, token); err != nil {
		return err
	}
	if r.claims, err = a.rules.CheckMembers(r.said, now); err != nil {
		return err
	}
	r.Members = r.claims.All
	if exp := r.claims.Expiry; exp != 0 && (r.Expiry.IsZero() || time.Unix(exp, 0).Before(r.Expiry)) {
		r.Expiry = time.Unix(exp, 0)
	}
	return nil
}

// open reads the answer in a signed response (RFC 9701 section 5). That it does
// not pass a check is the server's fault. It must have been good when it came.
func (a *authority) open(ctx context.Context, r *reply, came time.Time) error {
	msg, err := jose.Parse(r.JWT)
	if err != nil {
		return blamed(issuer.Refusal(err), failure.Protocol, "signed response: ")
	}
	if err := a.rules.CheckSignedHeader(msg); err != nil {
		return err
	}
	if r.signedBy, err = a.verifySignature(ctx, r.JWT, msg); err != nil {
		if failure.Of(err).IsOutage() {
			r.noKeys = err // the server did answer: its gate must not count this
			return nil
		}
		return blamed(err, failure.Protocol, "signed response: ")
	}
	members, expiry, err := a.rules.CheckSigned(msg, a.signedAudience, came)
	if err != nil {
		return err
	}
	r.signed, r.JWT = r.JWT, ""
	if err := r.Read(members); err != nil {
		return err
	}
	if !expiry.IsZero() && (r.Expiry.IsZero() || expiry.Before(r.Expiry)) {
		r.Expiry = expiry
	}
	return nil
}

// blamed gives a refusal another class: that of the client for a JWT that the
// client sent, that of the server for what the server or a Minter gave. What is
// no refusal stays what it is.
func blamed(err error, class failure.Class, prefix string) error {
	f := failure.Of(err)
	if !f.IsVerdict() {
		return err
	}
	own := failure.New(class, prefix+f.Detail)
	own.Lasting, own.Facts = f.Lasting, f.Facts
	return own
}

// mintWith returns the supplier that calls the user's Minter.
func mintWith(minter Minter) supplier {
	return func(ctx context.Context, token string, r *reply) error {
		maxAge := r.MaxAge
		if maxAge < 0 {
			maxAge = 0 // the server did not say
		} else if maxAge == 0 {
			maxAge = -1 // it must not be kept
		}
		jwt, err := minter.Mint(ctx, token, &Introspection{
			Active: true, Claims: r.Members.JSON(), Expiry: r.Expiry, MaxAge: maxAge,
		})
		if err != nil {
			f := translate(err, failure.Unavailable, "Minter", token)
			f.Unanswered = f.Class == failure.Unavailable
			f.Lasting = f.Class == failure.Protocol
			return f
		}
		r.JWT = jwt
		return nil
	}
}

// exchangeWith returns the supplier that asks the token endpoint.
func exchangeWith(client *exchange.Client) supplier {
	return func(ctx context.Context, token string, r *reply) error {
		jwt, lifetime, err := client.Exchange(ctx, token)
		if err != nil {
			return err
		}
		r.JWT = jwt
		if lifetime >= 0 && (r.MaxAge < 0 || lifetime < r.MaxAge) {
			r.MaxAge = lifetime
		}
		return nil
	}
}
