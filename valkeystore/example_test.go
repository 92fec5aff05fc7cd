package valkeystore_test

import (
	"crypto/tls"
	"log"
	"net/http"
	"os"

	"github.com/valkey-io/valkey-go"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/valkeystore"
)

// All replicas have the same secret and the same server.
func Example() {
	store := valkeystore.New(valkey.ClientOption{
		InitAddress: []string{"valkey.internal.example:6379"},
		TLSConfig:   &tls.Config{MinVersion: tls.VersionTLS12},
		Username:    "orders",
		Password:    os.Getenv("VALKEY_PASSWORD"),
	}, valkeystore.WithPrefix("orders:"))
	defer store.Close()

	auth, err := phantom.New(
		phantom.WithIssuer("https://idp.example"),
		phantom.WithAudience("https://orders.example"),
		phantom.WithClientAuth(phantom.ClientSecretBasic("orders", os.Getenv("CLIENT_SECRET"))),
		phantom.WithStore(store, []byte(os.Getenv("FLEET_SECRET"))), // 32 random bytes or more
	)
	if err != nil {
		log.Print(err)
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		if err := tok.Forget(); err != nil {
			// This replica refuses the token from now on. The others may serve
			// it until WithMaxTTL is over.
			http.Error(w, "try again", http.StatusServiceUnavailable)
		}
	})
	log.Print(http.ListenAndServe("localhost:8080", auth.Handler(mux)))
}
