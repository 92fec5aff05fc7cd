package interop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/mint"
)

// upstreamName is the audience of the minted JWTs.
const upstreamName = "https://orders.internal.test"

// A source is an authorization server of the test's own, which introspects
// and gives no JWT there.
type source struct {
	issuer  string
	options []phantom.Option // for a service that it knows
	// wrong is the same service with a secret that is not its own; nil if the
	// server asks for none.
	wrong phantom.ClientAuth
	// issue makes tokens of alice for the client app, for the audience api and
	// with the scope orders:read.
	issue  func(t *testing.T) (access, refresh string)
	revoke func(t *testing.T, token string)
	stop   func()
}

// middleware is a Middleware for the source. Its cache is short-lived.
func (s *source) middleware(t *testing.T, options ...phantom.Option) *phantom.Middleware {
	t.Helper()
	all := []phantom.Option{
		phantom.WithIssuer(s.issuer),
		phantom.WithAudience(api),
		phantom.WithMaxTTL(maxTTL),
		phantom.WithTimeout(time.Minute), // a busy machine is not what is tested
		phantom.WithLogger(slog.New(slog.NewTextHandler(t.Output(), nil))),
	}
	m, err := phantom.New(append(append(all, s.options...), options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A mode is a way to have what the next handler gets. It returns the options
// for it, and the service that they are for.
type mode func(t *testing.T) ([]phantom.Option, http.Handler)

var modes = map[string]mode{"claims only": claimsOnly, "minted": minted}

// claimsOnly is a service that reads the claims and gets no credentials.
func claimsOnly(*testing.T) ([]phantom.Option, http.Handler) {
	return []phantom.Option{phantom.WithoutJWT()}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fields := r.Header.Values("Authorization"); len(fields) != 0 {
			http.Error(w, fmt.Sprintf("%d Authorization fields", len(fields)), http.StatusTeapot)
			return
		}
		fmt.Fprintf(w, "%s of %s", r.Header.Get("Subject"), r.Header.Get("Client"))
	})
}

// minted is a service that trusts nothing but the JWT of the gateway, which it
// verifies with go-oidc by what the gateway serves.
func minted(t *testing.T) ([]phantom.Option, http.Handler) {
	minter := newReplica(t).minter
	issuer, _ := minter.Issuer()
	provider, err := oidc.NewProvider(t.Context(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: upstreamName})
	return []phantom.Option{phantom.WithMinter(minter)}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		jwt, err := verifier.Verify(r.Context(), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		if err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		var claims struct {
			Client string `json:"client_id"`
		}
		if err := jwt.Claims(&claims); err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		fmt.Fprintf(w, "%s of %s", jwt.Subject, claims.Client)
	})
}

// A replica is a gateway's Minter and the server of its documents.
type replica struct {
	*httptest.Server
	minter *mint.Minter
}

func newReplica(t *testing.T) replica {
	t.Helper()
	var documents http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { documents.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	minter := newMinter(t, server.URL, mint.Key{Signer: newP256(t)})
	documents = minter
	return replica{server, minter}
}

func newMinter(t *testing.T, issuer string, keys ...mint.Key) *mint.Minter {
	t.Helper()
	minter, err := mint.New(issuer, keys, mint.WithAudience(upstreamName))
	if err != nil {
		t.Fatal(err)
	}
	return minter
}

func newP256(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// front is the service behind a reverse proxy behind the Middleware.
func front(t *testing.T, m *phantom.Middleware, service http.Handler) *httptest.Server {
	t.Helper()
	upstream := httptest.NewServer(service)
	t.Cleanup(upstream.Close)
	target, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		token, _ := phantom.FromContext(r.In.Context())
		r.Out.Header.Set("Subject", token.Subject())
		r.Out.Header.Set("Client", token.ClientID())
		r.Out.Header.Set("Issuer", token.Issuer())
	}}
	mux := http.NewServeMux()
	mux.Handle("GET /orders", m.RequireScopes("orders:read")(proxy))
	mux.Handle("DELETE /orders", m.RequireScopes("orders:write")(proxy))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

// call sends the token. Of an answer that is not 200, only the status counts.
func call(t *testing.T, server *httptest.Server, method, token string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/orders", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	status, body := do(t, r)
	if status == http.StatusOK {
		return body
	}
	if status == http.StatusTeapot {
		t.Errorf("the service refuses: %s", body)
	}
	return fmt.Sprint(status)
}

// A story is what happens, in this order, to one token of a source.
type story struct {
	what   string
	method string
	token  string // "access", "refresh", or one that the source never made
	before func()
	want   string
}

// tell runs the stories that all servers and modes have in common. It ends
// with the server down.
func tell(t *testing.T, s *source, m mode) {
	t.Helper()
	options, service := m(t)
	access, refresh := s.issue(t)
	other, _ := s.issue(t) // never sent before the outage
	server := front(t, s.middleware(t, options...), service)
	if s.wrong != nil {
		impostor := front(t, s.middleware(t, append(options, phantom.WithClientAuth(s.wrong))...), service)
		if got := call(t, impostor, "GET", access); got != "502" {
			t.Errorf("wrong client secret: %s, want 502", got)
		}
	}
	for _, tc := range []story{
		{what: "an access token", method: "GET", token: access, want: "alice of app"},
		{what: "the same once more", method: "GET", token: access, want: "alice of app"},
		{what: "a scope that it lacks", method: "DELETE", token: access, want: "403"},
		{what: "a refresh token", method: "GET", token: refresh, want: "401"},
		{what: "an unknown token", method: "GET", token: "unknown", want: "401"},
		{what: "a revoked token", method: "GET", token: access, want: "401",
			before: func() { s.revoke(t, access); time.Sleep(maxTTL) }},
		{what: "a good token while the server is down", method: "GET", token: other, want: "503", before: s.stop},
	} {
		if tc.before != nil {
			tc.before()
		}
		if got := call(t, server, tc.method, tc.token); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.what, got, tc.want)
		}
	}
}

// newBrowser follows no redirect by itself.
func newBrowser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// redirected returns a parameter of the URL that the address redirects to.
func redirected(t *testing.T, browser *http.Client, address, parameter string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := browser.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	next, err := resp.Location()
	if err != nil || next.Query().Get(parameter) == "" {
		t.Fatalf("status %d, no %s: %v, %v", resp.StatusCode, parameter, next, err)
	}
	return next.Query().Get(parameter)
}

// redeem gets the client its tokens for the code.
func redeem(t *testing.T, endpoint, code, redirect string) (access, refresh string) {
	t.Helper()
	answer := post(t, endpoint, "app", "app-secret", url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect},
	})
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal([]byte(answer), &tokens); err != nil || tokens.Access == "" || tokens.Refresh == "" {
		t.Fatalf("no tokens: %s, %v", answer, err)
	}
	return tokens.Access, tokens.Refresh
}

// post sends a form with a client's secret and returns the body of a 200.
func post(t *testing.T, endpoint, client, secret string, form url.Values) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(client, secret)
	status, body := do(t, r)
	if status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", endpoint, status, body)
	}
	return body
}
