package phantomtest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// A whole service under test: the real middleware, and a server that does what
// the test tells it to.
func Example() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		fmt.Println(err)
		return
	}
	orders := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		fmt.Println("the orders of", tok.Subject())
	})
	service := auth.RequireScopes("orders:read")(orders)

	get := func(token string) {
		r := httptest.NewRequest(http.MethodGet, "/orders", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r)
		fmt.Println(w.Code)
	}

	token := as.Issue(map[string]any{"sub": "bob", "scope": "orders:read"})
	get(token)
	get(token)
	fmt.Println("introspections:", as.Introspections())

	get(as.Issue(map[string]any{"scope": "profile"}))

	as.Fail(http.StatusInternalServerError, 1)
	get(as.Issue(nil))

	// Output:
	// the orders of bob
	// 200
	// the orders of bob
	// 200
	// introspections: 1
	// 403
	// 503
}

// A handler under test, without any middleware.
func ExampleToken() {
	greet := func(w http.ResponseWriter, r *http.Request) {
		tok, ok := phantom.FromContext(r.Context())
		if !ok {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, "hello, %s", tok.Subject())
	}

	t := new(testing.T) // a test function is given one
	tok := phantomtest.Token(t, map[string]any{"sub": "bob"})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r = r.WithContext(phantom.NewContext(r.Context(), tok))
	w := httptest.NewRecorder()
	greet(w, r)
	fmt.Println(w.Code, w.Body)

	// Output: 200 hello, bob
}

// A service behind a server that gives no JWT: it reads the claims of the
// answer, and the request that reaches it has no Authorization field.
func ExampleWithoutJWT() {
	as := phantomtest.New(phantomtest.WithoutJWT())
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		fmt.Println(err)
		return
	}
	service := auth.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		fmt.Printf("subject %s, Authorization %q\n", tok.Subject(), r.Header.Get("Authorization"))
	}))

	get := func(token string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r)
		fmt.Println(w.Code)
	}

	get(as.Issue(map[string]any{"sub": "bob"}))
	get("unknown")

	// Output:
	// subject bob, Authorization ""
	// 200
	// 401
}

// A service that takes the JWT from the token endpoint: the token is looked up
// and exchanged once, and the JWT is for the service behind this one.
func ExampleWithTokenExchange() {
	as := phantomtest.New(phantomtest.WithTokenExchange(url.Values{"audience": {"https://orders.test"}}))
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		fmt.Println(err)
		return
	}
	service := auth.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		var jwt struct {
			Audience string `json:"aud"`
			Client   string `json:"client_id"`
		}
		if err := tok.Decode(&jwt); err != nil {
			fmt.Println(err)
		}
		fmt.Println("the token is of", tok.ClientID(), "for", tok.Audience())
		fmt.Println("the JWT is of", jwt.Client, "for", jwt.Audience)
	}))

	token := as.Issue(nil)
	for range 2 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		service.ServeHTTP(httptest.NewRecorder(), r)
	}
	fmt.Println("exchanges:", as.Exchanges())

	// Output:
	// the token is of app for [https://rs.test]
	// the JWT is of gateway for https://orders.test
	// the token is of app for [https://rs.test]
	// the JWT is of gateway for https://orders.test
	// exchanges: 1
}

// A server whose tokens of clients have no sub, and a service that gives them
// one.
func ExampleWithAnswer() {
	as := phantomtest.New(phantomtest.WithoutJWT(), phantomtest.WithAnswer(func(members map[string]any) {
		if members["sub"] == members["client_id"] {
			delete(members, "sub")
		}
	}))
	auth, err := phantom.New(append(as.Options(), phantom.WithClientSubject("client:"))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, sub := range []string{"bob", "app"} {
		tok, err := auth.Verify(context.Background(), as.Issue(map[string]any{"sub": sub, "client_id": "app"}))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(tok.Subject())
	}

	// Output:
	// bob
	// client:app
}
