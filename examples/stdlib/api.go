package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"

	"github.com/phantom-token/phantom"
)

// An api takes orders and forgets them when it ends.
type api struct {
	auth *phantom.Middleware

	mu     sync.Mutex
	orders map[string][]string // by customer, the subject of the token
}

func newAPI(auth *phantom.Middleware) *api {
	return &api{auth: auth, orders: map[string][]string{}}
}

// routes says what each route needs. Each wrapper authenticates by itself, so
// there is nothing to forget in front of it.
func (a *api) routes() http.Handler {
	read, write := a.auth.RequireScopes("orders:read"), a.auth.RequireScopes("orders:write")

	mux := http.NewServeMux()
	mux.HandleFunc("GET /menu", menu)                                     // public
	mux.Handle("GET /greeting", a.auth.Optional(http.HandlerFunc(greet))) // with a token or without
	mux.Handle("GET /profile", a.auth.Handler(http.HandlerFunc(profile))) // any valid token
	mux.Handle("GET /orders", read(http.HandlerFunc(a.list)))             // a token with a scope
	mux.Handle("POST /orders/{drink}", write(http.HandlerFunc(a.order)))  // a token with another
	mux.HandleFunc("POST /logout", a.logout)                              // see its comment
	return mux
}

// claims are what the handlers want to know about a customer. The JWT that they
// come from is verified.
type claims struct {
	Subject string   `json:"sub"`
	Name    string   `json:"name"`
	Roles   []string `json:"roles"`
}

func menu(w http.ResponseWriter, _ *http.Request) {
	reply(w, []string{"espresso", "latte"})
}

// greet is behind Optional: without a token in the context, the caller is
// anonymous. A bad token does not get here.
func greet(w http.ResponseWriter, r *http.Request) {
	name := "stranger"
	if tok, ok := phantom.FromContext(r.Context()); ok {
		name = tok.Subject()
	}
	reply(w, "hello, "+name)
}

func profile(w http.ResponseWriter, r *http.Request) {
	customer, err := phantom.Claims[claims](r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, map[string]any{"id": customer.Subject, "name": customer.Name, "roles": customer.Roles})
}

// list shows the orders of the caller. The token says who that is, never the
// URL.
func (a *api) list(w http.ResponseWriter, r *http.Request) {
	customer, err := phantom.Claims[claims](r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	a.mu.Lock()
	orders := append([]string{}, a.orders[customer.Subject]...)
	a.mu.Unlock()
	reply(w, orders)
}

func (a *api) order(w http.ResponseWriter, r *http.Request) {
	customer, err := phantom.Claims[claims](r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	a.mu.Lock()
	a.orders[customer.Subject] = append(a.orders[customer.Subject], r.PathValue("drink"))
	a.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
}

// logout forgets the caller's token, so that a revocation shows with the next
// request. Clients call it after they have revoked the token at the
// authorization server. Before that, it only makes the API ask once more.
//
// It is not behind the middleware, which would refuse a token whose revocation
// it knows. A handler that is behind it calls Forget of the Token.
func (a *api) logout(w http.ResponseWriter, r *http.Request) {
	if token, err := phantom.TokenFromHeader(r); err == nil {
		a.auth.Forget(token)
	}
	w.WriteHeader(http.StatusNoContent)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		slog.Warn("answer not sent", "error", err)
	}
}

// fail answers where the context has no claims of this kind: a handler is
// mounted without the middleware, or the authorization server gives a claim
// another type.
func fail(w http.ResponseWriter, err error) {
	slog.Error("no claims", "error", err)
	http.Error(w, "internal error", http.StatusInternalServerError)
}
