// Routers is one small API on three routers: chi, gin and echo. It has a public
// route, one for any valid token and one for a token with a scope. It is a
// module of its own; run it from its folder:
//
//	ISSUER=https://login.example.com/oauth/v2/oauth-anonymous \
//	    AUDIENCE=https://api.example.com \
//	    CLIENT_ID=gateway_client CLIENT_SECRET=… go run . -router gin
//
// To try it without an authorization server of your own, start the one of the
// quickstart, as examples/chi says.
//
// What to look at: how chi.go, gin.go and echo.go bring a wrapper of handlers,
// such as auth.Handler, into their router. To protect all routes, none of that
// is needed: each router is an http.Handler, so auth.Handler(router) does it.
package main

import (
	"flag"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/phantom-token/phantom"
)

var routers = map[string]func(*phantom.Middleware) http.Handler{
	"chi":  newChi,
	"gin":  newGin,
	"echo": newEcho,
}

func main() {
	name := flag.String("router", "chi", "chi, gin or echo")
	flag.Parse()
	newRouter, ok := routers[*name]
	if !ok {
		log.Fatalf("there is no router %q", *name)
	}
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
		Handler:           newRouter(auth),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Print("serving on http://", srv.Addr)
	log.Fatal(srv.ListenAndServe())
}
