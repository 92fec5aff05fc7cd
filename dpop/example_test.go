package dpop_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

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
