package conformance_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// This file is the fixture of all tests here. Its parts, in this order:
//
//   - The server. newAS returns an authorization server in memory. A test
//     scripts what it answers and asks afterwards what reached it.
//   - The Middleware. as.middleware returns one that is configured for that
//     server, with the options of the test on top.
//   - The spy. It is the next handler, and records whether and how it ran.
//     get makes a request for it, serve sends the request.
//   - The outcome code. as.outcome checks everything that must hold for any
//     answer, and names it: codeOK, code401T and so on.
//   - JWTs and keys. claims and mint make the JWTs that the server answers.
//
// A test with all of them:
//
//	func TestRevokedToken(t *testing.T) {
//		as := newAS(t)                      // the server
//		as.introspect = answer(204, "", "") // it calls every token inactive
//		m := as.middleware()                // the Middleware
//		next := &spy{}                      // the next handler
//		rec := serve(m.Handler(next), get("Bearer opaque-token"))
//		if got := as.outcome(rec, next, 0); got != code401T {
//			t.Errorf("%s", got)
//		}
//		if n := as.calls.Load(); n != 1 {
//			t.Errorf("the server was asked %d times", n)
//		}
//	}
//
// Most tests need less: as.try(m, "opaque-token") does the four lines from the
// spy to the code, and judge(t, jwt) the whole of it for one JWT. The fixture
// needs neither sockets nor real time, so it works in a synctest bubble.

// The reference configuration. The default token belongs to alice and may
// read and write.
const (
	issuer       = "https://as.test"
	audience     = "https://rs.test"
	clientID     = "gateway_client"
	clientSecret = "s3cr3t-of-the-gateway"
	endpointPath = "/oauth/v2/introspect"
	jwksPath     = "/jwks"
)

// Part 1: the server.

// A fakeAS is a scripted authorization server in memory. A test sets its
// handlers; each that is nil has a good default.
type fakeAS struct {
	tb         testing.TB
	introspect http.HandlerFunc // nil: the default JWT for every token
	jwks       http.HandlerFunc // nil: all keys of the fixture
	metadata   http.HandlerFunc // nil: 404
	calls      atomic.Int64     // introspections
	fetches    atomic.Int64     // key set fetches
	current    atomic.Int64     // introspections under way
	peak       atomic.Int64     // the most at once

	mu       sync.Mutex
	requests []*http.Request // all, in order; introspections with their Form parsed
	secrets  map[string]bool
	logs     lockedBuffer // what the Middleware logs
}

// newAS returns a server with the defaults. At the end of the test it looks for
// secrets in the log.
func newAS(tb testing.TB) *fakeAS {
	allKeys() // made before any time limit runs
	as := &fakeAS{tb: tb, secrets: map[string]bool{clientSecret: true}}
	tb.Cleanup(as.grepLogs)
	return as
}

// answer makes a handler that answers with status and body. Without a
// contentType there is no Content-Type field.
func answer(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		} else {
			w.Header()["Content-Type"] = nil
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// answerJWT makes a handler that answers an introspection as Curity does.
func answerJWT(jwt string) http.HandlerFunc {
	return answer(200, "application/jwt", jwt)
}

// answerJSON makes a handler that answers an introspection with JSON.
func answerJSON(body string) http.HandlerFunc {
	return answer(200, "application/json", body)
}

// wait makes a handler that waits for d before next. It gives up when the
// client leaves.
func wait(d time.Duration, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
			next(w, r)
		case <-r.Context().Done():
		}
	}
}

// ServeHTTP records the request and answers it by the handler for its path.
func (as *fakeAS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		_ = r.ParseForm()
	}
	as.mu.Lock()
	as.requests = append(as.requests, r)
	as.mu.Unlock()
	switch r.URL.Path {
	case endpointPath:
		as.calls.Add(1)
		as.arrive()
		defer as.current.Add(-1)
		if as.introspect == nil {
			answerJWT(mint("ES256", claims(nil)))(w, r)
			return
		}
		as.introspect(w, r)
	case jwksPath:
		as.fetches.Add(1)
		if as.jwks == nil {
			answer(200, "application/jwk-set+json", allKeys())(w, r)
			return
		}
		as.jwks(w, r)
	default:
		if as.metadata == nil {
			http.NotFound(w, r)
			return
		}
		as.metadata(w, r)
	}
}

// arrive counts an introspection that begins.
func (as *fakeAS) arrive() {
	n := as.current.Add(1)
	for {
		peak := as.peak.Load()
		if n <= peak || as.peak.CompareAndSwap(peak, n) {
			return
		}
	}
}

// RoundTrip serves a request in memory. Like a real transport, it ends with the
// request's context.
func (as *fakeAS) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	as.ServeHTTP(rec, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

// recorded returns the requests that reached the server at path, in order.
func (as *fakeAS) recorded(path string) []*http.Request {
	as.mu.Lock()
	defer as.mu.Unlock()
	var found []*http.Request
	for _, r := range as.requests {
		if r.URL.Path == path {
			found = append(found, r)
		}
	}
	return found
}

// secret registers a text that no log, body or error may show, and returns it.
func (as *fakeAS) secret(s string) string {
	as.mu.Lock()
	defer as.mu.Unlock()
	as.secrets[s] = true
	if len(s) > 8 {
		usedSecrets.Store(s, true)
	}
	return s
}

// leaks returns the secrets that text shows.
func (as *fakeAS) leaks(text string) (found []string) {
	as.mu.Lock()
	defer as.mu.Unlock()
	for s := range as.secrets {
		if len(s) > 3 && (strings.Contains(text, s) || strings.Contains(text, url.QueryEscape(s))) {
			found = append(found, s)
		}
	}
	return found
}

// grepLogs fails the test if a secret is in the log.
func (as *fakeAS) grepLogs() {
	if found := as.leaks(as.logs.String()); len(found) > 0 {
		as.tb.Errorf("secrets in the log: %q", found)
	}
}

// A lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns all that was written.
func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Part 2: the Middleware.

// options returns the reference configuration for the server, and extra after
// it.
func (as *fakeAS) options(extra ...phantom.Option) []phantom.Option {
	return append([]phantom.Option{
		phantom.WithIssuer(issuer),
		phantom.WithAudience(audience),
		phantom.WithIntrospectionEndpoint(issuer + endpointPath),
		phantom.WithJWKSURL(issuer + jwksPath),
		phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret)),
		phantom.WithHTTPClient(&http.Client{Transport: as}),
		phantom.WithTimeout(2 * time.Second),
		phantom.WithLogger(slog.New(slog.NewTextHandler(&as.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))),
	}, extra...)
}

// withoutKeys is options without a key set.
func (as *fakeAS) withoutKeys(extra ...phantom.Option) []phantom.Option {
	all := as.options(extra...)
	return slices.Delete(all, 3, 4)
}

// middleware returns a Middleware with these options.
func (as *fakeAS) middleware(extra ...phantom.Option) *phantom.Middleware {
	as.tb.Helper()
	m, err := phantom.New(as.options(extra...)...)
	if err != nil {
		as.tb.Fatal(err)
	}
	return m
}

// Part 3: the spy.

// A spy is a next handler that records whether and how it ran.
type spy struct {
	mu       sync.Mutex
	requests []*http.Request
	tokens   []*phantom.Token // nil for an anonymous request
	serve    http.HandlerFunc // what else it does; nil: 200 "served"
}

// ServeHTTP records the request and its token, and answers.
func (s *spy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tok, _ := phantom.FromContext(r.Context())
	s.mu.Lock()
	s.requests, s.tokens = append(s.requests, r), append(s.tokens, tok)
	s.mu.Unlock()
	if s.serve != nil {
		s.serve(w, r)
		return
	}
	_, _ = io.WriteString(w, "served")
}

// calls returns how often the spy ran.
func (s *spy) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// last returns the request of its last run.
func (s *spy) last() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[len(s.requests)-1]
}

// get makes a request with the given Authorization values.
func get(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://rs.test/orders", nil)
	if len(authorization) > 0 {
		r.Header["Authorization"] = authorization
	}
	return r
}

// serve sends r to h and returns the answer.
func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

// Part 4: the outcome code.

// The outcome codes. On each rejection the next handler does not run, and the
// answer is a problem document that no cache may keep.
const (
	codeOK   = "OK"   // the next handler ran, with the JWT and its Token
	code400R = "400R" // the request is malformed
	code401N = "401N" // no credentials: a challenge without an error
	code401T = "401T" // the token is not valid
	code403S = "403S" // the token may not do this
	code502A = "502A" // the server answered something that is of no use
	code503A = "503A" // there is no verdict now: Retry-After, 1 to 30 seconds
	code500I = "500I" // a hook panicked
)

// challenges are the challenges of the codes that have only one.
var challenges = map[string]string{
	code400R: `Bearer realm="api", error="invalid_request", ` +
		`error_description="The bearer token is malformed or sent more than once."`,
	code401N: `Bearer realm="api"`,
	code401T: `Bearer realm="api", error="invalid_token"`,
}

// challengeTooLong is the challenge of a 400R whose token is too long.
const challengeTooLong = `Bearer realm="api", error="invalid_request", error_description="The bearer token is too long."`

// outcome checks everything that an outcome code promises of an answer, and
// returns the code that it is. The spy had run ranBefore times before.
func (as *fakeAS) outcome(rec *httptest.ResponseRecorder, next *spy, ranBefore int) string {
	as.tb.Helper()
	ran := next.calls() - ranBefore
	if found := as.leaks(rec.Body.String() + fmt.Sprint(rec.Header())); len(found) > 0 {
		as.tb.Errorf("secrets in the answer: %q", found)
	}
	if ran == 1 {
		if tok := next.tokens[len(next.tokens)-1]; tok != nil {
			got, want := next.last().Header["Authorization"], []string{"Bearer " + tok.JWT()}
			if tok.JWT() == "" {
				want = nil
			}
			if !slices.Equal(got, want) {
				as.tb.Errorf("next got Authorization %q", got)
			}
		}
		return codeOK
	}
	if ran != 0 {
		as.tb.Errorf("next ran %d times", ran)
	}
	h := rec.Header()
	if h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "application/problem+json" {
		as.tb.Errorf("rejection with header %v", h)
	}
	var problem struct {
		Type, Title, Detail string
		Status              int
	}
	err := json.Unmarshal(rec.Body.Bytes(), &problem)
	if err != nil || problem.Status != rec.Code || problem.Title == "" || problem.Type == "" {
		as.tb.Errorf("rejection with body %q", rec.Body)
	}
	return as.rejection(rec)
}

// rejection returns the code of a rejection by its status and its challenge.
func (as *fakeAS) rejection(rec *httptest.ResponseRecorder) string {
	as.tb.Helper()
	challenge, retry := rec.Header()["Www-Authenticate"], rec.Header().Get("Retry-After")
	code := fmt.Sprint(rec.Code)
	switch rec.Code {
	case 400, 401, 403:
		if len(challenge) != 1 || retry != "" {
			as.tb.Errorf("challenge %q, Retry-After %q", challenge, retry)
			return code
		}
		for _, name := range []string{code400R, code401N, code401T} {
			if strings.HasPrefix(name, code) && challenge[0] == challenges[name] {
				return name
			}
		}
		if challenge[0] == challengeTooLong {
			return code400R
		}
		if rec.Code == 403 && strings.HasPrefix(challenge[0], `Bearer realm="api", error="insufficient_scope"`) {
			return code403S
		}
		as.tb.Errorf("%d with challenge %q", rec.Code, challenge[0])
	case 500:
		code = code500I
	case 502:
		code = code502A
	case 503:
		code = code503A
		if n, err := strconv.Atoi(retry); err != nil || n < 1 || n > 30 || strconv.Itoa(n) != retry {
			as.tb.Errorf("Retry-After %q", retry)
		}
	}
	if rec.Code >= 500 && (challenge != nil || rec.Code != 503 && retry != "") {
		as.tb.Errorf("%d with challenge %q, Retry-After %q", rec.Code, challenge, retry)
	}
	return code
}

// send sends r through wrap around a spy and returns the outcome.
func (as *fakeAS) send(wrap func(http.Handler) http.Handler, r *http.Request) string {
	as.tb.Helper()
	next := &spy{}
	return as.outcome(serve(wrap(next), r), next, 0)
}

// try sends one request with the token through m and returns the outcome.
func (as *fakeAS) try(m *phantom.Middleware, token string) string {
	as.tb.Helper()
	return as.send(m.Handler, get("Bearer "+as.secret(token)))
}

// judge returns the outcome of a fresh Middleware for a JWT that the server
// answers.
func judge(t *testing.T, jwt string, extra ...phantom.Option) string {
	t.Helper()
	as := newAS(t)
	as.secret(jwt)
	as.introspect = answerJWT(jwt)
	return as.try(as.middleware(extra...), "opaque-token-of-alice")
}

// Part 5: JWTs and keys.

// claims returns the default claims with changes; a nil value removes one.
func claims(changes map[string]any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{
		"iss": issuer, "aud": audience, "sub": "alice", "client_id": "app", "jti": "id-1",
		"scope": "read write", "iat": now, "exp": now + 300,
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// null is a JSON null, which claims does not take for a removal.
var null = json.RawMessage("null")

// mint returns a JWT with the default header for alg and the given claims.
func mint(alg string, c map[string]any) string {
	header := fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"at+jwt"}`, alg, "k-"+alg)
	return compact(alg, keyFor(alg), header, string(must(json.Marshal(c))))
}

// mintHeader is mint with another header, given as JSON.
func mintHeader(alg, header string, c map[string]any) string {
	return compact(alg, keyFor(alg), header, string(must(json.Marshal(c))))
}

// compact signs header and payload as they are given.
func compact(alg string, key crypto.Signer, header, payload string) string {
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	return input + "." + b64(signature(alg, key, input))
}

// signature makes a signature of alg over any input.
func signature(alg string, key crypto.Signer, input string) []byte {
	var hash crypto.Hash
	var digest []byte
	switch alg[2:] {
	case "256":
		d := sha256.Sum256([]byte(input))
		hash, digest = crypto.SHA256, d[:]
	case "384":
		d := sha512.Sum384([]byte(input))
		hash, digest = crypto.SHA384, d[:]
	case "512":
		d := sha512.Sum512([]byte(input))
		hash, digest = crypto.SHA512, d[:]
	default: // EdDSA
		return must(key.Sign(rand.Reader, []byte(input), crypto.Hash(0)))
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if strings.HasPrefix(alg, "PS") {
			opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
			return must(rsa.SignPSS(rand.Reader, k, hash, digest, opts))
		}
		return must(rsa.SignPKCS1v15(rand.Reader, k, hash, digest))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, digest)
		if err != nil {
			panic(err)
		}
		n := (k.Curve.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
	}
	panic("no such key")
}

// allAlgorithms are those that are on by default.
var allAlgorithms = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// The keys are made once, because RSA keys take long under the race detector.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return must(k, err)
	})
)

// keyFor returns the key that the server signs with for alg.
func keyFor(alg string) crypto.Signer {
	switch alg {
	case "ES256":
		return p256Key()
	case "ES384":
		return p384Key()
	case "ES512":
		return p521Key()
	case "EdDSA":
		return edKey()
	}
	return rsaKey()
}

// jwk returns the public JWK of a key.
func jwk(kid, alg string, pub crypto.PublicKey) map[string]any {
	m := map[string]any{"use": "sig"}
	if kid != "" {
		m["kid"] = kid
	}
	if alg != "" {
		m["alg"] = alg
	}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		point := must(k.Bytes())[1:]
		n := len(point) / 2
		m["kty"], m["crv"], m["x"], m["y"] = "EC", k.Curve.Params().Name, b64(point[:n]), b64(point[n:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(k)
	}
	return m
}

// jwks returns a key set.
func jwks(keys ...map[string]any) string {
	return string(must(json.Marshal(map[string]any{"keys": keys})))
}

// allKeys returns the key set with the key of each algorithm.
func allKeys() string {
	var keys []map[string]any
	for _, alg := range allAlgorithms {
		keys = append(keys, jwk("k-"+alg, alg, keyFor(alg).Public()))
	}
	return jwks(keys...)
}

// b64 is the base64url of JOSE.
func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// must returns v and panics if there is an error.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
