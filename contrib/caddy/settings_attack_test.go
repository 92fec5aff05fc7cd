package phantomcaddy_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	phantomcaddy "github.com/phantom-token/phantom/contrib/caddy"
	"github.com/phantom-token/phantom/phantomtest"
)

// provision makes a handler of its JSON.
func provision(t *testing.T, fields map[string]any) (*phantomcaddy.Handler, error) {
	t.Helper()
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	h := new(phantomcaddy.Handler)
	if err := caddy.StrictUnmarshalJSON(text, h); err != nil {
		t.Fatal(err)
	}
	return h, h.Provision(caddy.Context{})
}

// ask has the handler judge a request with the token, and returns the status.
func ask(h *phantomcaddy.Handler, token string) int {
	r := httptest.NewRequest(http.MethodGet, "http://rs.test/x", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	rec := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), rec, nil)
	_ = h.ServeHTTP(rec, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusOK)
		return nil
	}))
	return rec.Code
}

// A list that is there, but empty, is a list that somebody forgot to fill.
func TestEmptyListsAreRefused(t *testing.T) {
	s := newSite(t)
	for _, tc := range []struct {
		name  string
		field string
		value any
		want  string
	}{
		{"no scopes", "scopes", []string{}, "scopes: "},
		{"an empty scope", "scopes", []string{""}, "scopes: "},
		{"no audience", "audience", []string{}, "audience: "},
		{"null for an audience", "audience", nil, "audience: "},
		{"an empty audience", "audience", []string{"https://rs.test", ""}, "audience: "},
		{"a timeout of 0", "timeout", 0, "timeout: "},
		{"another client_auth", "client_auth", "Basic", "client_auth: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fields := map[string]any{
				"issuer": s.issuer, "audience": []string{"https://rs.test"}, "client_id": "caddy", "client_secret": secret,
			}
			fields[tc.field] = tc.value
			h, err := provision(t, fields)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one of %s", err, tc.want)
			}
			for range 2 {
				if err := h.Cleanup(); err != nil { // as Caddy does after a Provision that failed
					t.Error(err)
				}
			}
		})
	}
}

// Secrets that differ in bytes that are no UTF-8 are other settings.
func TestSecretsOfAnyBytesHaveTheirOwnMemory(t *testing.T) {
	s := newSite(t, phantomtest.WithClient("binary-\xfe", "secret-\xfe"), phantomtest.WithClient("binary-\xff", "secret-\xff"))
	token := s.issue(nil)
	var handlers []*phantomcaddy.Handler
	for _, last := range []string{"\xfe", "\xff"} {
		fields := map[string]any{"issuer": s.issuer, "audience": []string{"https://rs.test"}}
		for _, name := range []string{"binary", "secret"} {
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, []byte(name+"-"+last), 0o600); err != nil {
				t.Fatal(err)
			}
			fields[map[string]string{"binary": "client_id", "secret": "client_secret"}[name]] = "{file." + file + "}"
		}
		h, err := provision(t, fields)
		if err != nil {
			t.Fatal(err)
		}
		handlers = append(handlers, h)
	}
	for _, h := range handlers {
		if status := ask(h, token); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
	if n := s.as.Introspections(); n != 2 {
		t.Errorf("%d lookups of two clients", n)
	}
	for _, h := range handlers {
		_ = h.Cleanup()
	}
}

// Who cleans up twice takes nothing from another handler.
func TestCleanupCountsOnce(t *testing.T) {
	s := newSite(t)
	token := s.issue(nil)
	fields := map[string]any{
		"issuer": s.issuer, "audience": []string{"https://rs.test"}, "client_id": "caddy", "client_secret": secret,
	}
	var handlers []*phantomcaddy.Handler
	for range 2 {
		h, err := provision(t, fields)
		if err != nil {
			t.Fatal(err)
		}
		handlers = append(handlers, h)
	}
	_, _ = ask(handlers[1], token), handlers[0].Cleanup()
	_ = handlers[0].Cleanup()
	third, err := provision(t, fields)
	if err != nil {
		t.Fatal(err)
	}
	if status, n := ask(third, token), s.as.Introspections(); status != http.StatusOK || n != 1 {
		t.Errorf("status %d, %d lookups: what was known is gone", status, n)
	}
	_, _ = third.Cleanup(), handlers[1].Cleanup()
}
