package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/phantom-token/phantom"
)

// Each kind of server, with what is its own in the second step.
func TestWalk(t *testing.T) {
	claims := []string{
		"> Accept: application/json\n",
		"token_type_hint=access_token\n",
		"< 200 OK\n",
		"< Content-Type: application/json\n",
		`"active": true`,
		`"sub": "app"`,
	}
	for server, own := range map[string][]string{
		"jwt": {
			"> Accept: application/jwt\n",
			"token_type_hint=access_token\n",
			"< 200 OK\n",
			"< Content-Type: application/jwt\n",
			"< Cache-Control: max-age=",
			"< eyJ",
			`"alg": "ES256"`,
			`"typ": "at+jwt"`,
			`"aud": "https://api.example.com"`,
			`"client_id": "app"`,
		},
		"claims": append(slices.Clip(claims), `Authorization: ""`),
		"mint": append(slices.Clip(claims),
			`"typ": "at+jwt"`,
			`"iss": "http://127.0.0.1:`,
			`"aud": "https://orders.internal"`,
			`"client_id": "app"`,
		),
		"exchange": append(slices.Clip(claims),
			"> POST /token\n",
			"grant_type=urn:ietf:params:oauth:grant-type:token-exchange\n",
			"subject_token=",
			"audience=https://orders.internal\n",
			"< access_token: eyJ",
			`"typ": "at+jwt"`,
			`"aud": "https://orders.internal"`,
			`"client_id": "gateway"`,
		),
	} {
		t.Run(server, func(t *testing.T) { testWalk(t, server, own) })
	}
}

func testWalk(t *testing.T, server string, own []string) {
	var out bytes.Buffer
	if err := run(t.Context(), &out, []string{"-server", server}); err != nil {
		t.Fatalf("%v after\n%s", err, &out)
	}
	text := out.String()
	// Each in the order of the steps.
	rest := text
	for _, want := range slices.Concat([]string{
		"authorization server  http://127.0.0.1:",
		"gateway with phantom  http://127.0.0.1:",
		"> POST /token\n",
		"< access_token: ",
		"> GET /orders\n",
		"> POST /introspect\n",
	}, own, []string{
		"< 200 OK\n",
		`< {"customer":"app","orders":["espresso"]}`,
		"> GET /orders\n",
		"< 200 OK\n",
		"introspections so far: 1\n",
		"> GET /whoami\n",
		`< {"scopes":["orders:read","profile"],"subject":"app"}`,
		"< 401 Unauthorized\n",
		`< WWW-Authenticate: Bearer realm="api"` + "\n",
		"> GET /reports\n",
		"< 403 Forbidden\n",
		`error="insufficient_scope"`,
		`scope="reports:read"`,
		"> POST /revoke\n",
		"< 200 OK\n",
		"> GET /orders\n",
		"< 200 OK\n",
		"Forget",
		"< 401 Unauthorized\n",
		`error="invalid_token"`,
		"> Authorization: DPoP ",
		"> DPoP: eyJ",
		"< 200 OK\n",
		"> Authorization: Bearer ",
		"< 401 Unauthorized\n",
		`< WWW-Authenticate: Bearer realm="api"`,
		`error="invalid_token"`,
		"> Authorization: DPoP ",
		"< 401 Unauthorized\n",
		`< WWW-Authenticate: DPoP realm="api"`,
		`error="invalid_token"`,
	}) {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("no %q where it should be in\n%s", want, text)
		}
		rest = after
	}
	for line := range strings.Lines(text) {
		if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > 80 {
			t.Errorf("more than 80 columns: %s", line)
		}
	}
	if found := regexp.MustCompile(`[\w-]{60,}`).FindString(text); found != "" {
		t.Errorf("a token in full: %s", found)
	}
}

// The API that gets a minted JWT can verify it with what the gateway serves.
func TestPublishedKeys(t *testing.T) {
	s, err := start(t.Context(), new(journal), "mint")
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if err := walk(t.Context(), io.Discard, s); err != nil {
		t.Fatal(err)
	}
	api, err := phantom.New(
		phantom.WithIssuer(s.gateway),
		phantom.WithAudience(apiAudience),
		phantom.WithoutIntrospection(),
	)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := api.Verify(t.Context(), bearer(s.seen.last("/orders").request))
	if err != nil || tok.Subject() != appID {
		t.Errorf("token %v, error %v", tok, err)
	}
}

// A step with an unexpected outcome ends the walk with an error that names it.
func TestWalkStops(t *testing.T) {
	wrong := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	}))
	defer wrong.Close()
	for name, test := range map[string]struct {
		change func(*site)
		want   string
	}{
		"authorization server": {func(s *site) { s.issuer = wrong.URL }, "POST /token: got 418, want 200"},
		"gateway":              {func(s *site) { s.gateway = wrong.URL }, "GET /orders: got 418, want 200"},
		"failing lookup":       {func(s *site) { s.as.Fail(500, 1) }, "GET /orders: got 503, want 200"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := start(t.Context(), new(journal), "jwt")
			if err != nil {
				t.Fatal(err)
			}
			defer s.stop()
			original := *s
			test.change(s)
			err = walk(t.Context(), io.Discard, s)
			*s = original
			if err == nil || err.Error() != test.want {
				t.Errorf("error %v, want %s", err, test.want)
			}
		})
	}

	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := run(ctx, io.Discard, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
	})
}

func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := new(lockedBuffer)
	done := make(chan error, 1)
	go func() { done <- run(ctx, out, []string{"-serve"}) }()

	await := func(what string) string {
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if text := out.String(); strings.Contains(text, what) {
				return text
			}
		}
		t.Fatalf("no %q in\n%s", what, out)
		return ""
	}
	text := await("What the servers see:\n")
	issuer := regexp.MustCompile(`curl -s -u app:app-secret (http://127\.0\.0\.1:\d+)/token`).FindStringSubmatch(text)
	gateway := regexp.MustCompile(`\$TOKEN" (http://127\.0\.0\.1:\d+)/orders`).FindStringSubmatch(text)
	if issuer == nil || gateway == nil {
		t.Fatalf("no URLs in\n%s", text)
	}

	// What the curl lines do.
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, issuer[1]+"/token", strings.NewReader(
		url.Values{"grant_type": {"client_credentials"}, "scope": {"orders:read profile"}}.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(appID, appSecret)
	_, body := send(t, req)
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/orders": 200, "/whoami": 200, "/reports": 403} {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, gateway[1]+path, nil)
		req.Header.Set("Authorization", "Bearer "+answer.AccessToken)
		if status, body := send(t, req); status != want {
			t.Errorf("%s: status %d, want %d; %s", path, status, want, body)
		}
	}
	await("  POST /introspect ")
	await("  GET  /orders ")

	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still serving after the end of the context")
	}
	if resp, err := http.Get(gateway[1]); err == nil {
		resp.Body.Close()
		t.Error("the gateway still answers")
	}
}

func TestFlags(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out, []string{"-help"}); err != nil || !strings.Contains(out.String(), "-serve") {
		t.Errorf("error %v, output %s", err, &out)
	}
	if err := run(t.Context(), &out, []string{"-server", "opaque"}); err == nil ||
		err.Error() != `-server "opaque" is not jwt, claims, mint or exchange` {
		t.Errorf("error %v for an unknown kind of server", err)
	}
	if err := run(t.Context(), &out, []string{"-unknown"}); err == nil || errors.Is(err, flag.ErrHelp) {
		t.Errorf("error %v for an unknown flag", err)
	}
}

func send(t *testing.T, req *http.Request) (status int, body []byte) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// A lockedBuffer may be written and read at the same time.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
