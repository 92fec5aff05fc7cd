package mint_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/mint"
	"github.com/phantom-token/phantom/phantomtest"
)

// exampleKey stands for a key of your secret store, or a crypto.Signer of your
// KMS.
func exampleKey(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(b), ed25519.SeedSize)))
}

// show prints what an upstream gets from a path.
func show(h http.Handler, path string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	fmt.Println(w.Code, w.Body)
}

// showClaims prints some claims of a JWT.
func showClaims(jwt string, names ...string) {
	msg, err := jose.Parse(jwt)
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range names {
		fmt.Println(name, string(msg.Claims.Get(name).Raw()))
	}
}

// A gateway that mints, and serves what its upstreams need to verify the JWTs.
func ExampleNew() {
	minter, err := mint.New("https://gateway.example",
		[]mint.Key{{ID: "2025-01", Signer: exampleKey('a')}},
		mint.WithAudience("https://orders.internal"))
	if err != nil {
		log.Fatal(err)
	}

	mux := http.NewServeMux()
	mux.Handle("/.well-known/", minter) // beside the API, without protection

	show(mux, "/.well-known/openid-configuration")
	show(mux, "/.well-known/jwks.json")
	// Output:
	// 200 {"issuer":"https://gateway.example","jwks_uri":"https://gateway.example/.well-known/jwks.json","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["EdDSA"]}
	// 200 {"keys":[{"crv":"Ed25519","kty":"OKP","x":"rwaj4ykXFOTzVsGcmxXNGVHsbmZiqne-B1R_KJODNB0","use":"sig","alg":"EdDSA","kid":"2025-01"}]}
}

// A gateway in front of an upstream that trusts nothing but the gateway's keys.
func ExampleNew_middleware() {
	minter, err := mint.New("https://gateway.example", []mint.Key{{Signer: exampleKey('a')}},
		mint.WithAudience("https://orders.internal"))
	if err != nil {
		log.Fatal(err)
	}
	as := phantomtest.New(phantomtest.WithMinter(minter)) // it gives no JWT at introspection
	gateway, err := phantom.New(as.Options()...)          // with phantom.WithMinter(minter)
	if err != nil {
		log.Fatal(err)
	}

	// The upstream, as a rule on another machine, finds the keys by the issuer.
	upstream, err := phantom.New(
		phantom.WithIssuer("https://gateway.example"),
		phantom.WithAudience("https://orders.internal"),
		phantom.WithoutIntrospection(),
		phantom.WithKeySet(minter), // in this example, without a network
	)
	if err != nil {
		log.Fatal(err)
	}
	orders := upstream.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		fmt.Fprintf(w, "%s of %s, by %s", tok.Subject(), tok.ClientID(), tok.Issuer())
	}))

	r := httptest.NewRequest(http.MethodGet, "/orders", nil)
	r.Header.Set("Authorization", "Bearer "+as.Issue(map[string]any{"sub": "bob"}))
	w := httptest.NewRecorder()
	gateway.Handler(orders).ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body)
	// Output: 200 bob of app, by https://gateway.example
}

// A proxy whose upstreams have an audience each has a Minter for each, and asks
// it for the JWT by hand.
func ExampleMinter_Mint() {
	keys := []mint.Key{{Signer: exampleKey('a')}}
	orders, err := mint.New("https://gateway.example", keys, mint.WithAudience("https://orders.internal"))
	if err != nil {
		log.Fatal(err)
	}

	answer := &phantom.Introspection{
		Active: true,
		Claims: []byte(`{"sub":"alice","client_id":"app","scope":["orders:read","orders:write"],"groups":["staff"]}`),
	}
	jwt, err := orders.Mint(context.Background(), "", answer)
	if err != nil {
		log.Fatal(err)
	}
	showClaims(jwt, "iss", "aud", "sub", "client_id", "scope", "groups")
	// Output:
	// iss "https://gateway.example"
	// aud "https://orders.internal"
	// sub "alice"
	// client_id "app"
	// scope "orders:read orders:write"
	// groups ["staff"]
}

// The three steps of a rotation.
func ExampleMinter_SetKeys() {
	older, newer := mint.Key{ID: "2025-01", Signer: exampleKey('a')}, mint.Key{ID: "2025-07", Signer: exampleKey('b')}
	minter, err := mint.New("https://gateway.example", []mint.Key{older}, mint.WithAudience("https://orders.internal"))
	if err != nil {
		log.Fatal(err)
	}

	for _, step := range [][]mint.Key{
		{older, newer}, // published on every replica; wait 5 minutes
		{newer, older}, // signs; wait for the lifetime
		{newer},
	} {
		if err := minter.SetKeys(step...); err != nil {
			log.Fatal(err)
		}
		jwt, err := minter.Mint(context.Background(), "", &phantom.Introspection{
			Active: true, Claims: []byte(`{"sub":"alice","client_id":"app"}`),
		})
		if err != nil {
			log.Fatal(err)
		}
		msg, err := jose.Parse(jwt)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(step), "published, signed by", msg.KeyID)
	}
	// Output:
	// 2 published, signed by 2025-01
	// 2 published, signed by 2025-07
	// 1 published, signed by 2025-07
}

// Hydra puts a session's own claims into ext.
func ExampleWithClaims() {
	minter, err := mint.New("https://gateway.example", []mint.Key{{Signer: exampleKey('a')}},
		mint.WithAudience("https://orders.internal"),
		mint.WithClaims(func(_ context.Context, answer map[string]json.RawMessage) (map[string]any, error) {
			var ext struct {
				Tenant string `json:"tenant"`
			}
			if err := json.Unmarshal(answer["ext"], &ext); err != nil || ext.Tenant == "" {
				return nil, fmt.Errorf("%w: no tenant", phantom.ErrInvalidToken)
			}
			return map[string]any{"tenant": ext.Tenant}, nil
		}))
	if err != nil {
		log.Fatal(err)
	}

	jwt, err := minter.Mint(context.Background(), "", &phantom.Introspection{
		Active: true, Claims: []byte(`{"sub":"alice","client_id":"app","ext":{"tenant":"acme"}}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	showClaims(jwt, "sub", "tenant")
	// Output:
	// sub "alice"
	// tenant "acme"
}
