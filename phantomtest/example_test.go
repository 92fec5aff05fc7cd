package phantomtest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
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
