package phantom_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"sync/atomic"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/mint"
	"github.com/phantom-token/phantom/phantomtest"
)

// show prints what a client sees.
func show(h http.Handler, method, target, token string) {
	r := httptest.NewRequest(method, target, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if challenge := w.Header().Get("WWW-Authenticate"); challenge != "" {
		fmt.Println(w.Code, challenge)
		return
	}
	fmt.Println(w.Code, w.Body)
}

// A mux behind the middleware, and the claims in a handler.
func Example() {
	as := phantomtest.New() // in a service: the options of your authorization server
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		fmt.Fprintf(w, "hello %s", tok.Subject())
	})
	api := auth.Handler(mux)

	token := as.Issue(map[string]any{"sub": "alice"})
	show(api, "GET", "/hello", token)
	show(api, "GET", "/hello", "")
	// Output:
	// 200 hello alice
	// 401 Bearer realm="api"
}

// A route for which a token needs a scope.
func ExampleMiddleware_RequireScopes() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}

	orders := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "orders") })
	mux := http.NewServeMux()
	mux.Handle("GET /orders", auth.RequireScopes("orders:read")(orders))

	show(mux, "GET", "/orders", as.Issue(map[string]any{"scope": "orders:read"}))
	show(mux, "GET", "/orders", as.Issue(map[string]any{"scope": "profile"}))
	// Output:
	// 200 orders
	// 403 Bearer realm="api", error="insufficient_scope", scope="orders:read"
}

// A requirement of your own. Its Error chooses the challenge.
func ExampleMiddleware_Require() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}

	strong := func(tok *phantom.Token) error {
		var claims struct {
			ACR string `json:"acr"`
		}
		if err := tok.Decode(&claims); err != nil {
			return err
		}
		if claims.ACR == "mfa" {
			return nil
		}
		return &phantom.Error{ // RFC 9470's step-up
			Reason: "step_up",
			Status: http.StatusUnauthorized,
			Code:   "insufficient_user_authentication",
			Params: map[string]string{"acr_values": "mfa"},
		}
	}
	pay := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "paid") })
	h := auth.Require(strong)(pay)

	show(h, "POST", "/pay", as.Issue(map[string]any{"acr": "mfa"}))
	show(h, "POST", "/pay", as.Issue(nil))
	// Output:
	// 200 paid
	// 401 Bearer realm="api", error="insufficient_user_authentication", acr_values="mfa"
}

// Claims of your own, typed.
func ExampleClaims() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}

	type claims struct {
		Subject string `json:"sub"`
		Tenant  int64  `json:"tenant"`
	}
	h := auth.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := phantom.Claims[claims](r.Context())
		if err != nil {
			http.Error(w, "claims", http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "%s of tenant %d", c.Subject, c.Tenant)
	}))

	show(h, "GET", "/", as.Issue(map[string]any{"sub": "alice", "tenant": int64(9007199254740993)}))
	// Output: 200 alice of tenant 9007199254740993
}

// A page that greets those who are known.
func ExampleMiddleware_Optional() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}

	h := auth.Optional(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tok, ok := phantom.FromContext(r.Context()); ok {
			fmt.Fprintf(w, "hello %s", tok.Subject())
			return
		}
		fmt.Fprint(w, "hello stranger")
	}))

	show(h, "GET", "/", "")
	show(h, "GET", "/", as.Issue(map[string]any{"sub": "alice"}))
	show(h, "GET", "/", "made-up") // never anonymous
	// Output:
	// 200 hello stranger
	// 200 hello alice
	// 401 Bearer realm="api", error="invalid_token"
}

// An error page of your own. The challenge is already set.
func ExampleWithErrorHandler() {
	as := phantomtest.New()
	auth, err := phantom.New(append(as.Options(),
		phantom.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err *phantom.Error) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(err.StatusCode())
			if errors.Is(err, phantom.ErrUnavailable) {
				fmt.Fprint(w, "come back in a moment")
			}
		}))...)
	if err != nil {
		log.Fatal(err)
	}

	h := auth.Handler(http.NotFoundHandler())
	show(h, "GET", "/", "")
	as.Fail(http.StatusInternalServerError, 1)
	show(h, "GET", "/", as.Issue(nil))
	// Output:
	// 401 Bearer realm="api"
	// 503 come back in a moment
}

// Logout: the token is not to be accepted a moment longer.
func ExampleMiddleware_Forget() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}
	h := auth.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "served") }))

	token := as.Issue(nil)
	show(h, "GET", "/", token)
	as.Revoke(token)
	show(h, "GET", "/", token) // remembered, for up to WithMaxTTL
	if err := auth.Forget(token); err != nil {
		log.Print(err) // other replicas could not be told (WithStore)
	}
	show(h, "GET", "/", token)
	// Output:
	// 200 served
	// 200 served
	// 401 Bearer realm="api", error="invalid_token"
}

// Without net/http: gRPC, a websocket's first message, a queue.
func ExampleMiddleware_Verify() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}
	tok, err := auth.Verify(context.Background(), as.Issue(map[string]any{"sub": "alice"}))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tok.Subject())

	_, err = auth.Verify(context.Background(), "made-up")
	fmt.Println(errors.Is(err, phantom.ErrInvalidToken))
	// Output:
	// alice
	// true
}

// jwtIssuer stands for an authorization server whose access tokens are JWTs. It
// returns its keys and a function that issues one.
func jwtIssuer(issuer string) (phantom.KeySet, func(subject string) string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	minter, err := mint.New(issuer, []mint.Key{{Signer: key}}, mint.WithAudience("https://rs.test"))
	if err != nil {
		log.Fatal(err)
	}
	return minter, func(subject string) string {
		jwt, err := minter.Mint(context.Background(), "", &phantom.Introspection{
			Active: true, Claims: fmt.Appendf(nil, `{"sub":%q,"client_id":"app"}`, subject),
		})
		if err != nil {
			log.Fatal(err)
		}
		return jwt
	}
}

// A migration: opaque tokens of one server and JWTs of another on one route.
func ExampleDispatch() {
	as := phantomtest.New(phantomtest.WithIssuer("https://old.test"))
	opaque, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}
	keys, issue := jwtIssuer("https://new.test")
	jwts, err := phantom.New(
		phantom.WithIssuer("https://new.test"),
		phantom.WithAudience("https://rs.test"),
		phantom.WithoutIntrospection(),
		phantom.WithKeySet(keys), // by default, those that the issuer publishes
	)
	if err != nil {
		log.Fatal(err)
	}

	auth, err := phantom.Dispatch([]*phantom.Middleware{opaque, jwts}, func(token string) *phantom.Middleware {
		switch iss, ok := phantom.UnverifiedIssuer(token); {
		case !ok:
			return opaque
		case iss == "https://new.test":
			return jwts
		}
		return nil // a JWT of someone else
	})
	if err != nil {
		log.Fatal(err)
	}
	h := auth.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		fmt.Fprintf(w, "%s of %s", tok.Subject(), tok.Issuer())
	}))

	show(h, "GET", "/", as.Issue(map[string]any{"sub": "alice"}))
	show(h, "GET", "/", issue("bob"))
	_, stranger := jwtIssuer("https://stranger.test")
	show(h, "GET", "/", stranger("eve"))
	fmt.Println("introspections:", as.Introspections())
	// Output:
	// 200 alice of https://old.test
	// 200 bob of https://new.test
	// 401 Bearer realm="api", error="invalid_token"
	// introspections: 1
}

// otherKeySet stands for the key set of another library. It has the one method
// that go-oidc's RemoteKeySet has, which therefore fits as it is.
type otherKeySet struct{ keys phantom.KeySet }

func (s *otherKeySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	return s.keys.VerifySignature(ctx, jwt)
}

// Keys from elsewhere.
func ExampleWithKeySet() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	_, err = phantom.New(
		phantom.WithIssuer("https://login.example.com"),
		phantom.WithAudience("https://api.example.com"),
		phantom.WithIntrospectionEndpoint("https://login.example.com/introspect"),
		phantom.WithClientAuth(phantom.ClientSecretBasic("gateway", "not-in-code")),
		phantom.WithKeySet(&otherKeySet{phantom.StaticKeys(key.Public())}),
	)
	fmt.Println(err)
	// Output: <nil>
}

// A private key in place of a shared secret.
func ExamplePrivateKeyJWT() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // from a file or a key store
	if err != nil {
		log.Fatal(err)
	}
	_, err = phantom.New(
		phantom.WithIssuer("https://login.example.com"),
		phantom.WithAudience("https://api.example.com"),
		phantom.WithClientAuth(phantom.PrivateKeyJWT("gateway", "key-1", "ES256", key)),
	)
	fmt.Println(err)
	// Output: <nil>
}

// A certificate in place of a secret: it is the transport's.
func ExampleTLSClientAuth() {
	var certificate tls.Certificate // of tls.LoadX509KeyPair
	transport := phantom.NewTransport()
	transport.TLSClientConfig.Certificates = []tls.Certificate{certificate}
	_, err := phantom.New(
		phantom.WithIssuer("https://login.example.com"),
		phantom.WithAudience("https://api.example.com"),
		phantom.WithHTTPClient(&http.Client{Transport: transport}),
		phantom.WithClientAuth(phantom.TLSClientAuth("gateway")),
	)
	fmt.Println(err)
	// Output: <nil>
}

// rotating is a ClientAuth whose secret can be replaced while serving.
type rotating struct {
	id     string
	secret atomic.Pointer[string]
}

func (a *rotating) Authenticate(req *http.Request, form url.Values) error {
	return phantom.ClientSecretBasic(a.id, *a.secret.Load()).Authenticate(req, form)
}

// A secret that is rotated without a restart.
func ExampleClientAuth() {
	as := phantomtest.New(phantomtest.WithClient("gateway", "new-secret"))
	auth := &rotating{id: "gateway"}
	old, renewed := "old-secret", "new-secret"
	auth.secret.Store(&old)

	m, err := phantom.New(append(as.Options(), phantom.WithClientAuth(auth))...)
	if err != nil {
		log.Fatal(err)
	}
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "served") }))

	token := as.Issue(nil)
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code) // our fault, not the client's
	auth.secret.Store(&renewed)
	show(h, "GET", "/", token)
	// Output:
	// 502
	// 200 served
}

// All mistakes are reported at once.
func ExampleNew_mistakes() {
	_, err := phantom.New(
		phantom.WithIssuer("http://login.example.com"),
		phantom.WithClientAuth(phantom.ClientSecretBasic("gateway", os.Getenv("NO_SUCH_SECRET"))),
	)
	fmt.Println(err)
	// Output:
	// phantom: WithIssuer: "http://login.example.com" is not https; see WithInsecureHTTP
	// phantom: WithAudience: is required: what the server's tokens have in aud for this service
	// phantom: WithClientAuth: empty client secret, as of a variable that is not set
}
