// Stdlib is a small API on http.ServeMux with routes of each kind: open to all,
// for those with a token, for a token with certain scopes, and for both with
// and without a token.
//
//	ISSUER=https://login.example.com/oauth/v2/oauth-anonymous \
//	    AUDIENCE=https://api.example.com \
//	    CLIENT_ID=gateway_client CLIENT_SECRET=… go run ./examples/stdlib
//
// To try it without an authorization server of your own, start the one of the
// quickstart; it prints its issuer and how to get a token:
//
//	go run ./examples/quickstart -serve
//	ISSUER=http://127.0.0.1:… AUDIENCE=https://api.example.com \
//	    CLIENT_ID=gateway CLIENT_SECRET=gateway-secret go run ./examples/stdlib
//	curl -i -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8080/orders
//
// What to look at: routes in api.go says what each route needs, and api_test.go
// how to test a handler and the wiring. The same with chi is in examples/chi.
package main

import (
	"log"
	"net/http"
	"os"
	"time"

	"github.com/phantom-token/phantom"
)

func main() {
	auth, err := phantom.New(
		phantom.WithIssuer(os.Getenv("ISSUER")),
		phantom.WithAudience(os.Getenv("AUDIENCE")),
		phantom.WithClientAuth(phantom.ClientSecretBasic(os.Getenv("CLIENT_ID"), os.Getenv("CLIENT_SECRET"))),
	)
	if err != nil {
		log.Fatal(err) // every mistake in the options, at once
	}
	srv := &http.Server{
		Addr:              "127.0.0.1:8080",
		Handler:           newAPI(auth).routes(),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Print("serving on http://", srv.Addr)
	log.Fatal(srv.ListenAndServe())
}
