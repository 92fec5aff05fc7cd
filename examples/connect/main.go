// Connect is a small service of connect-go, which speaks Connect, gRPC and
// gRPC-Web, behind the middleware. It is a module of its own; run it from its
// folder:
//
//	ISSUER=https://login.example.com/oauth/v2/oauth-anonymous \
//	    AUDIENCE=https://api.example.com \
//	    CLIENT_ID=gateway_client CLIENT_SECRET=… go run .
//	curl -i -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \
//	    -d '"hello"' http://127.0.0.1:8080/greet.v1.Greeter/Greet
//
// To try it without an authorization server of your own, start the one of the
// quickstart, as examples/chi says.
//
// What to look at: protect.go has two ways to put the middleware before a
// handler of Connect and says what each gives. Take the first, unless clients
// need to tell a malformed request from a fault of the server.
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
	srv := newServer(withHandler(auth, newGreeter()))
	srv.Addr = "127.0.0.1:8080"
	log.Print("serving on http://", srv.Addr)
	log.Fatal(srv.ListenAndServe())
}

// newServer returns a server that speaks HTTP/2 without TLS too, which gRPC
// needs where there is no TLS.
func newServer(h http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{Handler: h, Protocols: protocols, ReadHeaderTimeout: 5 * time.Second}
}
