package phantom_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// This file says what the middleware promises, one row of a table a promise. A
// client sends a request, the authorization server says something of its token,
// and then each of the three must have got exactly what the row says: the
// client, the next handler and the server. The folder conformance has the rest.

// A promise is one row.
type promise struct {
	name string

	sends []string // the client's Authorization values
	says  answer   // what the server says of every token

	client got      // what the client gets
	next   *ran     // what the next handler gets; nil: it does not run
	server []string // the forms that the server gets, all in all

	// How the row differs from one request to Handler.
	options []phantom.Option
	wrap    func(*phantom.Middleware, http.Handler) http.Handler
	before  func(m *phantom.Middleware, send func()) // the request that counts
	atOnce  int                                      // requests that count
}

type (
	answer struct {
		status            int // 0: nothing at all
		contentType, body string
	}
	got struct {
		status                              int
		challenge, retryAfter, cacheControl string
	}
	ran struct {
		authorization string
		subject       string // of the token in the context; empty: there is none
	}
)

// What most rows have in common.
var (
	bearer = []string{"Bearer opaque"}
	once   = []string{"token=opaque&token_type_hint=access_token"}
	twice  = append(once, once...)

	alice   = jwt("", nil)
	good    = with(alice)
	passed  = got{status: 200}
	swapped = &ran{"Bearer " + alice, "alice"}

	malformed = got{400, `Bearer realm="api", error="invalid_request", ` +
		`error_description="The bearer token is malformed or sent more than once."`, "", "no-store"}
	noToken  = got{401, `Bearer realm="api"`, "", "no-store"}
	badToken = got{401, `Bearer realm="api", error="invalid_token"`, "", "no-store"}
	tooWeak  = got{403, `Bearer realm="api", error="insufficient_scope", scope="admin"`, "", "no-store"}
	internal = got{500, "", "", "no-store"}
	useless  = got{502, "", "", "no-store"}
	outage   = got{503, "", "1", "no-store"}
)

// with is the answer with a JWT, and requiring a route that asks for a scope.
func with(jwt string) answer { return answer{200, "application/jwt", jwt} }

func requiring(scope string) func(*phantom.Middleware, http.Handler) http.Handler {
	return func(m *phantom.Middleware, next http.Handler) http.Handler { return m.RequireScopes(scope)(next) }
}

var promises = []promise{
	// A good token is swapped, in each form in which the server hands out JWTs.
	{name: "a JWT", sends: bearer, says: good, client: passed, next: swapped, server: once},
	{name: "JSON with phantom_token", sends: bearer,
		says:   answer{200, "application/json", `{"active":true,"phantom_token":"` + alice + `"}`},
		client: passed, next: swapped, server: once},
	{name: "JSON with jwt", sends: bearer,
		says:   answer{200, "application/json", `{"active":true,"jwt":"` + alice + `"}`},
		client: passed, next: swapped, server: once},

	// What is no bearer token is refused without asking the server.
	{name: "no token", sends: nil, says: good, client: noToken},
	{name: "another scheme", sends: []string{"Basic dXNlcjpwYXNz"}, says: good, client: noToken},
	{name: "two words", sends: []string{"Bearer opaque token"}, says: good, client: malformed},
	{name: "two fields", sends: []string{"Bearer opaque", "Bearer opaque"}, says: good, client: malformed},

	// A token is invalid if the server says so, or if its JWT fails a check.
	{name: "inactive", sends: bearer, says: answer{204, "", ""}, client: badToken, server: once},
	{name: "inactive in JSON", sends: bearer,
		says:   answer{200, "application/json", `{"active":false,"phantom_token":"` + alice + `"}`},
		client: badToken, server: once},
	{name: "wrong audience", sends: bearer, says: with(jwt("aud", "https://other.test")), client: badToken, server: once},
	{name: "wrong issuer", sends: bearer, says: with(jwt("iss", "https://other.test")), client: badToken, server: once},
	{name: "wrong signature", sends: bearer, says: with(forged("sub", "mallory")), client: badToken, server: once},
	{name: "expired", sends: bearer, says: with(jwt("exp", bubbleStart-11)), client: badToken, server: once},

	// Without a verdict the client is not to blame, and is not let in.
	{name: "an unusable answer", sends: bearer, says: answer{200, "text/html", alice}, client: useless, server: once},
	{name: "our credentials refused", sends: bearer, says: answer{401, "application/json", `{"error":"invalid_client"}`},
		client: useless, server: once},
	{name: "an outage", sends: bearer, says: answer{503, "", ""}, client: outage, server: once},
	{name: "silence", sends: bearer, says: answer{}, client: outage, server: once},

	// A route asks for scopes.
	{name: "the scope is there", sends: bearer, says: good, client: passed, next: swapped, server: once,
		wrap: requiring("read")},
	{name: "the scope is missing", sends: bearer, says: good, client: tooWeak, server: once,
		wrap: requiring("admin")},

	// A verdict is remembered for a minute, and a lookup is shared.
	{name: "a second request is a hit", sends: bearer, says: good, client: passed, next: swapped, server: once,
		before: func(_ *phantom.Middleware, send func()) { send(); time.Sleep(30 * time.Second) }},
	{name: "a minute later it is no hit", sends: bearer, says: good, client: passed, next: swapped, server: twice,
		before: func(_ *phantom.Middleware, send func()) { send(); time.Sleep(61 * time.Second) }},
	{name: "a thousand at once ask once", sends: bearer, says: good, client: passed, next: swapped, server: once,
		atOnce: 1000},
	{name: "Forget asks again", sends: bearer, says: good, client: passed, next: swapped, server: twice,
		before: func(m *phantom.Middleware, send func()) { send(); m.Forget("opaque") }},

	// Optional lets a request without credentials pass, and no other.
	{name: "Optional without a token", sends: nil, says: good, client: passed, next: &ran{},
		wrap: (*phantom.Middleware).Optional},
	{name: "Optional with a good token", sends: bearer, says: good, client: passed, next: swapped, server: once,
		wrap: (*phantom.Middleware).Optional},
	{name: "Optional with a bad token", sends: bearer, says: answer{204, "", ""}, client: badToken, server: once,
		wrap: (*phantom.Middleware).Optional},

	// Nothing that fails lets a request through.
	{name: "a panic in a hook", sends: bearer, says: good, client: internal, server: once,
		options: []phantom.Option{phantom.WithRequirements(func(*phantom.Token) error { panic("a bug") })}},
}

// Each promise holds.
func TestMiddleware(t *testing.T) {
	for _, tc := range promises {
		t.Run(tc.name, func(t *testing.T) { synctest.Test(t, tc.check) })
	}
}

// check plays a row in a bubble, in which a minute takes no time.
func (p promise) check(t *testing.T) {
	server := &scriptedServer{t: t, says: p.says}
	m, err := phantom.New(append([]phantom.Option{
		phantom.WithIssuer(benchIssuer), phantom.WithAudience(benchAudience),
		phantom.WithIntrospectionEndpoint(benchEndpoint), phantom.WithJWKSURL(benchJWKS),
		phantom.WithClientAuth(phantom.ClientSecretBasic("gateway", "secret")),
		phantom.WithHTTPClient(&http.Client{Transport: server}), phantom.WithLogger(slog.New(slog.DiscardHandler)),
	}, p.options...)...)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var runs []ran
	next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		run := ran{authorization: strings.Join(r.Header["Authorization"], "; ")}
		if tok, ok := phantom.FromContext(r.Context()); ok {
			run.subject = tok.Subject()
		}
		mu.Lock()
		defer mu.Unlock()
		runs = append(runs, run)
	})
	handler := m.Handler(next)
	if p.wrap != nil {
		handler = p.wrap(m, next)
	}
	send := func() got {
		r, w := httptest.NewRequest(http.MethodGet, "https://rs.test/orders", nil), httptest.NewRecorder()
		r.Header["Authorization"] = p.sends
		handler.ServeHTTP(w, r)
		value := func(name string) string { return strings.Join(w.Header().Values(name), "; ") }
		return got{w.Code, value("WWW-Authenticate"), value("Retry-After"), value("Cache-Control")}
	}
	if p.before != nil {
		p.before(m, func() { send() })
		runs = nil
	}
	var requests sync.WaitGroup
	for range max(p.atOnce, 1) {
		requests.Go(func() {
			if client := send(); client != p.client {
				t.Errorf("the client got  %+v\nwant %+v", client, p.client)
			}
		})
	}
	requests.Wait()
	synctest.Wait() // for a lookup that outlives its request
	var want []ran
	if p.next != nil {
		want = slices.Repeat([]ran{*p.next}, max(p.atOnce, 1))
	}
	if !slices.Equal(runs, want) {
		t.Errorf("the next handler got %+v\nwant %+v", runs, want)
	}
	if !slices.Equal(server.forms, p.server) {
		t.Errorf("the server got %q\nwant %q", server.forms, p.server)
	}
}

// A scriptedServer is an authorization server that says one thing of every
// token, after a moment in which requests at once can meet.
type scriptedServer struct {
	t     *testing.T
	says  answer
	mu    sync.Mutex
	forms []string // all that it got
}

func (s *scriptedServer) RoundTrip(r *http.Request) (*http.Response, error) {
	says := s.says
	if r.URL.String() == benchJWKS {
		public := b64(benchKey().Public().(ed25519.PublicKey))
		says = answer{200, "application/json", fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":%q}]}`, public)}
	} else {
		id, secret, _ := r.BasicAuth()
		if r.Method != http.MethodPost || r.URL.String() != benchEndpoint || id != "gateway" || secret != "secret" {
			s.t.Errorf("%s %s as %q", r.Method, r.URL, id)
		}
		form, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.forms = append(s.forms, string(form))
		s.mu.Unlock()
	}
	time.Sleep(100 * time.Millisecond)
	if says.status == 0 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{
		StatusCode: says.status, Header: http.Header{"Content-Type": {says.contentType}},
		Body: io.NopCloser(strings.NewReader(says.body)), Request: r,
	}, nil
}

// bubbleStart is when time begins in a bubble, the year 2000.
const bubbleStart = 946684800

// jwt returns a JWT of that time that belongs to alice and lasts five minutes,
// with one claim changed.
func jwt(claim string, value any) string {
	claims := map[string]any{
		"iss": benchIssuer, "aud": benchAudience, "sub": "alice", "client_id": "app", "jti": "id-1",
		"scope": "read write", "iat": bubbleStart, "exp": bubbleStart + 300,
	}
	if claim != "" {
		claims[claim] = value
	}
	payload, _ := json.Marshal(claims)
	input := b64([]byte(`{"alg":"EdDSA","typ":"at+jwt"}`)) + "." + b64(payload)
	return input + "." + b64(ed25519.Sign(benchKey(), []byte(input)))
}

// forged is jwt with the signature of the JWT without the change.
func forged(claim string, value any) string {
	changed, honest := jwt(claim, value), jwt("", nil)
	return changed[:strings.LastIndex(changed, ".")] + honest[strings.LastIndex(honest, "."):]
}

// What prints the context that next gets does not print the JWT, and what next
// does to the request's field does no harm to the next request.
func TestNextCannotSpillOrSpoilTheJWT(t *testing.T) {
	calls := 0
	next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		calls++
		values := r.Header["Authorization"]
		if len(values) != 1 || values[0] != "Bearer "+benchJWT() {
			t.Errorf("call %d: %d values, or not the JWT", calls, len(values))
		}
		ctx := context.WithValue(r.Context(), http.ServerContextKey, "x")
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			for _, printed := range []any{r.Context(), ctx, &struct{ ctx context.Context }{r.Context()}} {
				if text := fmt.Sprintf(verb, printed); strings.Contains(text, benchJWT()[:40]) ||
					strings.Contains(text, fmt.Sprintf("%x", benchJWT()[:40])) {
					t.Errorf("%s prints the JWT of %T", verb, printed)
				}
			}
		}
		values[0] = "spoilt"
		_ = append(values, "spoilt too")
		r.Header.Add("Authorization", "spoilt as well")
	})
	h := new(benchServer).middleware(t).Handler(next)
	r := benchRequest(opaque(1))
	for range 3 {
		h.ServeHTTP(&sink{}, r)
	}
	if calls != 3 || r.Header.Get("Authorization") != "Bearer "+opaque(1) {
		t.Errorf("%d calls, or the request changed", calls)
	}
}
