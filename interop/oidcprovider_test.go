package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// installed is where install put the packages; empty if it was not called.
var installed string

// install has npm install oidc-provider and its dependencies, of the versions
// that package-lock.json names. TestMain removes them.
var install = sync.OnceValue(func() error {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "oidc-provider")
	if err != nil {
		return err
	}
	installed = dir
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "oidc-provider"))); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci")
	npm.Dir = dir
	if output, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w: %s", err, output)
	}
	return nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if installed != "" {
		_ = os.RemoveAll(installed)
	}
	os.Exit(code)
}

// oidcProvider is a process that runs testdata/oidc-provider/server.mjs.
type oidcProvider struct {
	source

	mu      sync.Mutex
	input   io.WriteCloser
	output  *bufio.Reader
	process *exec.Cmd
}

// newOIDCProvider starts the server. Without Node.js the test is skipped, but
// not in CI.
func newOIDCProvider(t *testing.T, signedResponses bool) *oidcProvider {
	t.Helper()
	if err := install(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("oidc-provider needs Node.js 18 or later with npm, and the network: %v", err)
	}
	configuration, err := json.Marshal(map[string]any{
		"audience":        api,
		"signedResponses": signedResponses,
		"clients":         oidcProviderClients(signedResponses),
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &oidcProvider{process: exec.Command("node", "server.mjs", string(configuration))}
	p.process.Dir = installed
	p.process.Stderr = t.Output()
	if p.input, err = p.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.output = bufio.NewReader(stdout)
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	p.stop = sync.OnceFunc(func() { _ = p.input.Close(); _ = p.process.Wait() })
	t.Cleanup(p.stop)

	var started struct{ Issuer string }
	p.read(t, &started)
	p.issuer = started.Issuer
	p.options = []phantom.Option{phantom.WithClientAuth(phantom.ClientSecretBasic("gateway", "gateway-secret"))}
	p.wrong = phantom.ClientSecretBasic("gateway", "app-secret")
	p.issue = func(t *testing.T) (access, refresh string) { return p.tokens(t, "opaque") }
	p.revoke = func(t *testing.T, token string) {
		post(t, p.issuer+"/token/revocation", "app", "app-secret", url.Values{"token": {token}})
	}
	return p
}

func oidcProviderClients(signedResponses bool) []map[string]any {
	gateway := map[string]any{"client_id": "gateway", "client_secret": "gateway-secret"}
	if signedResponses {
		gateway["introspection_signed_response_alg"] = "ES256"
	}
	return []map[string]any{gateway, {
		"client_id": "app", "client_secret": "app-secret",
		"grant_types": []string{"client_credentials", "refresh_token"}, "redirect_uris": []string{},
	}}
}

// tokens has the server make a user's tokens, the access token of the format
// opaque or jwt.
func (p *oidcProvider) tokens(t *testing.T, format string) (access, refresh string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	request, err := json.Marshal(map[string]string{"subject": "alice", "scope": "orders:read", "format": format})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.input.Write(append(request, '\n')); err != nil {
		t.Fatal(err)
	}
	var made struct{ Access, Refresh, Error string }
	p.read(t, &made)
	if made.Access == "" || made.Refresh == "" {
		t.Fatalf("no tokens: %s", made.Error)
	}
	return made.Access, made.Refresh
}

func (p *oidcProvider) read(t *testing.T, v any) {
	t.Helper()
	line, err := p.output.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(line, v); err != nil {
		t.Fatal(err)
	}
}

// clientToken is an access token that the client app got for itself.
func (p *oidcProvider) clientToken(t *testing.T) string {
	t.Helper()
	answer := post(t, p.issuer+"/token", "app", "app-secret", url.Values{
		"grant_type": {"client_credentials"}, "scope": {"orders:read"}, "resource": {api},
	})
	var token struct {
		Access string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(answer), &token); err != nil || token.Access == "" {
		t.Fatalf("no token: %s, %v", answer, err)
	}
	return token.Access
}

// TestOIDCProvider finds the endpoint and, for signed responses, the keys in
// the server's metadata.
//
// Catalogue: B1.
func TestOIDCProvider(t *testing.T) {
	for name, m := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tell(t, &newOIDCProvider(t, false).source, m)
		})
		t.Run(name+", signed responses", func(t *testing.T) {
			t.Parallel()
			tell(t, &newOIDCProvider(t, true).source, func(t *testing.T) ([]phantom.Option, http.Handler) {
				options, service := m(t)
				return append(options, phantom.WithSignedResponse("gateway")), service
			})
		})
	}
}

// oidc-provider names no sub for a token that no user stands behind.
func TestOIDCProviderClientTokens(t *testing.T) {
	t.Parallel()
	p := newOIDCProvider(t, false)
	token := p.clientToken(t)
	for _, tc := range []struct {
		what    string
		options []phantom.Option
		want    string
	}{
		{"without WithClientSubject", nil, "401"},
		{"with it", []phantom.Option{phantom.WithClientSubject("client:")}, "client:app of app"},
	} {
		for name, m := range modes {
			options, service := m(t)
			server := front(t, p.middleware(t, append(options, tc.options...)...), service)
			if got := call(t, server, "GET", token); got != tc.want {
				t.Errorf("%s, %s: %s, want %s", name, tc.what, got, tc.want)
			}
		}
	}
}

// TestSignedResponses is about what is no signed response for this service.
//
// Catalogue: B2, B5, B9, B10.
func TestSignedResponses(t *testing.T) {
	t.Parallel()
	signing, plain := newOIDCProvider(t, true), newOIDCProvider(t, false)
	access, _ := signing.issue(t)
	jwt, _ := signing.tokens(t, "jwt")
	unsigned, _ := plain.issue(t)
	replayed := signedResponse(t, signing, access)
	for _, tc := range []struct {
		what, audience, token string
		server                *oidcProvider
		want                  string
	}{
		{"good", "gateway", access, signing, "alice of app"},
		{"for another client", "another", access, signing, "502"},
		{"inactive, for another client", "another", "unknown", signing, "502"},
		{"the server signs nothing", "gateway", unsigned, plain, "502"},
		{"it signs nothing, inactive", "gateway", "unknown", plain, "502"},
		{"a signed response as bearer token", "gateway", replayed, signing, "401"},
		{"a JWT, which the server does not introspect", "gateway", jwt, signing, "401"},
	} {
		options, service := claimsOnly(t)
		options = append(options, phantom.WithSignedResponse(tc.audience))
		server := front(t, tc.server.middleware(t, options...), service)
		if got := call(t, server, "GET", tc.token); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.what, got, tc.want)
		}
	}
}

// signedResponse is what the server answers to the gateway.
func signedResponse(t *testing.T, p *oidcProvider, token string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.issuer+"/token/introspection",
		strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/token-introspection+jwt")
	r.SetBasicAuth("gateway", "gateway-secret")
	status, body := do(t, r)
	if status != http.StatusOK || strings.Count(body, ".") != 2 {
		t.Fatalf("status %d: %s", status, body)
	}
	return body
}
