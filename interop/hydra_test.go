package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
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

// hydraVariable names a program built of github.com/ory/hydra/v2 v2.3.0 with
// the build tag sqlite. That takes many minutes and hundreds of modules, so no
// test does it.
const hydraVariable = "PHANTOM_HYDRA"

// hydra is a Hydra process with its store in memory.
type hydra struct{ public, admin string }

// newHydra is Hydra as a source. Its introspection endpoint, which is on the
// admin port, asks for no credentials.
func newHydra(t *testing.T) *source {
	t.Helper()
	program := os.Getenv(hydraVariable)
	if program == "" {
		t.Skipf("%s names no Hydra: TestFosite runs the library that answers for it", hydraVariable)
	}
	publicPort, adminPort := freePort(t), freePort(t)
	h := hydra{public: "http://127.0.0.1:" + publicPort, admin: "http://127.0.0.1:" + adminPort}
	configuration := filepath.Join(t.TempDir(), "hydra.yml")
	text := fmt.Sprintf(`
dsn: memory
serve: {public: {host: 127.0.0.1, port: %s}, admin: {host: 127.0.0.1, port: %s}}
urls: {self: {issuer: %q}, login: %q, consent: %q}
secrets: {system: [not-a-secret-outside-of-this-test]}
log: {level: error}
`, publicPort, adminPort, h.public, h.public+"/none/login", h.public+"/none/consent")
	if err := os.WriteFile(configuration, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	process := exec.Command(program, "serve", "all", "--dev", "--sqa-opt-out", "-c", configuration)
	process.Stdout, process.Stderr = t.Output(), t.Output()
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() { _ = process.Process.Kill(); _ = process.Wait() })
	t.Cleanup(stop)
	h.awaitReady(t)
	h.send(t, http.MethodPost, "/admin/clients", map[string]any{
		"client_id": "app", "client_secret": "app-secret", "token_endpoint_auth_method": "client_secret_basic",
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
		"scope": "orders:read offline", "audience": []string{api}, "redirect_uris": []string{h.public + "/none"},
	})
	return &source{
		issuer: h.public,
		options: []phantom.Option{
			phantom.WithIntrospectionEndpoint(h.admin + "/admin/oauth2/introspect"),
			phantom.WithClientAuth(phantom.NoClientAuth()),
		},
		issue: h.issue,
		revoke: func(t *testing.T, token string) {
			post(t, h.public+"/oauth2/revoke", "app", "app-secret", url.Values{"token": {token}})
		},
		stop: stop,
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (h hydra) awaitReady(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.admin+"/health/ready", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(r); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
	}
	t.Fatal("Hydra does not start")
}

// send calls the admin API and returns where it sends the user next.
func (h hydra) send(t *testing.T, method, path string, body any) (redirect string) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, h.admin+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	status, answer := do(t, r)
	var next struct {
		Redirect string `json:"redirect_to"`
	}
	if err := json.Unmarshal([]byte(answer), &next); err != nil || status/100 != 2 {
		t.Fatalf("%s: status %d: %s, %v", path, status, answer, err)
	}
	return next.Redirect
}

// issue plays alice, who logs in and consents, and the client, which gets the
// tokens for the code.
func (h hydra) issue(t *testing.T) (access, refresh string) {
	t.Helper()
	browser := newBrowser(t)
	login := redirected(t, browser, h.public+"/oauth2/auth?"+url.Values{
		"client_id": {"app"}, "response_type": {"code"}, "redirect_uri": {h.public + "/none"},
		"scope": {"orders:read offline"}, "audience": {api}, "state": {"not looked at"},
	}.Encode(), "login_challenge")
	accept := func(step, challenge string, body map[string]any) (next string) {
		return h.send(t, http.MethodPut, fmt.Sprintf("/admin/oauth2/auth/requests/%s/accept?%s_challenge=%s", step, step, challenge), body)
	}
	next := accept("login", login, map[string]any{"subject": "alice"})
	consent := redirected(t, browser, next, "consent_challenge")
	next = accept("consent", consent, map[string]any{
		"grant_scope":                 []string{"orders:read", "offline"},
		"grant_access_token_audience": []string{api},
		"session":                     map[string]any{"access_token": map[string]any{"tier": "gold"}},
	})
	code := redirected(t, browser, next, "code")
	access, refresh = redeem(t, h.public+"/oauth2/token", code, h.public+"/none")
	if !strings.HasPrefix(access, "ory_at_") {
		t.Fatalf("an access token of another make: %d characters", len(access))
	}
	return access, refresh
}

// TestHydra needs no special option of Hydra's.
func TestHydra(t *testing.T) {
	for name, m := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tell(t, newHydra(t), m)
		})
	}
}

// Hydra nests the claims that the consent added in a member of its own, ext.
func TestHydraSessionClaims(t *testing.T) {
	t.Parallel()
	s := newHydra(t)
	access, _ := s.issue(t)
	tok, err := s.middleware(t, phantom.WithoutJWT()).Verify(t.Context(), access)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Ext struct{ Tier string }
	}
	if err := tok.Decode(&claims); err != nil || claims.Ext.Tier != "gold" {
		t.Errorf("got %+v, %v", claims, err)
	}
}
