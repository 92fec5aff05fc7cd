// Package phantomtest provides an authorization server for tests of programs
// that use [phantom].
//
// An [AuthorizationServer] issues opaque tokens, answers introspection requests
// for them as real servers do, with or without a JWT, exchanges tokens, and
// publishes its keys. A test can revoke tokens, rotate keys, and make the
// server slow or let it fail. Its options connect a middleware to it in memory:
// there is no port and no goroutine, and inside a bubble of [testing/synctest]
// no real time passes.
//
//	as := phantomtest.New()
//	auth, err := phantom.New(as.Options()...)
//	...
//	req.Header.Set("Authorization", "Bearer "+as.Issue(nil))
//
// To test a handler without any middleware, [Token] makes a token for
// [phantom.NewContext].
//
// An AuthorizationServer is an [http.Handler] as well. To serve it on a
// listener, give it the listener's URL with [WithIssuer].
package phantomtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// lifetime is how long a token lives unless its claims say otherwise.
const lifetime = 10 * time.Minute

// defaultScope is what a token may do unless its claims or its request name
// another scope.
const defaultScope = "read write"

// An AuthorizationServer is an OAuth 2.0 authorization server that keeps
// everything in memory. Its endpoints are below the path of its issuer:
//
//	POST /introspect  RFC 7662, for its clients only
//	POST /token       RFC 6749, client credentials, and RFC 8693, token exchange
//	POST /revoke      RFC 7009, any client may revoke any token
//	GET  /jwks        the key that signs the JWTs
//
// Its metadata are where RFC 8414 and OpenID Connect Discovery look for them.
// Clients authenticate with client_secret_basic or client_secret_post.
//
// By default it answers as the Curity Identity Server does. A request that
// accepts application/jwt and nothing else gets the JWT as the body, or status
// 204 when the token is not active. Any other gets JSON that has no JWT.
// [WithJSONResponse], [WithKeycloak] and [WithoutJWT] select another dialect.
// In the default dialect, Cache-Control lets the JWT be kept as long as the
// token lives; in the others it forbids that. [WithSignedResponse] adds the
// signed answers of RFC 9701, and [WithAnswer] makes servers with habits of
// their own.
//
// At the token endpoint any scope and any audience is granted. An exchange
// gives a client a JWT with the claims of the opaque token, but the client is
// that client, iat and jti are new, and aud and scope are those of the request,
// if it has any. The JWT lives no longer than 10 minutes, and no longer than
// the token would by its exp; [AuthorizationServer.Revoke] does not reach it.
//
// Make an AuthorizationServer with [New]. Its methods may be called
// concurrently.
type AuthorizationServer struct {
	config

	origin string // scheme and host of the issuer
	base   string // the issuer without a slash at its end: what endpoints begin with
	mux    *http.ServeMux

	mu             sync.Mutex
	key            *signingKey
	grants         map[string]grant
	introspections int
	exchanges      int
	failStatus     int
	failures       int
	delay          time.Duration
}

// A grant is what the server knows about one opaque token.
type grant struct {
	payload []byte    // the claims as JSON
	expiry  time.Time // zero: never
	refresh bool
	bearer  bool // the claims leave it to the server to name the token_type
}

// New returns an authorization server that knows no tokens yet. It panics if
// an option has a value that no authorization server could have, such as an
// issuer that is not an absolute URL.
func New(opts ...Option) *AuthorizationServer {
	s := &AuthorizationServer{
		config: config{
			issuer:   "https://as.test",
			audience: "https://rs.test",
			dialect:  curity,
		},
		mux:    http.NewServeMux(),
		key:    newSigningKey(),
		grants: make(map[string]grant),
	}
	for _, opt := range opts {
		opt.apply(&s.config)
	}
	s.check()
	if len(s.clients) == 0 {
		s.clients = []client{{id: "gateway", secret: "gateway-secret"}}
	}
	u, err := url.Parse(s.issuer)
	if err != nil || u.Scheme == "" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		panic(fmt.Sprintf("phantomtest: issuer %q is not an absolute URL without query and fragment", s.issuer))
	}
	s.origin = u.Scheme + "://" + u.Host
	s.base = strings.TrimSuffix(s.issuer, "/")
	s.routes(strings.TrimSuffix(u.EscapedPath(), "/"))
	return s
}

// check panics if the options do not fit together.
func (s *AuthorizationServer) check() {
	switch {
	case !s.dialect.onRequest && s.dialect.member == "":
		panic("phantomtest: a JSON response needs the name of a member for the JWT")
	case !s.dialect.onRequest && s.jwtFrom != fromAnswer:
		panic("phantomtest: WithJSONResponse excludes WithoutJWT, WithMinter and WithTokenExchange")
	case s.signed && s.jwtFrom == fromAnswer:
		panic("phantomtest: WithSignedResponse needs WithoutJWT, WithMinter or WithTokenExchange")
	case s.jwtFrom == fromMinter && s.minter == nil:
		panic("phantomtest: WithMinter needs a Minter")
	case slices.ContainsFunc(s.edits, func(edit func(map[string]any)) bool { return edit == nil }):
		panic("phantomtest: WithAnswer needs a function")
	case slices.ContainsFunc(s.clients, func(c client) bool { return c.id == "" || c.secret == "" }):
		panic("phantomtest: a client needs an identifier and a secret")
	}
}

// Options returns all that [phantom.New] needs to work with this server: the
// issuer, the audience, the endpoints, the credentials of the first client, the
// dialect, where the JWT comes from, and an HTTP client that reaches the server
// in memory, and nothing else. Append options of your own to add to these or to
// replace them.
func (s *AuthorizationServer) Options() []phantom.Option {
	return s.options(phantom.WithAudience(s.audience))
}

func (s *AuthorizationServer) options(audience phantom.Option) []phantom.Option {
	opts := []phantom.Option{
		audience,
		phantom.WithIssuer(s.issuer),
		phantom.WithIntrospectionEndpoint(s.base + "/introspect"),
		phantom.WithClientAuth(phantom.ClientSecretBasic(s.clients[0].id, s.clients[0].secret)),
		phantom.WithHTTPClient(&http.Client{Transport: transport{s}}),
	}
	return append(opts, s.modeOptions()...)
}

// Issue returns a new opaque token that stands for claims. They are added to
// the claims that every token has, and win over them:
//
//	iss        the issuer
//	sub        "alice"
//	aud        the audience
//	client_id  "app"
//	scope      "read write"
//	iat        now
//	exp        10 minutes from now
//	jti        random
//
// A nil value removes a claim. The token is active until the time of its exp,
// and for ever if that is missing or not a number. Issue panics if claims
// cannot be written as JSON.
//
// With the claim "token_use": "refresh_token" it is a refresh token, for which
// there is no JWT. It is active in JSON answers, as at most servers, and
// inactive where the answer would be the JWT alone.
//
// The token_type of a JSON answer is "Bearer", unless the claims have another
// one, or nil for none. So claims without token_type and aud,
//
//	as.Issue(map[string]any{"token_type": nil, "aud": nil})
//
// make a refresh token of a server that calls it active and does not say what
// it is. Other claims make other oddities: a nil sub, aud as an array, scope as
// an array.
func (s *AuthorizationServer) Issue(claims map[string]any) string {
	now := time.Now()
	all := map[string]any{
		"iss":   s.issuer,
		"sub":   "alice",
		"aud":   s.audience,
		"scope": defaultScope,
		"iat":   now.Unix(),
		"exp":   now.Add(lifetime).Unix(),
		"jti":   rand.Text(),
	}
	all[s.dialect.clientClaim] = "app"
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })

	payload := mustMarshal(all)
	_, namesType := claims["token_type"]
	g := grant{payload: payload, refresh: all["token_use"] == "refresh_token", bearer: !namesType}
	// The claim may be of any numeric type, or deliberately of none.
	var read struct {
		Exp float64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &read); err == nil && all["exp"] != nil {
		g.expiry = time.Unix(int64(read.Exp), 0)
	}

	token := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grants[token] = g
	return token
}

// Revoke makes token inactive. A middleware that remembers an earlier answer
// accepts the token for as long as its configuration allows.
func (s *AuthorizationServer) Revoke(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.grants, token)
}

// RotateKeys replaces the signing key by a new one with another key ID. The old
// key is no longer published. A middleware fetches the new key when it meets
// the key ID. Between two fetches there is a second, in which it answers 503: a
// test that rotates twice moves the clock in between, which is easy in a bubble
// of [testing/synctest].
func (s *AuthorizationServer) RotateKeys() {
	key := newSigningKey()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

// Introspections returns how many introspection requests have arrived so far,
// including those that failed.
func (s *AuthorizationServer) Introspections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.introspections
}

// Exchanges returns how many requests for a token exchange have arrived so far,
// including those that were refused.
func (s *AuthorizationServer) Exchanges() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exchanges
}

// Fail makes the next n introspections answer with status and an empty body. It
// replaces what an earlier call left. It panics if status is not between 200
// and 599.
func (s *AuthorizationServer) Fail(status, n int) {
	if status < 200 || status > 599 {
		panic(fmt.Sprintf("phantomtest: status %d is not between 200 and 599", status))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failStatus, s.failures = status, n
}

// Delay makes each introspection from now on take d, or less if its client
// stops waiting.
func (s *AuthorizationServer) Delay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// ServeHTTP implements [http.Handler].
func (s *AuthorizationServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mux.ServeHTTP(w, r)
}

// Format implements [fmt.Formatter]. It writes a fixed text for every verb: the
// server holds tokens, keys and secrets.
func (s *AuthorizationServer) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "phantomtest.AuthorizationServer(redacted)")
}

// lookup returns what the server knows about token, and whether it is active.
func (s *AuthorizationServer) lookup(token string) (grant, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.grants[token]
	return g, ok && (g.expiry.IsZero() || time.Now().Before(g.expiry))
}

// sign returns a JWT, signed with the current key.
func (s *AuthorizationServer) sign(typ string, payload []byte) string {
	s.mu.Lock()
	key := s.key
	s.mu.Unlock()
	return key.sign(typ, payload)
}

// knows reports whether the server has such a client.
func (s *AuthorizationServer) knows(c client) bool {
	return slices.Contains(s.clients, c)
}

// Token returns a token with the given claims and those of
// [AuthorizationServer.Issue]. A test of a handler puts it into the context of
// a request with [phantom.NewContext]. The token has passed a lookup and every
// check except the audience, so it is what the handler will see. Claims that do
// not pass fail the test at once.
//
// The token belongs to a middleware of its own, and no other one accepts it
// from the context. To test a handler that is already wrapped, use an
// [AuthorizationServer].
func Token(tb testing.TB, claims map[string]any) *phantom.Token {
	tb.Helper()
	var opts []Option
	if issuer, ok := claims["iss"].(string); ok {
		opts = append(opts, WithIssuer(issuer))
	}
	s := New(opts...)
	m, err := phantom.New(s.options(phantom.WithoutAudienceCheck())...)
	if err != nil {
		tb.Fatalf("phantomtest: %v", err)
	}
	tok, err := m.Verify(context.Background(), s.Issue(claims))
	if err != nil {
		tb.Fatalf("phantomtest: no token with these claims: %v", err)
	}
	return tok
}
