package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/phantom-token/phantom"
)

// audience names the API that the tokens are for.
const audience = "https://api.example.com"

// maxTTL is how long the gateway may go without asking about a token again,
// and so how long a revocation can go unseen.
const maxTTL = 30 * time.Second

// newGateway returns the middleware, and the handler around it that stands
// between the clients and the API at the given URL.
func newGateway(issuer string, api *url.URL) (*phantom.Middleware, http.Handler, error) {
	auth, err := phantom.New(
		phantom.WithIssuer(issuer), // which says where its endpoints are
		phantom.WithAudience(audience),
		phantom.WithClientAuth(phantom.ClientSecretBasic(gatewayID, gatewaySecret)),
		phantom.WithMaxTTL(maxTTL),
	)
	if err != nil {
		return nil, nil, err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(api)
			pr.SetXForwarded()
		},
	}
	mux := http.NewServeMux()
	mux.Handle("GET /orders", auth.Handler(proxy))
	mux.Handle("GET /whoami", auth.RequireScopes("profile")(http.HandlerFunc(whoami)))
	mux.Handle("GET /reports", auth.RequireScopes("reports:read")(http.HandlerFunc(reports)))
	return auth, mux, nil
}

// whoami is a handler in the process of the middleware. It finds the verified
// token in the context of the request.
func whoami(w http.ResponseWriter, r *http.Request) {
	tok, ok := phantom.FromContext(r.Context())
	if !ok {
		http.Error(w, "not behind the middleware", http.StatusInternalServerError)
		return
	}
	reply(w, map[string]any{"subject": tok.Subject(), "scopes": tok.Scopes()})
}

// reports is out of reach for the tokens of this demonstration.
func reports(w http.ResponseWriter, _ *http.Request) {
	reply(w, map[string]any{"reports": []string{"secret"}})
}

// orders is the API behind the gateway. It receives a JWT, as if there were no
// opaque tokens. Here it only decodes the JWT; an API that does not trust the
// network verifies it too, with the keys of the authorization server.
func orders(w http.ResponseWriter, r *http.Request) {
	_, claims, err := decode(bearer(r.Header))
	if err != nil {
		http.Error(w, "no JWT", http.StatusUnauthorized)
		return
	}
	var customer struct {
		Sub string `json:"sub"`
	}
	if err := json.Unmarshal(claims, &customer); err != nil {
		http.Error(w, "no JWT", http.StatusUnauthorized)
		return
	}
	reply(w, map[string]any{"customer": customer.Sub, "orders": []string{"espresso"}})
}

// bearer returns the token in the Authorization header.
func bearer(h http.Header) string {
	return strings.TrimPrefix(h.Get("Authorization"), "Bearer ")
}

// decode returns the two readable parts of a JWT.
func decode(jwt string) (header, claims []byte, err error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return nil, nil, fmt.Errorf("%q is not a JWT", shorten(jwt))
	}
	if header, err = base64.RawURLEncoding.DecodeString(parts[0]); err != nil {
		return nil, nil, err
	}
	claims, err = base64.RawURLEncoding.DecodeString(parts[1])
	return header, claims, err
}

func reply(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "no JSON", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
