package main

import (
	"fmt"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/phantom-token/phantom"
)

// newChi needs no adaptor: chi's middleware are wrappers of handlers. Its
// larger sister is examples/chi.
func newChi(auth *phantom.Middleware) http.Handler {
	r := chi.NewRouter()
	r.Get("/menu", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "espresso") })
	r.Group(func(r chi.Router) {
		r.Use(auth.Handler)
		r.Get("/profile", chiProfile)
		r.With(auth.RequireScopes("orders:read")).Get("/orders/{drink}", chiOrder)
	})
	return r
}

func chiProfile(w http.ResponseWriter, r *http.Request) {
	tok, _ := phantom.FromContext(r.Context())
	_, _ = fmt.Fprint(w, tok.Subject())
}

func chiOrder(w http.ResponseWriter, r *http.Request) {
	tok, _ := phantom.FromContext(r.Context())
	_, _ = fmt.Fprintf(w, "%s for %s", chi.URLParam(r, "drink"), tok.Subject())
}
