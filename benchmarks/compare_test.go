package benchmarks_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	auth0v2 "github.com/auth0/go-jwt-middleware/v2"
	validatorv2 "github.com/auth0/go-jwt-middleware/v2/validator"
	auth0v3 "github.com/auth0/go-jwt-middleware/v3"
	validatorv3 "github.com/auth0/go-jwt-middleware/v3/validator"

	"github.com/phantom-token/phantom"
)

const (
	issuer   = "https://as.test"
	audience = "https://rs.test"
	subject  = "alice"

	opaque  = "_0XBPWQQ_00000001-a8f1-4d3e-9c53-5c0d6c7b" // stands for goodJWT
	unknown = "_0XBPWQQ_00000002-a8f1-4d3e-9c53-5c0d6c7b"

	// ttl is how long the cache keeps what it knows: longer than a run.
	ttl = 12 * time.Hour
)

var (
	key      = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	goodJWT  = sync.OnceValue(func() string { return mint(key(), nil) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// mint returns an RS256 JWT of 800 bytes with the usual claims and changes.
func mint(key *rsa.PrivateKey, changes map[string]any) string {
	now := time.Now()
	claims := map[string]any{
		"iss": issuer, "aud": audience, "sub": subject, "client_id": "app", "jti": "id-1",
		"scope": "read write", "iat": now.Unix(), "exp": now.Add(2 * ttl).Unix(),
	}
	maps.Copy(claims, changes)
	encode := base64.RawURLEncoding.EncodeToString
	input := ""
	for padding := 0; len(input)+len(".")+base64.RawURLEncoding.EncodedLen(key.Size()) < 800; padding++ {
		claims["padding"] = strings.Repeat("x", padding)
		input = encode([]byte(`{"alg":"RS256","kid":"k-1","typ":"at+jwt"}`)) + "." + encode(must(json.Marshal(claims)))
	}
	digest := sha256.Sum256([]byte(input))
	return input + "." + encode(must(rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])))
}

// A server is an authorization server in memory. It knows one opaque token, and
// counts how often it is asked.
type server struct{ lookups int }

// RoundTrip answers an introspection with the JWT, as phantom asks for it.
func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.lookups++
	form, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	resp := &http.Response{
		StatusCode: http.StatusNoContent, Header: http.Header{"Content-Type": {"application/jwt"}}, Body: http.NoBody, Request: r,
	}
	if values, err := url.ParseQuery(string(form)); err == nil && values.Get("token") == opaque {
		resp.StatusCode, resp.Body = http.StatusOK, io.NopCloser(strings.NewReader(goodJWT()))
	}
	return resp, nil
}

type floorKey struct{}

// A floorContext holds what the next handler is told, and the value of the new
// Authorization field: one allocation for both.
type floorContext struct {
	context.Context
	subject string
	value   [1]string
}

func (c *floorContext) Value(key any) any {
	if key == (floorKey{}) {
		return c.subject
	}
	return c.Context.Value(key)
}

// floor makes the cheapest copy of a request that hands another token on.
func floor(_ *server, next http.Handler) http.Handler {
	value := "Bearer " + goodJWT()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := &floorContext{r.Context(), subject, [1]string{value}}
		out := r.WithContext(ctx)
		out.Header = maps.Clone(r.Header)
		out.Header["Authorization"] = ctx.value[:]
		next.ServeHTTP(w, out)
	})
}

func withPhantom(s *server, next http.Handler) http.Handler {
	return must(phantom.New(
		phantom.WithIssuer(issuer), phantom.WithAudience(audience),
		phantom.WithIntrospectionEndpoint(issuer+"/introspect"),
		phantom.WithClientAuth(phantom.ClientSecretBasic("gateway", "secret")),
		phantom.WithHTTPClient(&http.Client{Transport: s}),
		phantom.WithKeySet(phantom.StaticKeys(key().Public())), phantom.WithMaxTTL(ttl),
	)).Handler(next)
}

func withAuth0v2(_ *server, next http.Handler) http.Handler {
	v := must(validatorv2.New(staticKey, validatorv2.RS256, issuer, []string{audience}))
	return auth0v2.New(v.ValidateToken).CheckJWT(next)
}

func withAuth0v3(_ *server, next http.Handler) http.Handler {
	v := must(validatorv3.New(validatorv3.WithKeyFunc(staticKey), validatorv3.WithAlgorithm(validatorv3.RS256),
		validatorv3.WithIssuer(issuer), validatorv3.WithAudience(audience)))
	return must(auth0v3.New(auth0v3.WithValidator(v))).CheckJWT(next)
}

func staticKey(context.Context) (any, error) { return &key().PublicKey, nil }

// A contender is a middleware with the token that it lets pass.
type contender struct {
	name      string
	wrap      func(*server, http.Handler) http.Handler
	token     string
	lookups   int    // all that its server is asked about the token
	forwarded string // the Authorization field that the next handler gets
	// chunk is how many requests are timed at once: about as many as take as
	// long as floorChunk.
	chunk int
	// subject returns who the next handler is told the request is from.
	subject func(context.Context) string
}

func contenders() []contender {
	swapped := "Bearer " + goodJWT()
	return []contender{
		{"Floor", floor, opaque, 0, swapped, floorChunk, func(ctx context.Context) string {
			return ctx.Value(floorKey{}).(string)
		}},
		{"Phantom", withPhantom, opaque, 1, swapped, floorChunk, func(ctx context.Context) string {
			token, _ := phantom.FromContext(ctx)
			return token.Subject()
		}},
		{"Auth0v2", withAuth0v2, goodJWT(), 0, swapped, floorChunk / 16, func(ctx context.Context) string {
			return ctx.Value(auth0v2.ContextKey{}).(*validatorv2.ValidatedClaims).RegisteredClaims.Subject
		}},
		{"Auth0v3", withAuth0v3, goodJWT(), 0, swapped, floorChunk / 16, func(ctx context.Context) string {
			return auth0v3.MustGetClaims[*validatorv3.ValidatedClaims](ctx).RegisteredClaims.Subject
		}},
	}
}

// request has twelve header fields, as a browser's request behind a load
// balancer has, or eleven without a token.
func request(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://rs.test/orders/42?expand=lines", nil)
	for name, value := range map[string]string{
		"Accept":            "application/json",
		"Accept-Encoding":   "gzip, deflate, br",
		"Accept-Language":   "en-GB,en;q=0.9",
		"Cache-Control":     "no-cache",
		"Origin":            "https://app.example.com",
		"Referer":           "https://app.example.com/orders",
		"Traceparent":       "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"User-Agent":        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		"X-Forwarded-For":   "192.0.2.7",
		"X-Forwarded-Proto": "https",
		"X-Request-Id":      "8f14e45f-ceea-467f-9d4b-2a2c1c1b3b2d",
	} {
		r.Header.Set(name, value)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

// TestContenders: what is timed does what it is there for. A good token reaches
// the next handler, as often as it comes and with one lookup at most; others do
// not.
func TestContenders(t *testing.T) {
	if n := len(goodJWT()); n < 800 || n > 802 {
		t.Errorf("the JWT is %d bytes long", n)
	}
	past := time.Now().Add(-time.Hour).Unix()
	bad := map[string]string{
		"none":           "",
		"unknown":        unknown,
		"forged":         mint(otherKey(), nil),
		"other audience": mint(key(), map[string]any{"aud": "https://other.test"}),
		"other issuer":   mint(key(), map[string]any{"iss": "https://other.test"}),
		"expired":        mint(key(), map[string]any{"iat": past - 60, "exp": past}),
	}
	for _, c := range contenders() {
		t.Run(c.name, func(t *testing.T) {
			s, passed := new(server), 0
			h := c.wrap(s, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				passed++
				if got := c.subject(r.Context()); got != subject {
					t.Errorf("from %q", got)
				}
				if r.Header.Get("Authorization") != c.forwarded {
					t.Error("another Authorization field is handed on")
				}
			}))
			r := request(c.token)
			before := r.Header.Clone()
			for range 3 {
				rec := httptest.NewRecorder()
				if h.ServeHTTP(rec, r); rec.Code != http.StatusOK {
					t.Errorf("status %d", rec.Code)
				}
			}
			if passed != 3 || s.lookups != c.lookups {
				t.Errorf("%d of 3 passed, with %d lookups, want %d", passed, s.lookups, c.lookups)
			}
			// The benchmarks send one request again and again.
			if !maps.EqualFunc(before, r.Header, slices.Equal) {
				t.Error("the request was changed")
			}
			if c.name == "Floor" {
				return
			}
			for name, token := range bad {
				rec := httptest.NewRecorder()
				if h.ServeHTTP(rec, request(token)); rec.Code < 400 || rec.Code > 401 || passed != 3 {
					t.Errorf("%s: status %d, %d passed", name, rec.Code, passed)
				}
			}
		})
	}
}

// A sink takes answers.
type sink struct{ status int }

func (*sink) Header() http.Header         { return http.Header{} }
func (*sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(status int)    { s.status = status }

// load returns a function that sends one request n times, the first of them
// before it returns.
func load(b *testing.B, c contender) func(n int) {
	h := c.wrap(new(server), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := request(c.token)
	send := func(n int) {
		w := &sink{}
		for range n {
			h.ServeHTTP(w, r)
		}
		if w.status != 0 {
			b.Fatalf("%s: status %d", c.name, w.status)
		}
	}
	send(1)
	return send
}

// likeAService has the collector run as rarely as in a service, which has a
// larger heap than a benchmark.
func likeAService(b *testing.B) {
	ballast := make([]byte, 64<<20)
	b.Cleanup(func() { runtime.KeepAlive(ballast) })
}

// floorChunk requests take a few milliseconds through the floor.
const floorChunk = 4096

// BenchmarkRequest runs the floor and each contender in turn, in chunks so short
// that whatever else the machine does slows both of them down. Only the
// contender is timed and counted by the benchmark; x-floor is the median of the
// ratios.
func BenchmarkRequest(b *testing.B) {
	likeAService(b)
	for _, c := range contenders() {
		b.Run(c.name, func(b *testing.B) {
			base, send := load(b, contenders()[0]), load(b, c)
			b.ReportAllocs()
			b.StopTimer()
			b.ResetTimer()
			var ratios []float64
			for done := 0; done < b.N; done += c.chunk {
				n := min(c.chunk, b.N-done)
				start := time.Now()
				base(floorChunk)
				each := float64(time.Since(start)) / floorChunk
				b.StartTimer()
				start = time.Now()
				send(n)
				took := time.Since(start)
				b.StopTimer()
				ratios = append(ratios, float64(took)/float64(n)/each)
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "x-floor")
		})
	}
}
