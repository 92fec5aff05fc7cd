// Package introspection is the client of RFC 7662. It asks the authorization
// server about an opaque token and turns the answer into a verdict, or into the
// reason why there is none.
package introspection

import (
	"context"
	"net/http"
	"net/url"

	"github.com/phantom-token/phantom/internal/claims"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/upstream"
)

// A Format is what the endpoint is asked for. The answer never chooses it: one
// that does not fit cannot be used.
type Format uint8

// The formats.
const (
	// JWT is application/jwt. JSON with a member phantom_token or jwt is
	// understood too.
	JWT Format = iota
	// JWTMember is application/json with the JWT in one member.
	JWTMember
	// Members is application/json as in RFC 7662 section 2.2, without a JWT.
	Members
	// Signed is the signed answer of RFC 9701.
	Signed
)

const (
	typeJWT    = "application/jwt"
	typeJSON   = "application/json"
	typeSigned = "application/token-introspection+jwt"
)

// maxAnswerSize bounds the body of an answer, in bytes.
const maxAnswerSize = 64 << 10

// A Client asks one introspection endpoint. It is safe for concurrent use.
type Client struct {
	// Endpoint returns the URL of the endpoint.
	Endpoint func(context.Context) (string, error)
	Upstream *upstream.Client
	// Authenticate adds this service's credentials to a request or its form.
	Authenticate func(*http.Request, url.Values) error
	// Format is what to ask for.
	Format Format
	// Member names the member that holds the JWT, for JWTMember.
	Member string
	// Rules say what kinds of tokens there are.
	Rules *claims.Rules
	// Strict obeys no-store and no-cache.
	Strict bool
}

// Ask asks about the token. The error is a [*failure.Error].
func (c *Client) Ask(ctx context.Context, token string) (*Answer, error) {
	endpoint, err := c.Endpoint(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.Upstream.Send(ctx, func(ctx context.Context) (*http.Request, error) {
		return c.request(ctx, endpoint, token)
	})
	if err != nil {
		return nil, at(endpoint, err)
	}
	defer func() { _ = resp.Body.Close() }() // the body is read or given up: no error matters
	answer, err := c.read(resp)
	return answer, at(endpoint, err)
}

// at names the endpoint in a failure.
func at(endpoint string, err error) error {
	if err == nil {
		return nil
	}
	return failure.Of(err).At(failure.Introspection, upstream.Shown(endpoint))
}

// accept returns the media type of the format.
func (c *Client) accept() string {
	switch c.Format {
	case JWT:
		return typeJWT
	case Signed:
		return typeSigned
	}
	return typeJSON
}

// request makes the request of RFC 7662 section 2.1, with fresh credentials.
// It carries nothing of the request that is being authenticated.
func (c *Client) request(ctx context.Context, endpoint, token string) (*http.Request, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	return upstream.FormRequest(ctx, endpoint, c.accept(), form, c.Authenticate)
}
