package main

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/phantom-token/phantom/phantomtest"
)

// A client that announces a body and does not send it has its answer at once,
// and then no connection any more, whoever it is that did not want the body.
func TestBodiesThatDoNotCome(t *testing.T) {
	s := newSite(t)
	g := s.start(t, map[string]string{"public-paths": "/open"})
	s.upstream.does(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestEntityTooLarge) })
	token := s.issue(nil)

	for _, tc := range []struct {
		name, line, fields string
		connections, want  int
	}{
		{"no token", "POST /", "", 300, http.StatusUnauthorized},
		{"junk", "POST /", "Authorization: Bearer junk\r\n", 10, http.StatusUnauthorized},
		{"chunked", "POST /", "Transfer-Encoding: chunked\r\n", 10, http.StatusUnauthorized},
		{"TRACE", "TRACE /", "", 10, http.StatusMethodNotAllowed},
		{"the upstream does not want it", "POST /", "Authorization: Bearer " + token + "\r\n", 10, http.StatusRequestEntityTooLarge},
		{"public", "POST /open", "", 10, http.StatusRequestEntityTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			length := "Content-Length: 1000000\r\n"
			if tc.name == "chunked" {
				length = ""
			}
			var all sync.WaitGroup
			for range tc.connections {
				conn := g.dial(t)
				all.Go(func() {
					begin := time.Now()
					_, _ = io.WriteString(conn, tc.line+" HTTP/1.1\r\nHost: a\r\n"+tc.fields+length+"\r\n")
					in := bufio.NewReader(conn)
					resp, err := http.ReadResponse(in, nil)
					if err != nil || resp.StatusCode != tc.want {
						t.Errorf("response %v, error %v", resp, err)
						return
					}
					if answered := time.Since(begin); answered > patience/2 {
						t.Errorf("the answer took %v", answered)
					}
					if _, err := io.Copy(io.Discard, in); err != nil && strings.Contains(err.Error(), "timeout") {
						t.Errorf("the connection lives on: %v", err)
					}
				})
			}
			all.Wait()
		})
	}

	t.Run("shutdown", func(t *testing.T) {
		for range 50 {
			_, _ = io.WriteString(g.dial(t), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
		}
		g.eventually(t, "the rejections", func() bool { return len(g.lines("request")) >= 400 })
		begin := time.Now()
		g.stop(t, syscall.SIGTERM)
		if took := time.Since(begin); took > patience/2 {
			t.Errorf("it took %v", took)
		}
	})
}

// After SIGTERM the gateway first looks as if it were gone, then goes on for a
// while, and only then refuses connections.
func TestDrain(t *testing.T) {
	s := newSite(t)
	g := s.start(t, map[string]string{"drain": "2s"})
	token := s.issue(nil)
	probe := func() (int, error) {
		resp, err := client.Get(g.health + "/readyz")
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	g.eventually(t, "readiness", func() bool { status, _ := probe(); return status == http.StatusOK })

	begin := time.Now()
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	g.eventually(t, "end of readiness", func() bool { status, _ := probe(); return status == http.StatusServiceUnavailable })
	for range 5 {
		fresh := &http.Client{Transport: &http.Transport{}, Timeout: patience} // with a connection of its own
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url, nil)
		req.Header.Set("Authorization", "Bearer "+token)
		a := fetch(t, fresh, req)
		a.served(t)
		if !a.Close {
			t.Error("the client is told to use the connection again")
		}
	}
	if code := g.wait(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("it drained for %v", took)
	}
}

// Public paths are compared as they are sent, and no credential goes with them.
func TestPublicPaths(t *testing.T) {
	s := newSite(t)
	g := s.start(t, map[string]string{"public-paths": "/login /assets/ /a%20b"})
	g.ready(t)
	if got, want := fmt.Sprint(g.await(t, "serving")["no_token"]), "[/login /assets/ /a%20b]"; got != want {
		t.Errorf("logged %s, want %s", got, want)
	}
	token := s.issue(nil)
	for _, target := range []string{"/login", "/login?next=/;x", "/assets/", "/a%20b"} {
		for _, field := range []string{"Bearer " + token, "Basic eDp5", "junk", ""} {
			a := g.raw(t, "POST "+target+" HTTP/1.1\nHost: a\nConnection: close\nauthorization: "+field+
				"\nDPoP: x\nTrailer: Authorization\nTransfer-Encoding: chunked\n\n4\nbody\n0\nAuthorization: Bearer evil\n\n")
			a.served(t)
			r, body := s.upstream.last(t)
			if _, found := r.Header["Authorization"]; found || r.Trailer.Get("Authorization") != "" || r.Header.Get("DPoP") != "" {
				t.Errorf("%s with %q: header %v, trailer %v", target, field, r.Header, r.Trailer)
			}
			if r.RequestURI != target || body != "body" {
				t.Errorf("%s: target %q, body %q", target, r.RequestURI, body)
			}
		}
	}
	for _, target := range []string{
		"/", "/login/", "/Login", "//login", "/login/../admin", "/./login", "/lo%67in", "/login;x", "/login%2f", "/login%3fx",
		"/assets", "/assets/x", "/assets/../admin", "/assets//", "/a b", "/a+b", "/a%2520b", "/login%00", "/login#x",
	} {
		a := g.raw(t, "GET "+target+" HTTP/1.1\nHost: a\nConnection: close\n\n")
		if a.StatusCode != http.StatusUnauthorized && a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d", target, a.StatusCode)
		}
	}
	s.upstream.mu.Lock()
	defer s.upstream.mu.Unlock()
	if len(s.upstream.requests) > 0 {
		t.Errorf("%d requests reached the upstream", len(s.upstream.requests))
	}
	if n := s.as.Introspections(); n != 1 {
		t.Errorf("%d introspections", n)
	}
}

// Each line has a bound, and says whose fault it was.
func TestReasonsInTheAccessLog(t *testing.T) {
	s := newSite(t)
	g := s.start(t, map[string]string{"scopes": "read"})
	g.ready(t)
	junk := s.secret("junk-that-nobody-issued")
	g.get(t, "/none", "")
	g.get(t, "/junk", junk)
	g.get(t, "/junk-again", junk)
	g.get(t, "/scope", s.issue(map[string]any{"scope": "other"}))
	g.get(t, "/served", s.issue(nil))
	token := s.issue(nil)
	s.as.Fail(http.StatusUnauthorized, 1)
	g.get(t, "/credentials", token)
	s.as.Fail(http.StatusServiceUnavailable, 1)
	g.get(t, "/away", token)
	g.get(t, "/known", token).served(t)
	s.upstream.CloseClientConnections()
	s.upstream.Close()
	g.get(t, "/upstream", token)
	long := strings.Repeat("<&\"é", 8000)
	g.raw(t, strings.Repeat("M", 5000)+" /"+url.PathEscape(long)[:13*3000]+" HTTP/1.1\nHost: a\nConnection: close\n\n")

	lines := map[string]map[string]any{}
	g.eventually(t, "line for each request", func() bool {
		for _, line := range g.lines("request") {
			lines[line["path"].(string)[:min(12, len(line["path"].(string)))]] = line
		}
		return len(lines) == 10
	})
	for path, want := range map[string]string{
		"/none": "401 no_credentials", "/junk": "401 inactive", "/scope": "403 scope", "/served": "200 <nil>",
		"/credentials": "502 as_protocol", "/away": "503 as_unavailable", "/known": "200 <nil>", "/upstream": "502 upstream",
	} {
		line := lines[path]
		if got := fmt.Sprintf("%v %v", line["status"], line["reason"]); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
		digest, _ := line["token"].(string)
		if withToken := path == "/junk" || path == "/scope" || path == "/credentials" || path == "/away"; withToken != (len(digest) == 8) {
			t.Errorf("%s: token %q", path, digest)
		}
	}
	if lines["/junk"]["token"] != lines["/junk-again"]["token"] || lines["/junk"]["token"] == lines["/away"]["token"] {
		t.Errorf("digests %v, %v, %v", lines["/junk"]["token"], lines["/junk-again"]["token"], lines["/away"]["token"])
	}
	for line := range strings.Lines(g.stdout.String()) {
		if strings.Contains(line, `"msg":"request"`) && len(line) > 2048 {
			t.Errorf("%d bytes: %s", len(line), line)
		}
	}
}

// The log can be quiet, and it can be text.
func TestLogSettings(t *testing.T) {
	s := newSite(t)
	g := launch(t, []string{
		"-listen=" + freeAddress(t), "-upstream=" + s.upstream.URL, "-issuer=" + s.issuer, "-audience=" + audience,
		"-client-id=" + clientID, "-log-format=text", "-log-level=warn",
	}, []string{"PHANTOM_CLIENT_SECRET=" + clientSecret})
	g.url = "http://" + strings.TrimPrefix(g.cmd.Args[1], "-listen=")
	g.eventually(t, "connection", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		return err == nil && conn.Close() == nil
	})
	g.get(t, "/", s.issue(nil)).served(t)
	s.upstream.Close()
	g.get(t, "/", s.issue(nil))
	g.stop(t, syscall.SIGTERM)
	if text := g.stdout.String(); strings.Contains(text, "msg=request") || !strings.Contains(text, `level=ERROR msg="no answer of the upstream"`) {
		t.Errorf("log %s", text)
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// post sends a form.
func post(t *testing.T, target string, form url.Values) answer {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, target, strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return fetch(t, client, req)
}

// What is forgotten is asked about again.
func TestForget(t *testing.T) {
	s := newSite(t)
	g := s.start(t, nil)
	token, other := s.issue(nil), s.issue(nil)
	for _, one := range []string{token, other} {
		g.get(t, "/", one).served(t)
		s.as.Revoke(one)
		g.get(t, "/", one).served(t)
	}
	for name, a := range map[string]answer{
		"no form":   post(t, g.forget+"/forget", nil),
		"no token":  post(t, g.forget+"/forget", url.Values{"token": {""}}),
		"the query": post(t, g.forget+"/forget?token="+url.QueryEscape(token), nil),
	} {
		if a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d", name, a.StatusCode)
		}
	}
	resp, err := client.Get(g.forget + "/forget")
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v, %v", resp, err)
	}
	g.get(t, "/", token).served(t)

	if a := post(t, g.forget+"/forget", url.Values{"token": {token}}); a.StatusCode != http.StatusNoContent || a.body != "" {
		t.Errorf("status %d, body %q", a.StatusCode, a.body)
	}
	g.get(t, "/", token).rejected(t, 401, invalidToken)
	g.get(t, "/", other).served(t)
	// Clients cannot get there.
	for _, path := range []string{"/forget", "/backchannel-logout"} {
		g.do(t, http.MethodPost, path, "").rejected(t, 401, noToken)
	}
	if host, _, _ := net.SplitHostPort(strings.TrimPrefix(g.forget, "http://")); host != "127.0.0.1" {
		t.Errorf("it listens on %s", host)
	}
}

// compact signs a JWT with ES256.
func compact(t *testing.T, key crypto.Signer, header, claims map[string]any) string {
	t.Helper()
	var parts []string
	for _, part := range []map[string]any{header, claims} {
		text, err := json.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(text))
	}
	input := strings.Join(parts, ".")
	sum := sha256.Sum256([]byte(input))
	r, ss, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	ss.FillBytes(signature[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// A logout token of the authorization server ends what it names.
func TestBackchannelLogout(t *testing.T) {
	s := newSite(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.asServer.be(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/jwks" {
			s.as.ServeHTTP(w, r)
			return
		}
		recorded := httptest.NewRecorder()
		s.as.ServeHTTP(recorded, r)
		var set struct {
			Keys []map[string]any `json:"keys"`
		}
		_ = json.Unmarshal(recorded.Body.Bytes(), &set)
		point, _ := key.PublicKey.Bytes()
		set.Keys = append(set.Keys, map[string]any{
			"kty": "EC", "crv": "P-256", "kid": "logout", "alg": "ES256",
			"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:]),
		})
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(set)
	})
	g := s.start(t, nil)
	tokens := map[string]string{"alice": s.issue(nil), "bob": s.issue(map[string]any{"sub": "bob"})}
	for _, token := range tokens {
		g.get(t, "/", token).served(t)
		s.as.Revoke(token)
	}
	logout := func(claims map[string]any) string {
		all := map[string]any{
			"iss": s.issuer, "aud": clientID, "sub": "alice", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
			"jti": rand.Text(), "events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
		}
		for name, value := range claims {
			all[name] = value
		}
		return compact(t, key, map[string]any{"alg": "ES256", "kid": "logout", "typ": "logout+jwt"}, all)
	}
	target := g.forget + "/backchannel-logout"
	if a := post(t, target, url.Values{"logout_token": {logout(map[string]any{"iss": "https://other.test"})}}); a.StatusCode != http.StatusBadRequest {
		t.Errorf("of another issuer: status %d", a.StatusCode)
	}
	g.get(t, "/", tokens["alice"]).served(t)
	if a := post(t, target, url.Values{"logout_token": {logout(nil)}}); a.StatusCode != http.StatusOK {
		t.Errorf("status %d, %s", a.StatusCode, a.body)
	}
	g.get(t, "/", tokens["alice"]).rejected(t, 401, invalidToken)
	g.get(t, "/", tokens["bob"]).served(t)
}

// Bound tokens need a proof of their key for the origin that clients use.
func TestBoundTokens(t *testing.T) {
	const origin = "https://api.example.com"
	s := newSite(t)
	g := s.start(t, map[string]string{"dpop-origin": origin})
	key := phantomtest.NewProofKey()
	token := s.secret(s.as.IssueBound("jkt", key.Thumbprint(), nil))
	send := func(scheme, proof string) answer {
		return g.do(t, http.MethodGet, "/orders", "", "Authorization", scheme+" "+token, "DPoP", proof)
	}
	proof := s.secret(key.Sign(phantomtest.Proof{Method: "GET", URI: origin + "/orders", Token: token}))
	send("DPoP", proof).served(t)
	r, _ := s.upstream.last(t)
	checkJWT(t, r)
	if got := r.Header.Values("DPoP"); got != nil {
		t.Errorf("DPoP upstream: %q", got)
	}
	for name, a := range map[string]answer{
		"again":          send("DPoP", proof),
		"under Bearer":   send("Bearer", key.Sign(phantomtest.Proof{Method: "GET", URI: origin + "/orders", Token: token})),
		"other origin":   send("DPoP", key.Sign(phantomtest.Proof{Method: "GET", URI: g.url + "/orders", Token: token})),
		"other key":      send("DPoP", phantomtest.NewProofKey().Sign(phantomtest.Proof{Method: "GET", URI: origin + "/orders", Token: token})),
		"without a flag": s.start(t, nil).get(t, "/orders", token),
	} {
		if a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: status %d", name, a.StatusCode)
		}
	}
}

// Prometheus has an address of its own, and sees no more than numbers.
func TestMetrics(t *testing.T) {
	s := newSite(t)
	g := s.start(t, nil)
	g.ready(t)
	token := s.issue(nil)
	for range 3 {
		g.get(t, "/", token).served(t)
	}
	g.get(t, "/", s.secret("junk-that-nobody-issued"))
	g.get(t, "/", "")
	resp, err := client.Get(g.meter + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	for _, want := range []string{
		`phantom_cache_tokens_total{.*phantom_cache_outcome="hit"} 2`, `phantom_cache_tokens_total{.*phantom_cache_outcome="miss"} 2`,
		`phantom_rejections_total{.*error_type="inactive".*} 1`, `phantom_rejections_total{.*error_type="no_credentials".*} 1`,
		`phantom_lookup_duration_seconds_count{`,
	} {
		if !regexp.MustCompile(want).Match(text) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if found := s.leaks(string(text)); len(found) > 0 || strings.Contains(string(text), "alice") {
		t.Errorf("in the metrics: %q\n%s", found, text)
	}
}
