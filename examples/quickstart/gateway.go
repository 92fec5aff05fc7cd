package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/mint"
)

// audience names the service that the tokens are for, the gateway. apiAudience
// names the API behind it, for JWTs that are made for it alone.
const (
	audience    = "https://api.example.com"
	apiAudience = "https://orders.internal"
)

// origin is where the clients find the gateway. A proxy in front of it would
// end TLS. Proofs (RFC 9449) name this, not the loopback address.
const origin = "https://api.example.com"

// maxTTL is how long the gateway may go without asking about a token again,
// and so how long a revocation can go unseen.
const maxTTL = 30 * time.Second

// jwtSource returns the options that say where the JWT comes from, for a kind
// of authorization server, and what the gateway itself has to publish.
func jwtSource(server, gateway string) (opts []phantom.Option, published http.Handler, err error) {
	switch server {
	case "claims": // nowhere: the API is in the gateway's process
		return []phantom.Option{phantom.WithoutJWT()}, nil, nil
	case "mint": // made by the gateway, of what the answer says
		// A real one comes from a secret store, the same for each replica.
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		minter, err := mint.New(gateway, []mint.Key{{Signer: key}}, mint.WithAudience(apiAudience))
		if err != nil {
			return nil, nil, err
		}
		return []phantom.Option{phantom.WithMinter(minter)}, minter, nil
	case "exchange": // from the token endpoint, for the API
		form := url.Values{"audience": {apiAudience}}
		return []phantom.Option{phantom.WithTokenExchange("", form)}, nil, nil
	}
	return nil, nil, nil // jwt: it is in the answer of the introspection endpoint
}

// newGateway returns the middleware, and the mux around it that stands between
// the clients and the API.
func newGateway(
	issuer string, api http.Handler, source ...phantom.Option,
) (*phantom.Middleware, *http.ServeMux, error) {
	proofs, err := dpop.New(origin, dpop.WithAlgorithms("ES256"))
	if err != nil {
		return nil, nil, err
	}
	auth, err := phantom.New(append([]phantom.Option{
		phantom.WithIssuer(issuer), // which says where its endpoints are
		phantom.WithAudience(audience),
		phantom.WithClientAuth(phantom.ClientSecretBasic(gatewayID, gatewaySecret)),
		phantom.WithMaxTTL(maxTTL),
		phantom.WithBinding(proofs), // for tokens that are bound to a client's key
	}, source...)...)
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /orders", auth.Handler(api))
	mux.Handle("GET /whoami", auth.RequireScopes("profile")(http.HandlerFunc(whoami)))
	mux.Handle("GET /reports", auth.RequireScopes("reports:read")(http.HandlerFunc(reports)))
	return auth, mux, nil
}

// proxyTo returns the way to an API on another machine.
func proxyTo(api *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(api)
			pr.SetXForwarded()
		},
	}
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
// network verifies it too, with the keys of the JWT's issuer.
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

// ordersHere is the same API in the process of the middleware. It needs no JWT.
func ordersHere(w http.ResponseWriter, r *http.Request) {
	tok, ok := phantom.FromContext(r.Context())
	if !ok {
		http.Error(w, "not behind the middleware", http.StatusInternalServerError)
		return
	}
	reply(w, map[string]any{"customer": tok.Subject(), "orders": []string{"espresso"}})
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
