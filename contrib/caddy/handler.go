// Package phantomcaddy is phantom as a module of Caddy, http.handlers.phantom:
// opaque access tokens outside, JWTs inside, without a process beside Caddy.
// Build a Caddy that has it with
//
//	xcaddy build --with github.com/phantom-token/phantom/contrib/caddy
//
// and write in the Caddyfile:
//
//	api.example.com {
//		phantom {
//			issuer        https://login.example.com
//			audience      https://api.example.com
//			client_id     caddy
//			client_secret {file./run/secrets/phantom}
//		}
//		reverse_proxy 127.0.0.1:9000
//	}
//
// Each request needs a token that the authorization server calls active. The
// handlers that follow get its JWT in Authorization, and these placeholders:
//
//   - {http.auth.user.id}: the subject, which Caddy's access log shows too
//   - {http.auth.user.client_id}: the client that the token was issued to
//
// A request without a good token gets phantom's answer, with a challenge (RFC
// 6750), and no further handler sees it. handle_errors is not asked. TRACE gets
// 405: an API would show the JWT to the client. So does CONNECT, and of all
// upgrades only that to a websocket goes on: either would be a tunnel for
// requests that nobody checks.
//
// What is known of tokens outlives a reload of Caddy's configuration, while the
// settings of phantom stay the same.
package phantomcaddy

import (
	"context"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/phantom-token/phantom"
)

func init() { caddy.RegisterModule(new(Handler)) }

var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

// A Handler requires a token of each request and hands it on with the token's
// JWT. It has the settings of one phantom.Middleware. Handlers with the same
// settings share one, and what it remembers, even if their Scopes differ.
type Handler struct {
	Settings

	// Scopes that every token must have here; a token without one is answered
	// with 403.
	Scopes []string `json:"scopes,omitempty"`

	key       string // of the Middleware in the pool; "" if there is none
	protected http.Handler
}

// CaddyModule returns the module's identifier and its constructor.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.phantom", New: func() caddy.Module { return new(Handler) }}
}

// middlewares outlive the configurations that use them.
var middlewares = caddy.NewUsagePool()

// pooled has no methods that Caddy would call when the last user is gone: a
// Middleware needs no closing.
type pooled struct{ *phantom.Middleware }

func (pooled) Destruct() error { return nil }

// Provision makes the Middleware, or takes the one that an earlier or another
// handler with the same settings has. Its error has all mistakes.
func (h *Handler) Provision(caddy.Context) error {
	settings, err := h.resolve()
	if err == nil {
		err = checkScopes(h.Scopes)
	}
	if err != nil {
		return err
	}
	key := settings.key()
	value, _, err := middlewares.LoadOrNew(key, func() (caddy.Destructor, error) {
		m, err := phantom.New(settings.options()...)
		return pooled{m}, inDirectives(err)
	})
	if err != nil {
		return err
	}
	h.key = key
	m := value.(pooled).Middleware
	if len(h.Scopes) > 0 {
		h.protected = m.RequireScopes(h.Scopes...)(http.HandlerFunc(goOn))
	} else {
		h.protected = m.Handler(http.HandlerFunc(goOn))
	}
	return nil
}

// Cleanup gives the Middleware back.
func (h *Handler) Cleanup() error {
	if h.key == "" {
		return nil
	}
	key := h.key
	h.key = "" // once: others may use the Middleware
	_, err := middlewares.Delete(key)
	return err
}

// ServeHTTP answers the request itself, or has next answer it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	// TRACE shows the JWT to the client; CONNECT is for forward proxies.
	method := strings.ToUpper(r.Method) // not all APIs mind the case
	if method == http.MethodTrace || method == http.MethodConnect && !isWebsocket(r) {
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return nil
	}
	passage := &passage{next: next}
	h.protected.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), passageKey{}, passage)))
	return passage.err
}

// isWebsocket reports whether a CONNECT opens a websocket over HTTP/2 or HTTP/3
// (RFC 8441, RFC 9220), as Caddy tells it.
func isWebsocket(r *http.Request) bool {
	return r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" || r.ProtoMajor == 3 && r.Proto == "websocket"
}

// A passage is how a request gets from the handler that phantom protects, which
// is made once, to Caddy's next one, which each request brings.
type passage struct {
	next caddyhttp.Handler
	err  error
}

type passageKey struct{}

// goOn is the handler that phantom protects.
func goOn(w http.ResponseWriter, r *http.Request) {
	passage := r.Context().Value(passageKey{}).(*passage)
	token, _ := phantom.FromContext(r.Context())
	replacer := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	replacer.Set("http.auth.user.id", token.Subject())
	replacer.Set("http.auth.user.client_id", token.ClientID())
	// Any other protocol, h2c above all, would be a tunnel for unchecked requests.
	if offers := r.Header["Upgrade"]; len(offers) != 1 || !strings.EqualFold(offers[0], "websocket") {
		r.Header.Del("Upgrade")
	}
	passage.err = passage.next.ServeHTTP(w, r)
}
