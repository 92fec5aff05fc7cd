package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/phantom-token/phantom"
)

const maxTTL = 300 * time.Millisecond

var dialects = map[string]struct {
	speak   dialect
	options []phantom.Option
}{
	"application/jwt":    {curity, nil},
	"phantom_token":      {tokenProcedure, nil},
	"phantom_token JSON": {tokenProcedure, []phantom.Option{phantom.WithJSONResponse("phantom_token")}},
	"jwt":                {keycloak, nil},
}

var credentials = map[string]phantom.ClientAuth{
	"basic":         basic("gateway"),
	"basic encoded": basic("gw:odd id+%/&=ü"),
	"RS256":         phantom.PrivateKeyJWT("gateway-rsa", "1", "RS256", assertionKeys["gateway-rsa"]),
	"ES256":         phantom.PrivateKeyJWT("gateway-ec", "1", "ES256", assertionKeys["gateway-ec"]),
}

func basic(id string) phantom.ClientAuth { return phantom.ClientSecretBasic(id, secrets[id]) }

// gateway is a service behind a reverse proxy behind the middleware. The
// service checks the JWT on its own and answers with what it and the gateway
// know of the subject.
func gateway(t *testing.T, s *server, auth phantom.ClientAuth, options ...phantom.Option) *httptest.Server {
	t.Helper()
	middleware, err := phantom.New(append([]phantom.Option{
		phantom.WithIssuer(s.URL),
		phantom.WithAudience(api),
		phantom.WithClientAuth(auth),
		phantom.WithMaxTTL(maxTTL),
		phantom.WithTimeout(time.Minute), // a busy machine is not what is tested
		phantom.WithLogger(slog.New(slog.NewTextHandler(t.Output(), nil))),
	}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := jwt.ParseSigned(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), []jose.SignatureAlgorithm{jose.RS256})
		if err != nil {
			http.Error(w, "not a JWT", http.StatusTeapot)
			return
		}
		var claims jwt.Claims
		if err := token.Claims(s.store.signingKey().key.Public(), &claims); err != nil {
			http.Error(w, "signature", http.StatusTeapot)
			return
		}
		fmt.Fprintf(w, "%s says the gateway, %s says the JWT", r.Header.Get("Subject"), claims.Subject)
	}))
	t.Cleanup(service.Close)
	target, err := url.Parse(service.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		token, _ := phantom.FromContext(r.In.Context())
		r.Out.Header.Set("Subject", token.Subject())
	}}
	mux := http.NewServeMux()
	mux.Handle("GET /orders", middleware.RequireScopes("orders:read")(proxy))
	mux.Handle("DELETE /orders", middleware.RequireScopes("orders:write")(proxy))
	front := httptest.NewServer(mux)
	t.Cleanup(front.Close)
	return front
}

func do(t *testing.T, r *http.Request) (status int, body string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func expect(t *testing.T, gateway *httptest.Server, method, token string, want int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, gateway.URL+"/orders", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	status, body := do(t, r)
	if status != want {
		t.Errorf("status %d, want %d: %s", status, want, body)
	}
	if want == http.StatusOK && body != "alice says the gateway, alice says the JWT" {
		t.Errorf("got %q", body)
	}
}

// TestTokens takes tokens of each kind through each dialect with each kind of
// credentials. Both endpoints are found in the provider's metadata.
func TestTokens(t *testing.T) {
	for name, d := range dialects {
		for method, auth := range credentials {
			t.Run(name+"/"+method, func(t *testing.T) {
				t.Parallel()
				as := newServer(t, d.speak)
				gw := gateway(t, as, auth, d.options...)
				access, refresh := as.issue(t, "alice", "orders:read")

				expect(t, gw, "GET", access, http.StatusOK)
				expect(t, gw, "GET", access, http.StatusOK) // from the cache
				expect(t, gw, "DELETE", access, http.StatusForbidden)
				expect(t, gw, "GET", refresh, http.StatusUnauthorized)
				expect(t, gw, "GET", "unknown", http.StatusUnauthorized)

				as.revoke(t, access)
				time.Sleep(maxTTL)
				expect(t, gw, "GET", access, http.StatusUnauthorized)
			})
		}
	}
}

// TestForget revokes a token and says so, as a logout does.
func TestForget(t *testing.T) {
	t.Parallel()
	as := newServer(t, curity)
	middleware, err := phantom.New(phantom.WithIssuer(as.URL), phantom.WithAudience(api), phantom.WithClientAuth(basic("gateway")))
	if err != nil {
		t.Fatal(err)
	}
	access, _ := as.issue(t, "alice")
	if _, err := middleware.Verify(t.Context(), access); err != nil {
		t.Fatal(err)
	}
	as.revoke(t, access)
	middleware.Forget(access)
	if _, err := middleware.Verify(t.Context(), access); !errors.Is(err, phantom.ErrInvalidToken) {
		t.Errorf("a revoked and forgotten token: %v", err)
	}
}

// TestFaults is about what is no fault of the token.
func TestFaults(t *testing.T) {
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			as := newServer(t, d.speak)
			access, _ := as.issue(t, "alice", "orders:read")
			for name, auth := range map[string]phantom.ClientAuth{
				"wrong secret":   phantom.ClientSecretBasic("gateway", "wrong"),
				"unknown client": phantom.ClientSecretBasic("nobody", "gateway-secret"),
				"wrong key":      phantom.PrivateKeyJWT("gateway-rsa", "1", "RS256", issuerKeys[0]),
				"wrong method":   phantom.ClientSecretPost("gateway", "gateway-secret"), // not taken at this endpoint
				"none":           phantom.NoClientAuth(),
			} {
				t.Log(name)
				expect(t, gateway(t, as, auth, d.options...), "GET", access, http.StatusBadGateway)
			}

			gw := gateway(t, as, basic("gateway"), d.options...)
			expect(t, gw, "GET", access, http.StatusOK)
			as.store.rotate()
			access, _ = as.issue(t, "alice", "orders:read")
			expect(t, gw, "GET", access, http.StatusOK)

			as.Close()
			expect(t, gw, "GET", "another", http.StatusServiceUnavailable)
			time.Sleep(maxTTL)
			expect(t, gw, "GET", access, http.StatusServiceUnavailable)
		})
	}
	t.Run("no JWT in the answer", func(t *testing.T) {
		t.Parallel()
		as := newServer(t, plain)
		access, _ := as.issue(t, "alice", "orders:read")
		gw := gateway(t, as, basic("gateway"))
		expect(t, gw, "GET", access, http.StatusBadGateway)
		expect(t, gw, "GET", "unknown", http.StatusUnauthorized)
	})
}

// TestMetadata makes sure that the tests above test what they seem to.
func TestMetadata(t *testing.T) {
	as := newServer(t, plain)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, as.URL+"/.well-known/openid-configuration", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, body := do(t, r)
	var metadata struct {
		Issuer        string `json:"issuer"`
		Introspection string `json:"introspection_endpoint"`
	}
	if err := json.Unmarshal([]byte(body), &metadata); err != nil {
		t.Fatal(err)
	}
	if metadata.Issuer != as.URL || metadata.Introspection != as.URL+"/oauth/introspect" {
		t.Errorf("got %+v", metadata)
	}
}
