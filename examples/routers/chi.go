package main

import (
	"io"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/phantom-token/phantom"
)

// newChi needs no adaptor: chi's middleware are wrappers of handlers. Its
// larger sister is examples/chi.
func newChi(auth *phantom.Middleware) http.Handler {
	r := chi.NewRouter()
	r.Get("/menu", func(w http.ResponseWriter, _ *http.Request) { reply(w, "espresso") })
	r.Group(func(r chi.Router) {
		r.Use(auth.Handler)
		r.Get("/profile", chiProfile)
		r.With(auth.RequireScopes("orders:read")).Get("/orders/{drink}", chiOrder)
		r.Get("/customers/{id}", chiCustomer(auth))
	})
	return r
}

func chiProfile(w http.ResponseWriter, r *http.Request) {
	tok, _ := phantom.FromContext(r.Context())
	reply(w, tok.Subject())
}

func chiOrder(w http.ResponseWriter, r *http.Request) {
	tok, _ := phantom.FromContext(r.Context())
	reply(w, chi.URLParam(r, "drink")+" for "+tok.Subject())
}

// reply writes text, which no browser must take for a page.
func reply(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text)
}

// chiCustomer refuses what only the handler can decide, as the middleware would
// have: Reject writes status, challenge and body, and logs the rejection.
func chiCustomer(auth *phantom.Middleware) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		if chi.URLParam(r, "id") != tok.Subject() {
			auth.Reject(w, r, phantom.ErrInsufficientScope)
			return
		}
		reply(w, "customer "+tok.Subject())
	}
}
