// Package exchange is the client of token exchange (RFC 8693). It gets the JWT
// of a token that the introspection endpoint has called active.
package exchange

import (
	"context"
	"fmt"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/upstream"
)

// What a token is, in the words of RFC 8693 section 3.
const (
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeJSON        = "application/json"
	grantType       = "urn:ietf:params:oauth:grant-type:token-exchange"
)

// maxResponseSize bounds the body of a response, in bytes.
const maxResponseSize = 64 << 10

// Reserved are the parameters that a Client sets itself, or that credentials
// are made of.
var Reserved = []string{
	"grant_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type",
	"client_id", "client_secret", "client_assertion", "client_assertion_type",
}

// A Client exchanges tokens at one token endpoint. It is safe for concurrent
// use.
type Client struct {
	// Endpoint returns the URL of the endpoint.
	Endpoint func(context.Context) (string, error)
	Upstream *upstream.Client
	// Authenticate adds this service's credentials to a request or its form.
	Authenticate func(*http.Request, url.Values) error
	// Form holds further parameters, none of which is in Reserved.
	Form url.Values
}

// Exchange returns the JWT for the token, and how long it lives, negative if
// the server does not say. The error is a [*failure.Error] and never a verdict:
// the token was found good.
func (c *Client) Exchange(ctx context.Context, token string) (jwt string, lifetime time.Duration, err error) {
	endpoint, err := c.Endpoint(ctx)
	if err != nil {
		return "", 0, err
	}
	resp, err := c.Upstream.Send(ctx, func(ctx context.Context) (*http.Request, error) {
		form := url.Values{}
		for name, values := range c.Form {
			form[name] = slices.Clone(values) // Authenticate may append to them
		}
		if !form.Has("requested_token_type") {
			form.Set("requested_token_type", typeAccessToken)
		}
		form.Set("grant_type", grantType)
		form.Set("subject_token", token)
		form.Set("subject_token_type", typeAccessToken)
		return upstream.FormRequest(ctx, endpoint, typeJSON, form, c.Authenticate)
	})
	if err != nil {
		return "", 0, at(endpoint, err)
	}
	defer func() { _ = resp.Body.Close() }() // the body is read or given up: no error matters
	if jwt, lifetime, err = read(resp); err != nil {
		return "", 0, at(endpoint, err)
	}
	return jwt, lifetime, nil
}

// at names the endpoint in a failure.
func at(endpoint string, err error) error {
	return failure.Of(err).At(failure.Exchange, upstream.Shown(endpoint))
}

// fault is the failure of a response that will be the same the next time, as
// far as one can tell.
func fault(detail string) *failure.Error {
	f := failure.New(failure.Protocol, "exchange: "+detail)
	f.Lasting = true
	return f
}

// routers returns a fault that may be a router's: then there was no answer, and
// the next one is another.
func routers(f *failure.Error, may bool) *failure.Error {
	f.Unanswered, f.Lasting = may, !may
	return f
}

// refusals are the statuses by which the server itself refuses. Any other may
// be a router's, while the server is redeployed.
var refusals = []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden}

// read reads the response of RFC 8693 section 2.2. It looks at the access token
// alone: refresh tokens and ID tokens are dropped unread.
func read(resp *http.Response) (jwt string, lifetime time.Duration, err error) {
	body, err := upstream.ReadAnswer(resp, maxResponseSize)
	outage := upstream.Outage(resp)
	switch {
	case outage != nil:
		outage.Detail = "exchange: " + outage.Detail
		return "", 0, outage
	case err != nil:
		return "", 0, err
	case resp.StatusCode != http.StatusOK:
		f := fault(fmt.Sprintf("refused with status %d", resp.StatusCode))
		f.Differs(strconv.Itoa(http.StatusOK), strconv.Itoa(resp.StatusCode))
		return "", 0, routers(f, !slices.Contains(refusals, resp.StatusCode))
	}
	members, err := jose.ParseObject(body)
	if err != nil {
		f := fault("not strict JSON")
		mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		return "", 0, routers(f, mediaType != typeJSON)
	}
	issued, _ := members.Get("issued_token_type").Text()
	if !slices.Contains([]string{typeAccessToken, typeJWT}, issued) {
		return "", 0, fault("issued_token_type is neither access_token nor jwt")
	}
	use, _ := members.Get("token_type").Text()
	if !strings.EqualFold(use, "Bearer") && !strings.EqualFold(use, "N_A") {
		return "", 0, fault("token_type is neither Bearer nor N_A")
	}
	jwt, ok := members.Get("access_token").Text()
	if !ok || strings.Count(jwt, ".") != 2 {
		return "", 0, fault("not a JWT; requested_token_type")
	}
	lifetime = -1
	if sec, ok := members.Get("expires_in").NumericDate(); ok {
		lifetime = time.Duration(min(sec, math.MaxInt32)) * time.Second
	}
	return jwt, lifetime, nil
}
