package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// A service is the whole server on a port, beside an authorization server in
// memory.
type service struct {
	as       *phantomtest.AuthorizationServer
	endpoint string
}

func start(t *testing.T) *service {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	s := &service{endpoint: "http://" + srv.Listener.Addr().String() + "/mcp"}
	s.as = phantomtest.New(phantomtest.WithAudience(s.endpoint), phantomtest.WithoutJWT())
	server := newServer()
	mcp.AddTool(server, &mcp.Tool{Name: "show"}, show)
	h, err := protect(server, s.endpoint, "https://as.test", s.as.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = h
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return s
}

// seen is what a tool sees of its request.
type seen struct {
	Scopes        []string
	Authorization []string
}

func show(ctx context.Context, req *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, seen, error) {
	tok, ok := phantom.FromContext(ctx)
	if !ok {
		return nil, seen{}, phantom.ErrNoToken
	}
	return nil, seen{tok.Scopes(), req.Extra.Header.Values("Authorization")}, nil
}

// metadata returns where the metadata must be.
func (s *service) metadata() string {
	return strings.Replace(s.endpoint, "/mcp", "/.well-known/oauth-protected-resource/mcp", 1)
}

// issue returns a token of the user's for the endpoint.
func (s *service) issue(user string) string {
	return s.as.Issue(map[string]any{"sub": user, "scope": "notes"})
}

// A bearer sends its token, which can be replaced, with every request.
type bearer struct{ token atomic.Value }

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token.Load().(string))
	return http.DefaultTransport.RoundTrip(r)
}

// connect opens a session of the SDK's client.
func (s *service) connect(t *testing.T, token string) (*mcp.ClientSession, *bearer, error) {
	t.Helper()
	b := &bearer{}
	b.token.Store(token)
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint: s.endpoint, HTTPClient: &http.Client{Transport: b}, MaxRetries: -1,
	}, nil)
	if err == nil {
		t.Cleanup(func() { _ = session.Close() })
	}
	return session, b, err
}

// call calls a tool and returns what it says.
func call[Out any](t *testing.T, session *mcp.ClientSession, tool string, arguments any) (Out, error) {
	t.Helper()
	var out Out
	result, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		return out, err
	}
	structured, err := json.Marshal(result.StructuredContent)
	if err != nil || result.IsError {
		t.Fatalf("%v, %+v", err, result)
	}
	return out, json.Unmarshal(structured, &out)
}

// params returns the parameters of the one challenge, as the SDK's client reads
// them.
func params(t *testing.T, resp *http.Response) map[string]string {
	t.Helper()
	challenges, err := oauthex.ParseWWWAuthenticate(resp.Header.Values("WWW-Authenticate"))
	if err != nil || len(challenges) != 1 || challenges[0].Scheme != "bearer" {
		t.Fatalf("%v: %v, %v", resp.Header, challenges, err)
	}
	return challenges[0].Params
}

// post sends a message as a client would, in a session if it is not empty.
func (s *service) post(t *testing.T, token, session, message string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.endpoint, strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if session != "" {
		r.Header.Set("Mcp-Session-Id", session)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

const (
	initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",` +
		`"capabilities":{},"clientInfo":{"name":"test","version":"1"}}}`
	ping = `{"jsonrpc":"2.0","id":2,"method":"ping"}`
)

// A client without a token finds the authorization server with what the 401
// says. It is the SDK's own code that reads the challenge and the metadata.
func TestClientFindsTheAuthorizationServer(t *testing.T) {
	s := start(t)
	resp := s.post(t, "", "", initialize)
	challenge := params(t, resp)
	if resp.StatusCode != http.StatusUnauthorized || challenge["error"] != "" {
		t.Errorf("%s %v", resp.Status, challenge)
	}
	where := challenge["resource_metadata"]
	if where != s.metadata() {
		t.Fatalf("metadata at %s, want %s", where, s.metadata())
	}
	metadata, err := oauthex.GetProtectedResourceMetadata(t.Context(), where, s.endpoint, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	if metadata.Resource != s.endpoint || !slices.Equal(metadata.AuthorizationServers, []string{"https://as.test"}) ||
		!slices.Equal(metadata.ScopesSupported, []string{"notes"}) {
		t.Errorf("%+v", metadata)
	}
	if _, _, err := s.connect(t, "made-up"); err == nil {
		t.Error("a session without a good token")
	}
}

// Catalogue: F10.
func TestToolSeesTheSubject(t *testing.T) {
	s := start(t)
	for _, tc := range []struct {
		user, text string
		want       []string
	}{
		{"alice", "buy milk", []string{"buy milk"}},
		{"bob", "call alice", []string{"call alice"}},
		{"alice", "buy bread", []string{"buy milk", "buy bread"}},
	} {
		session, _, err := s.connect(t, s.issue(tc.user))
		if err != nil {
			t.Fatal(err)
		}
		got, err := call[list](t, session, "add_note", note{tc.text})
		if err != nil || got.Subject != tc.user || !slices.Equal(got.Notes, tc.want) {
			t.Errorf("%+v, %v; want %s's %q", got, err, tc.user, tc.want)
		}
	}
}

// Each request is judged by phantom, in a session too. Every challenge names the
// scope: clients ask for what it says.
//
// Catalogue: F10.
func TestAnswerToBadTokens(t *testing.T) {
	s := start(t)
	session := s.post(t, s.issue("alice"), "", initialize).Header.Get("Mcp-Session-Id")
	if session == "" {
		t.Fatal("no session")
	}
	for _, tc := range []struct {
		name, token string
		status      int
		error       string
	}{
		{"none", "", 401, ""},
		{"inactive", "made-up", 401, `error="invalid_token", `},
		{"another server's", s.as.Issue(map[string]any{"aud": "https://other.test", "scope": "notes"}),
			401, `error="invalid_token", `},
		{"without the scope", s.as.Issue(map[string]any{"scope": "profile"}), 403, `error="insufficient_scope", `},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for id, message := range map[string]string{"": initialize, session: ping} {
				resp := s.post(t, tc.token, id, message)
				want := `Bearer realm="api", ` + tc.error + `scope="notes", resource_metadata="` + s.metadata() + `"`
				if got := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != tc.status || got != want {
					t.Errorf("session %q: %s %s\nwant %d %s", id, resp.Status, got, tc.status, want)
				}
			}
		})
	}

	// No verdict is a 503, and none on the client.
	s.as.Fail(http.StatusInternalServerError, 1000)
	for id, message := range map[string]string{"": initialize, session: ping} {
		resp := s.post(t, s.issue("alice"), id, message)
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("WWW-Authenticate") != "" ||
			resp.Header.Get("Retry-After") == "" {
			t.Errorf("session %q, authorization server down: %s %v", id, resp.Status, resp.Header)
		}
	}
	if _, _, err := s.connect(t, s.issue("alice")); err == nil {
		t.Error("a session without a verdict")
	}
}

// The context of a call has the token of its own request, not of the one that
// began the session, and no credentials are left in its header.
func TestToolSeesTheTokenOfItsOwnRequest(t *testing.T) {
	s := start(t)
	session, b, err := s.connect(t, s.issue("alice"))
	if err != nil {
		t.Fatal(err)
	}
	for _, scope := range []string{"notes", "notes admin", "notes"} {
		b.token.Store(s.as.Issue(map[string]any{"scope": scope}))
		got, err := call[seen](t, session, "show", struct{}{})
		if err != nil || strings.Join(got.Scopes, " ") != scope || !slices.Equal(got.Authorization, []string{"Bearer -"}) {
			t.Errorf("%+v, %v; want %s", got, err, scope)
		}
	}
}

// A session is its user's alone, with each token of theirs.
//
// Catalogue: F11.
func TestSessionIsItsUsersAlone(t *testing.T) {
	s := start(t)
	session := s.post(t, s.issue("alice"), "", initialize).Header.Get("Mcp-Session-Id")
	for _, tc := range []struct {
		user   string
		status int
	}{{"alice", 200}, {"bob", 403}, {"alice", 200}} {
		if resp := s.post(t, s.issue(tc.user), session, ping); resp.StatusCode != tc.status {
			t.Errorf("%s: %s, want %d", tc.user, resp.Status, tc.status)
		}
	}

	client, b, err := s.connect(t, s.issue("alice"))
	if err != nil {
		t.Fatal(err)
	}
	b.token.Store(s.issue("bob"))
	if got, err := call[list](t, client, "add_note", note{"let me in"}); err == nil {
		t.Errorf("bob is in alice's session: %+v", got)
	}
}

// A stream of events does not outlive the token that opened it.
func TestStreamEndsWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const endpoint = "https://mcp.test/mcp"
		as := phantomtest.New(phantomtest.WithAudience(endpoint), phantomtest.WithoutJWT())
		h, err := protect(newServer(), endpoint, "https://as.test", as.Options()...)
		if err != nil {
			t.Fatal(err)
		}
		token := as.Issue(map[string]any{"scope": "notes", "exp": time.Now().Add(time.Minute).Unix()})
		send := func(method, session, body string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, endpoint, strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+token)
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Accept", "application/json, text/event-stream")
			if session != "" {
				r.Header.Set("Mcp-Session-Id", session)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		session := send(http.MethodPost, "", initialize).Header().Get("Mcp-Session-Id")
		began := time.Now()
		if w := send(http.MethodGet, session, ""); w.Code != http.StatusOK || time.Since(began) != time.Minute {
			t.Errorf("%d %s, after %v", w.Code, w.Body, time.Since(began))
		}
		token = as.Issue(map[string]any{"scope": "notes"})
		if w := send(http.MethodDelete, session, ""); w.Code != http.StatusNoContent {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
