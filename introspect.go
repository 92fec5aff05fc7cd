package phantom

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/httpcache"
	"github.com/phantom-token/phantom/internal/jose"
)

// An Introspector asks the authorization server about an opaque token. The
// built-in one is a client of RFC 7662; [WithIntrospector] puts another in its
// place.
//
// An [*Error], or an error that wraps one of this package's, ends in the status
// that goes with it: [ErrUpstream] in 502; [ErrInvalidToken], which is
// remembered as inactive, in 401. Every other ends in 503; a RetryAfter of more
// than a second then keeps all lookups back, for 30 s at most. Introspect is called
// at most once at a time for one token, with a context that ends with
// [WithTimeout], and must be safe for concurrent use.
type Introspector interface {
	Introspect(ctx context.Context, token string) (*Introspection, error)
}

// An Introspection is the authorization server's answer about one token. It is
// for an [Introspector] to return, not to print: it has the JWT in it.
type Introspection struct {
	// Active is the server's verdict. Nothing else is looked at if it is false.
	Active bool
	// JWT is the token's JWT. It is verified like any other.
	JWT string
	// Claims is a JSON object with the other members of a JSON answer, or nil.
	Claims []byte
	// Expiry is the answer's own exp; zero if it has none.
	Expiry time.Time
	// MaxAge bounds how long the answer may be kept; negative if the server
	// did not say, 0 if it may not be kept at all.
	MaxAge time.Duration
}

// maxAnswerSize bounds the body of an introspection answer, in bytes.
const maxAnswerSize = 64 << 10

const (
	typeJWT  = "application/jwt"
	typeJSON = "application/json"
)

// introspectionClient is the Introspector of RFC 7662.
type introspectionClient struct {
	endpoint func(context.Context) (string, error)
	client   *transport
	auth     ClientAuth
	member   string // of the JWT in a JSON answer; empty: application/jwt is asked for
	strict   bool   // obey no-store and no-cache
}

// accept is one media type alone: servers compare the whole field with one
// string, and a list or a weight silently gives plain JSON.
func (c *introspectionClient) accept() string {
	if c.member != "" {
		return typeJSON
	}
	return typeJWT
}

// members are the names under which a JSON answer may hold the JWT: the
// configured one, or else Curity's and Keycloak's.
func (c *introspectionClient) members() []string {
	if c.member != "" {
		return []string{c.member}
	}
	return []string{"phantom_token", "jwt"}
}

func (c *introspectionClient) Introspect(ctx context.Context, token string) (*Introspection, error) {
	endpoint, err := c.endpoint(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.client.send(ctx, func(ctx context.Context) (*http.Request, error) {
		return c.request(ctx, endpoint, token)
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // whatever it says, the body was read or is given up
	return c.classify(resp)
}

// request makes the request of RFC 7662 section 2.1, with fresh credentials.
// It carries nothing of the request that is being authenticated.
func (c *introspectionClient) request(ctx context.Context, endpoint, token string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, http.NoBody)
	if err != nil {
		return nil, rejection(ReasonProtocol, "introspection endpoint: not a URL")
	}
	req.Header.Set("Accept", c.accept())
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	if c.auth.Authenticate(req, form) != nil {
		// Whatever error it is, it is no verdict on the token.
		return nil, rejection(ReasonUnavailable, "client authentication")
	}
	body := form.Encode()
	req.ContentLength = int64(len(body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	req.Body, _ = req.GetBody()
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept-Encoding", "identity") // or the transport would ask for gzip and inflate it
	return req, nil
}

// classify turns an answer into a verdict or into the reason why it is none:
// by status, then media type, then body, never by what was asked for.
func (c *introspectionClient) classify(resp *http.Response) (*Introspection, error) {
	body, err := readBody(resp, maxAnswerSize)
	switch status := resp.StatusCode; {
	case status == http.StatusTooManyRequests, status >= 500:
		return nil, overloaded(resp)
	case err != nil:
		return nil, err
	case status == http.StatusOK:
	case status == http.StatusNoContent && c.member == "" && len(body) == 0:
		return &Introspection{MaxAge: -1}, nil
	default:
		return nil, refusedStatus(status, body)
	}
	types := resp.Header.Values("Content-Type")
	if len(types) != 1 {
		return nil, protocolFault("Content-Type missing or repeated")
	}
	mediaType, _, err := mime.ParseMediaType(types[0])
	if err != nil {
		return nil, protocolFault("Content-Type malformed")
	}
	answer := &Introspection{Active: true, MaxAge: httpcache.Freshness(resp.Header, c.strict)}
	switch mediaType {
	case typeJWT:
		if line, ok := bytes.CutSuffix(body, []byte("\n")); ok {
			body = bytes.TrimSuffix(line, []byte("\r"))
		}
		answer.JWT = string(body)
		return answer, nil
	case typeJSON:
		return c.readJSON(answer, body)
	case "application/token-introspection+jwt":
		return nil, protocolFault("an RFC 9701 answer, which is no access token")
	}
	return nil, protocolFault("neither " + typeJWT + " nor " + typeJSON)
}

func protocolFault(detail string) *Error { return rejection(ReasonProtocol, detail) }

// overloaded is the outage that a status alone tells of, whatever the body is.
func overloaded(resp *http.Response) error {
	e := rejection(ReasonUnavailable, fmt.Sprintf("status %d", resp.StatusCode))
	if after, ok := httpcache.RetryAfter(resp.Header, time.Now()); ok {
		e.RetryAfter = after
		e.Err = errAskedToWait
	}
	return e
}

// refusedStatus classifies an answer that is no answer about the token. Only
// one says something of it: the server does not introspect this kind, which is
// as good as inactive.
func refusedStatus(status int, body []byte) error {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return protocolFault(fmt.Sprintf("the authorization server refuses the introspection client's credentials: status %d", status))
	case http.StatusBadRequest:
		members, err := jose.ParseObject(body)
		if err != nil {
			break
		}
		switch code, _ := members.Get("error").Text(); code {
		case "unsupported_token_type":
			return rejection(ReasonInactive, "unsupported_token_type")
		case "invalid_client", "unauthorized_client":
			return protocolFault("the authorization server refuses the introspection client's credentials: status 400")
		}
	}
	return protocolFault(fmt.Sprintf("status %d", status))
}

// readJSON reads the answer of RFC 7662 section 2.2 with the JWT as one of its
// members.
func (c *introspectionClient) readJSON(answer *Introspection, body []byte) (*Introspection, error) {
	members, err := jose.ParseObject(body)
	if err != nil {
		return nil, protocolFault("not strict JSON")
	}
	active, ok := members.Get("active").Bool()
	if !ok {
		return nil, protocolFault("active is missing or no boolean")
	}
	if !active {
		return &Introspection{MaxAge: -1}, nil
	}
	if exp := members.Get("exp"); exp.Exists() && !exp.IsNull() {
		sec, ok := exp.NumericDate()
		if !ok {
			return nil, protocolFault("exp is no date")
		}
		answer.Expiry = time.Unix(sec, 0)
	}
	var names []string
	for _, name := range c.members() {
		if v := members.Get(name); v.Exists() {
			if names = append(names, name); len(names) > 1 {
				return nil, protocolFault("more than one JWT member")
			}
			if answer.JWT, ok = v.Text(); !ok {
				return nil, protocolFault("the JWT member is no string")
			}
		}
	}
	if len(names) == 0 {
		if e := checkKind(members); e != nil {
			return nil, e // a verdict comes before a fault in the set-up
		}
		return nil, protocolFault("active, but no JWT: the authorization server is not set up to give one")
	}
	others := map[string]json.RawMessage{}
	for name, v := range members.All() {
		if name != names[0] {
			others[name] = v.Raw()
		}
	}
	var claims bytes.Buffer
	enc := json.NewEncoder(&claims)
	enc.SetEscapeHTML(false) // or some bytes would take six times their room
	if enc.Encode(others) != nil {
		return nil, protocolFault("not strict JSON")
	}
	answer.Claims = bytes.TrimSuffix(claims.Bytes(), []byte("\n"))
	return answer, nil
}
