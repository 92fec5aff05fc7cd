package phantom_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/mint"
	"github.com/phantom-token/phantom/phantomtest"
)

// served answers with the subject of the request's token.
var served = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	tok, _ := phantom.FromContext(r.Context())
	fmt.Fprintf(w, "served %s", tok.Subject())
})

// sessions is an Introspector: it knows tokens without asking anyone. A real
// one would ask a database, or a server with a protocol of its own.
type sessions map[string]string

func (s sessions) Introspect(_ context.Context, token string) (*phantom.Introspection, error) {
	user, ok := s[token]
	if !ok {
		return &phantom.Introspection{Active: false}, nil
	}
	return &phantom.Introspection{
		Active: true,
		Claims: fmt.Appendf(nil, `{"iss":"https://login.example.com","aud":"https://api.example.com","sub":%q}`, user),
	}, nil
}

// Another way to ask about a token. What it says is checked like the answer of
// an introspection endpoint, and remembered like one.
func ExampleWithIntrospector() {
	auth, err := phantom.New(
		phantom.WithIssuer("https://login.example.com"),
		phantom.WithAudience("https://api.example.com"),
		phantom.WithIntrospector(sessions{"0123456789abcdef": "alice"}),
		phantom.WithoutJWT(),
	)
	if err != nil {
		log.Fatal(err)
	}
	h := auth.Handler(served)
	show(h, "GET", "/", "0123456789abcdef")
	show(h, "GET", "/", "made-up")
	// Output:
	// 200 served alice
	// 401 Bearer realm="api", error="invalid_token"
}

// Browsers bring the token in a cookie, other clients in Authorization. Since
// browsers send cookies by themselves, requests of other sites are refused.
func ExampleWithTokenExtractor() {
	as := phantomtest.New()
	auth, err := phantom.New(append(as.Options(),
		phantom.WithTokenExtractor(func(r *http.Request) (string, error) {
			token, err := phantom.TokenFromHeader(r)
			if !errors.Is(err, phantom.ErrNoToken) {
				return token, err // a token, or a malformed field
			}
			cookie, err := r.Cookie("__Host-token")
			if err != nil {
				return "", nil // no token: 401
			}
			return cookie.Value, nil
		}))...)
	if err != nil {
		log.Fatal(err)
	}
	h := http.NewCrossOriginProtection().Handler(auth.Handler(served))

	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(&http.Cookie{Name: "__Host-token", Value: as.Issue(map[string]any{"sub": "alice"})})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body)

	show(h, "GET", "/", as.Issue(map[string]any{"sub": "bob"}))
	show(h, "GET", "/", "")
	// Output:
	// 200 served alice
	// 200 served bob
	// 401 Bearer realm="api"
}

// A router whose handlers are not net/http's calls Authenticate, and Reject if
// that fails. What runs behind finds the token in the context.
func ExampleMiddleware_Authenticate() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}

	route := func(w http.ResponseWriter, r *http.Request) { // as such a router would call it
		tok, err := auth.Authenticate(r)
		if err != nil {
			auth.Reject(w, r, err) // status, challenge and body, and a line in the log
			return
		}
		r = r.WithContext(phantom.NewContext(r.Context(), tok))
		tok.SetAuthHeader(r) // the JWT, for what calls further services
		served(w, r)
	}
	show(http.HandlerFunc(route), "GET", "/", as.Issue(map[string]any{"sub": "alice"}))
	show(http.HandlerFunc(route), "GET", "/", "made-up")
	// Output:
	// 200 served alice
	// 401 Bearer realm="api", error="invalid_token"
}

// A gateway: the service behind it gets the JWT in place of the opaque token.
func ExampleMiddleware_Handler_reverseProxy() {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "a JWT: ", strings.HasPrefix(r.Header.Get("Authorization"), "Bearer eyJ"))
	}))
	defer service.Close()

	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}
	upstream, err := url.Parse(service.URL)
	if err != nil {
		log.Fatal(err)
	}
	gateway := auth.Handler(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(upstream)
		r.SetXForwarded()
	}})

	show(gateway, "GET", "/orders", as.Issue(nil))
	show(gateway, "GET", "/orders", "made-up")
	// Output:
	// 200 a JWT: true
	// 401 Bearer realm="api", error="invalid_token"
}

// A server that gives no JWT, and services that need one: the gateway makes it,
// and publishes the keys that verify it.
func ExampleWithMinter() {
	_, key, err := ed25519.GenerateKey(rand.Reader) // of your secret store, the same for each replica
	if err != nil {
		log.Fatal(err)
	}
	minter, err := mint.New("https://gateway.example.com",
		[]mint.Key{{ID: "2026-11", Signer: key}},
		mint.WithAudience("https://orders.internal"))
	if err != nil {
		log.Fatal(err)
	}

	as := phantomtest.New(phantomtest.WithMinter(minter))
	auth, err := phantom.New(as.Options()...) // they have phantom.WithMinter(minter)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/.well-known/", minter) // for the services behind, without a token
	mux.Handle("/", auth.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, err := phantom.Claims[struct {
			Issuer   string `json:"iss"`
			Audience string `json:"aud"`
			Subject  string `json:"sub"`
		}](r.Context())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprintf(w, "%+v", claims)
	})))

	show(mux, "GET", "/", as.Issue(map[string]any{"sub": "alice"}))
	// Output: 200 {Issuer:https://gateway.example.com Audience:https://orders.internal Subject:alice}
}

// A token that is bound to a key of its client (RFC 9449). Who stole it cannot
// use it.
func ExampleWithBinding() {
	binding, err := dpop.New("https://api.example.com")
	if err != nil {
		log.Fatal(err)
	}
	as := phantomtest.New()
	auth, err := phantom.New(append(as.Options(), phantom.WithBinding(binding))...)
	if err != nil {
		log.Fatal(err)
	}
	h := auth.Handler(served)

	client, thief := phantomtest.NewProofKey(), phantomtest.NewProofKey()
	token := as.IssueBound("jkt", client.Thumbprint(), map[string]any{"sub": "alice"})
	for _, sender := range []*phantomtest.ProofKey{client, thief} {
		r := httptest.NewRequest("GET", "/orders", nil)
		r.Header.Set("Authorization", "DPoP "+token)
		r.Header.Set("DPoP", sender.Sign(phantomtest.Proof{
			Method: "GET", URI: "https://api.example.com/orders", Token: token,
		}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Println(w.Code)
	}
	// Output:
	// 200
	// 401
}

// Two replicas that share a Store: the server is asked once, and a logout
// reaches both.
func ExampleWithStore() {
	as := phantomtest.New()
	store := phantomtest.NewStore()                       // in production: module valkeystore
	secret := []byte("32 random bytes, and not in code.") // the same for all replicas
	replica := func() *phantom.Middleware {
		m, err := phantom.New(append(as.Options(), phantom.WithStore(store, secret))...)
		if err != nil {
			log.Fatal(err)
		}
		return m
	}
	first, second := replica(), replica()

	token := as.Issue(map[string]any{"sub": "alice"})
	show(first.Handler(served), "GET", "/", token)
	show(second.Handler(served), "GET", "/", token) // from the Store, if it answers within 20 ms

	as.Revoke(token)
	if err := first.Forget(token); err != nil {
		log.Print(err) // the other replicas could not be told
	}
	show(second.Handler(served), "GET", "/", token)
	// Output:
	// 200 served alice
	// 200 served alice
	// 401 Bearer realm="api", error="invalid_token"
}

// Telemetry: what became of each request and of each lookup, and the numbers
// since the start.
func ExampleWithTrace() {
	as := phantomtest.New()
	auth, err := phantom.New(append(as.Options(), phantom.WithTrace(&phantom.Trace{
		LookupDone: func(_ context.Context, l phantom.Lookup) {
			fmt.Println("lookup, in time:", l.Duration < time.Second)
		},
		Decided: func(_ context.Context, d phantom.Decision) {
			switch {
			case d.Err != nil:
				fmt.Println("rejected:", d.Err.Reason)
			default:
				fmt.Println("let through:", d.Outcome)
			}
		},
	}))...)
	if err != nil {
		log.Fatal(err)
	}
	h := auth.Handler(served)

	token := as.Issue(map[string]any{"sub": "alice"})
	show(h, "GET", "/", token)
	show(h, "GET", "/", token)
	show(h, "GET", "/", "")
	stats := auth.Stats()
	fmt.Println(stats.Hits, stats.Misses, stats.Rejected[phantom.ReasonNoCredentials])
	// Output:
	// lookup, in time: true
	// let through: miss
	// 200 served alice
	// let through: hit
	// 200 served alice
	// rejected: no_credentials
	// 401 Bearer realm="api"
	// 1 1 1
}

// sessionServer stands for an authorization server with sessions.
type sessionServer struct {
	*mint.Minter
	ended bool
}

// sign returns a JWT of the server.
func (s *sessionServer) sign(ctx context.Context, claims string) (string, error) {
	return s.Mint(ctx, "", &phantom.Introspection{Active: true, Claims: []byte(claims)})
}

func (s *sessionServer) Introspect(ctx context.Context, _ string) (*phantom.Introspection, error) {
	if s.ended {
		return &phantom.Introspection{Active: false}, nil
	}
	jwt, err := s.sign(ctx, `{"sub":"alice","sid":"session-1"}`)
	return &phantom.Introspection{Active: true, JWT: jwt}, err
}

func newSessionServer() *sessionServer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	minter, err := mint.New("https://login.example.com", []mint.Key{{Signer: key}},
		mint.WithAudience("https://api.example.com"), mint.WithPlainJWT(), mint.WithMembers("sid", "events"))
	if err != nil {
		log.Fatal(err)
	}
	return &sessionServer{Minter: minter}
}

// When a user logs out, the authorization server sends a logout token, which
// ends all that is remembered of the session. Its URL there is the client's
// backchannel_logout_uri.
func ExampleMiddleware_BackchannelLogout() {
	server := newSessionServer()
	auth, err := phantom.New(
		phantom.WithIssuer("https://login.example.com"),
		phantom.WithAudience("https://api.example.com"),
		phantom.WithIntrospector(server),
		phantom.WithKeySet(server),
	)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /backchannel-logout", auth.BackchannelLogout())
	mux.Handle("/", auth.Handler(served))

	show(mux, "GET", "/", "0123456789abcdef")
	server.ended = true
	show(mux, "GET", "/", "0123456789abcdef") // remembered, for up to WithMaxTTL

	logout, err := server.sign(context.Background(),
		`{"sub":"alice","sid":"session-1","events":{"http://schemas.openid.net/event/backchannel-logout":{}}}`)
	if err != nil {
		log.Fatal(err)
	}
	form := url.Values{"logout_token": {logout}}
	r := httptest.NewRequest("POST", "/backchannel-logout", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	fmt.Println("logout:", w.Code)

	show(mux, "GET", "/", "0123456789abcdef")
	// Output:
	// 200 served alice
	// 200 served alice
	// logout: 200
	// 401 Bearer realm="api", error="invalid_token"
}
