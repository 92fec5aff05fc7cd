// Package introspection is the client of RFC 7662. It asks the authorization
// server about an opaque token and turns the answer into a verdict, or into the
// reason why there is none.
package introspection

import (
	"context"
	"net/http"
	"net/url"

	"github.com/phantom-token/phantom/internal/upstream"
)

const (
	typeJWT  = "application/jwt"
	typeJSON = "application/json"
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
	// Member names the member of a JSON answer that holds the JWT. If it is
	// empty, the Client asks for application/jwt.
	Member string
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
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // the body is read or given up: no error matters
	return c.read(resp)
}

// accept returns one media type alone. Servers compare the whole field with one
// string and silently answer a list or a weight with plain JSON.
func (c *Client) accept() string {
	if c.Member != "" {
		return typeJSON
	}
	return typeJWT
}

// request makes the request of RFC 7662 section 2.1, with fresh credentials.
// It carries nothing of the request that is being authenticated.
func (c *Client) request(ctx context.Context, endpoint, token string) (*http.Request, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	return upstream.FormRequest(ctx, endpoint, c.accept(), form, c.Authenticate)
}
