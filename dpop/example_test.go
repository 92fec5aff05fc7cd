package dpop_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/phantomtest"
)

// A proof is for one request. It passes once, and for the token's owner alone.
func ExampleNew() {
	binding, err := dpop.New("https://api.example.com")
	if err != nil {
		fmt.Println(err)
		return
	}

	owner, thief := phantomtest.NewProofKey(), phantomtest.NewProofKey()
	call := func(proof string) {
		r := httptest.NewRequest(http.MethodGet, "/orders?page=2", nil)
		r.Header.Set("DPoP", proof)
		fmt.Println(binding.Check(r, "opaque-token", owner.Thumbprint()))
	}
	orders := phantomtest.Proof{Method: "GET", URI: "https://api.example.com/orders", Token: "opaque-token"}
	proof := owner.Sign(orders)
	call(proof)
	call(proof)
	call(thief.Sign(orders))

	// Output:
	// <nil>
	// phantom: binding: dpop replay
	// phantom: binding: dpop jkt
}

// New finds all mistakes at once.
func ExampleNew_mistakes() {
	_, err := dpop.New("http://api.example.com", dpop.WithMaxAge(60), dpop.WithNonce([]byte("short")))
	fmt.Println(err)

	// Output:
	// phantom: dpop.New: the origin "http://api.example.com" is not https
	// phantom: dpop.WithMaxAge: 60ns is not between 1s and 10m0s
	// phantom: dpop.WithNonce: secret 1 has 5 bytes, want at least 32
	// phantom: dpop.WithNonce: excludes WithMaxAge
}

// A client whose clock is wrong gets a nonce, and tries again with it.
func ExampleWithNonce() {
	secret := []byte("32 random bytes, from a file say") // the same on each replica
	binding, err := dpop.New("https://api.example.com", dpop.WithNonce(secret))
	if err != nil {
		fmt.Println(err)
		return
	}

	key := phantomtest.NewProofKey()
	r := httptest.NewRequest(http.MethodGet, "/orders", nil)
	r.Header.Set("DPoP", key.Sign(phantomtest.Proof{
		Method: "GET", URI: "https://api.example.com/orders", Token: "opaque-token",
	}))
	fmt.Println(binding.Check(r, "opaque-token", key.Thumbprint()))

	// Output:
	// phantom: binding: dpop nonce
}

// A route that is open to tokens with a key alone. What a thief has of a token
// opens nothing, also while the middleware remembers it.
func Example() {
	as := phantomtest.New() // in a service: the options of your authorization server
	binding, err := dpop.New("https://api.example.com", dpop.WithAlgorithms("ES256"))
	if err != nil {
		fmt.Println(err)
		return
	}
	binding.Required = true // no token without a key
	auth, err := phantom.New(append(as.Options(), phantom.WithBinding(binding))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	orders := auth.RequireScopes("orders:read")(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("next got a proof:", r.Header.Get("DPoP") != "")
	}))

	client, thief := phantomtest.NewProofKey(), phantomtest.NewProofKey()
	token := as.IssueBound("jkt", client.Thumbprint(), map[string]any{"scope": "orders:read"})
	call := func(authorization, proof string) {
		r := httptest.NewRequest(http.MethodGet, "/orders", nil)
		r.Header.Set("Authorization", authorization)
		r.Header.Set("DPoP", proof)
		w := httptest.NewRecorder()
		orders.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header()["Www-Authenticate"])
	}
	proof := phantomtest.Proof{Method: "GET", URI: "https://api.example.com/orders", Token: token}
	call("DPoP "+token, client.Sign(proof))
	call("DPoP "+token, thief.Sign(proof))
	call("Bearer "+token, "")

	// Output:
	// next got a proof: false
	// 200 []
	// 401 [DPoP realm="api", error="invalid_token", algs="ES256"]
	// 401 [DPoP realm="api", error="invalid_token", algs="ES256"]
}
