// Package forwardauth answers a proxy that asks, before it hands a request on,
// whether the request may pass: nginx's auth_request, Caddy's and Traefik's
// forward auth, Envoy's HTTP ext_authz, ExternalAuth of the Gateway API.
//
//	http.ListenAndServe("127.0.0.1:9090", forwardauth.Handler(auth))
//
// The proxy's configuration knows the route, so it says what the route
// requires: it asks another path for another scope. Nothing that the client
// wrote about its request, such as X-Forwarded-Uri, is believed or read.
//
// # The way to this service
//
// The answer holds a JWT. A client that can reach the service gets one for its
// opaque token, which is what phantom tokens are to prevent. Serve it on the
// loopback interface, or on a network that only the proxy can reach, and never
// let a proxy cache the answer.
//
// # What is checked when
//
// Requests are judged once, at their start. A websocket or an event stream
// lives past the expiry of its token: only the proxy can end it.
//
// A token that is bound to a key or a certificate needs a proof of the client's
// own request, and the proxy's question is another one. A Middleware with
// [phantom.WithBinding] belongs where the request itself arrives.
//
// docs/forward-auth.md has the proxies' side.
package forwardauth

import (
	"net/http"
	"strings"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/httpauth"
)

// Handler returns a handler that answers 200 with the token's JWT in the
// answer's Authorization field, or with m's rejection: 400, 401, 403, 500, 502
// or 503, with the challenge, Retry-After and body that a handler of m gives.
//
// The path of the request, percent-decoded once, says what is required: "/" is
// any valid token, "/orders:read,orders:write" a token with both of these
// scopes, beside what [phantom.WithRequirements] asks of every token. A 403
// names all of them. Any other path is refused with 500 and an ERROR line in
// m's log: one with an empty element, with a second slash, or with what is no
// scope-token (RFC 6749 section 3.3). A scope that has a comma or a slash
// cannot be named; give it to WithRequirements of a Middleware of its own.
//
// The method, the query and the body do not count, so OPTIONS is no exception,
// and a HEAD is answered as a GET. Of the fields, m's extractor decides what is
// read: Authorization alone by default. Both kinds of answers say
// Cache-Control: no-store, and the 200 has no body.
//
// Without a JWT ([phantom.WithoutJWT]) there is nothing that could take the
// opaque token's place, so such a Middleware admits no request: 500 and an
// ERROR line. The handler is safe for concurrent use. Handler panics if m is
// nil or zero.
func Handler(m *phantom.Middleware) http.Handler {
	// A Middleware that protects nothing is found here, not by a request.
	authenticated := m.Handler(handOver(m))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scopes, ok := required(r.URL.Path)
		switch {
		case !ok:
			refuse(m, w, r, "forwardauth: the path is no list of scopes")
		case len(scopes) == 0:
			authenticated.ServeHTTP(w, r)
		default:
			m.RequireScopes(scopes...)(handOver(m)).ServeHTTP(w, r)
		}
	})
}

// required returns the scopes that a path asks for, and whether it asks for
// anything that can be understood.
func required(path string) (scopes []string, ok bool) {
	list, rooted := strings.CutPrefix(path, "/")
	if !rooted || list == "" {
		return nil, rooted
	}
	scopes = strings.Split(list, ",")
	for _, scope := range scopes {
		if !httpauth.IsScopeToken(scope) || strings.Contains(scope, "/") {
			return nil, false
		}
	}
	return scopes, true
}

// handOver answers for a request that m has admitted.
func handOver(m *phantom.Middleware) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tok, ok := phantom.FromContext(r.Context())
		if !ok || tok.JWT() == "" {
			refuse(m, w, r, "forwardauth: no JWT to hand over")
			return
		}
		h := w.Header()
		h.Set("Authorization", "Bearer "+tok.JWT())
		h.Set("Cache-Control", "no-store")
		if r.ContentLength != 0 && r.ProtoMajor == 1 {
			// The proxy may have announced the client's body and kept it back. The
			// server would wait for it before it sends the answer.
			h.Set("Connection", "close")
		}
		w.WriteHeader(http.StatusOK)
	})
}

// refuse answers 500. The detail is for the log.
func refuse(m *phantom.Middleware, w http.ResponseWriter, r *http.Request, detail string) {
	m.Reject(w, r, &phantom.Error{Reason: phantom.ReasonInternal, Detail: detail})
}
