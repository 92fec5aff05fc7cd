package phantomcaddy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom/phantomtest"
)

const (
	noToken   = `Bearer realm="api"`
	invalid   = `Bearer realm="api", error="invalid_token"`
	malformed = `Bearer realm="api", error="invalid_request", error_description="The bearer token is malformed or sent more than once."`
	forbidden = `Bearer realm="api", error="insufficient_scope", scope="orders:read"`
)

// protectedSite has a route that needs a scope beside one that needs a token.
func protectedSite(t *testing.T, opts ...phantomtest.Option) *site {
	t.Helper()
	s := newSite(t, opts...)
	s.start(t, `
	phantom /orders* {
		scopes orders:read
		`+s.settings()+`
	}
	phantom {
		`+s.settings()+`
	}
	reverse_proxy `+s.api.Listener.Addr().String()+` {
		header_up X-User {http.auth.user.id}
		header_up X-Client {http.auth.user.client_id}
	}`)
	return s
}

func TestGoodTokenBecomesAJWT(t *testing.T) {
	s := protectedSite(t)
	token := s.issue(map[string]any{"sub": "alice", "scope": "orders:read", "client_id": "app"})
	for _, tc := range []struct{ line, field, body string }{
		{"GET /x?a=b;c", "authorization: bEaReR    " + token, ""},
		{"POST /x", "Authorization: Bearer " + token, strings.Repeat("0123456789abcdef", 64<<10)},
		{"GET /orders/1", "Authorization: Bearer " + token, ""},
		{"GET /x", "Connection: close, authorization\r\nAuthorization: Bearer " + token, ""},
	} {
		r := s.served(t, s.send(t, tc.line, []string{tc.field, "X-User: mallory", "X-Client: forged"}, tc.body))
		checkJWT(t, r)
		if _, target, _ := strings.Cut(tc.line, " "); r.RequestURI != target {
			t.Errorf("the API was asked for %q", r.RequestURI)
		}
		user, client := r.Header.Values("X-User"), r.Header.Values("X-Client")
		if len(user) != 1 || user[0] != "alice" || len(client) != 1 || client[0] != "app" {
			t.Errorf("X-User %q, X-Client %q", user, client)
		}
	}
	if n := s.as.Introspections(); n != 1 { // both directives have one memory
		t.Errorf("%d lookups", n)
	}
}

func TestVerdictReachesTheClient(t *testing.T) {
	s := protectedSite(t)
	token := s.issue(map[string]any{"scope": "profile"})
	jwt := strings.TrimPrefix(s.served(t, s.get(t, "/x", token)).Header.Get("Authorization"), "Bearer ")
	good := "Authorization: Bearer " + token
	for _, tc := range []struct {
		name, line string
		fields     []string
		status     int
		challenge  string
	}{
		{"no token", "GET /x", nil, 401, noToken},
		{"another scheme", "GET /x", []string{"Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}, 401, noToken},
		{"junk", "GET /x", []string{"Authorization: Bearer junk"}, 401, invalid},
		{"a JWT from outside", "GET /x", []string{"Authorization: Bearer " + jwt}, 401, invalid},
		{"malformed", "GET /x", []string{"Authorization: Bearer a b"}, 400, malformed},
		{"two", "GET /x", []string{good, good}, 400, malformed},
		{"two, one of them junk", "GET /x", []string{good, "authorization: Bearer junk"}, 400, malformed},
		{"scope missing", "GET /orders/1", []string{good}, 403, forbidden},
		{"scope missing, POST", "POST /orders", []string{good}, 403, forbidden},
		{"another route by name", "GET /orders/1", []string{good, "X-Forwarded-Uri: /x", "X-Original-URL: /x", "X-Rewrite-URL: /x"}, 403, forbidden},
		{"preflight", "OPTIONS /x", []string{"Origin: https://app.example", "Access-Control-Request-Method: GET"}, 401, noToken},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.refused(t, s.send(t, tc.line, tc.fields, ""), tc.status, tc.challenge)
		})
	}
}

// An API answers TRACE with what it got, the JWT with it.
func TestTraceEndsHere(t *testing.T) {
	s := protectedSite(t)
	token := s.issue(map[string]any{"scope": "orders:read"})
	for _, method := range []string{"TRACE", "trace"} {
		for _, path := range []string{"/x", "/orders/1"} {
			a := s.send(t, method+" "+path, []string{"Authorization: Bearer " + token}, "")
			if a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS" {
				t.Errorf("%s %s: status %d, Allow %q", method, path, a.status, a.header.Get("Allow"))
			}
			if got := s.take(); len(got) > 0 {
				t.Errorf("%s %s reached the API", method, path)
			}
		}
	}
}

// A websocket needs a token as any other request does, and then passes both
// ways.
func TestWebsocketPasses(t *testing.T) {
	s := protectedSite(t)
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	}
	upgrade := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
	s.refused(t, s.send(t, "GET /chat", upgrade, ""), http.StatusUnauthorized, noToken)

	conn, err := net.DialTimeout("tcp", s.address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fields := append(upgrade, "Host: "+s.address, "Authorization: Bearer "+s.issue(nil))
	_, _ = io.WriteString(conn, "GET /chat HTTP/1.1\r\n"+strings.Join(fields, "\r\n")+"\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	got := s.take()
	if len(got) != 1 {
		t.Fatalf("%d requests at the API", len(got))
	}
	checkJWT(t, got[0])
	for _, message := range []string{"one", "\x00\xfftwo"} {
		_, _ = io.WriteString(conn, message)
		echo := make([]byte, len(message))
		if _, err := io.ReadFull(in, echo); err != nil || string(echo) != message {
			t.Fatalf("%q, %v; want %q", echo, err, message)
		}
	}
}

func TestNoVerdictIsNoAdmission(t *testing.T) {
	for failure, want := range map[int]int{http.StatusServiceUnavailable: 503, http.StatusBadRequest: 502} {
		s := protectedSite(t)
		s.as.Fail(failure, 100)
		s.refused(t, s.get(t, "/x", s.issue(nil)), want, "")
	}
}

func TestAnswersOfTheAPIAreUntouched(t *testing.T) {
	s := protectedSite(t)
	token := s.issue(nil)
	for _, status := range []int{400, 401, 403, 404, 500, 502, 503} {
		s.mu.Lock()
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", "Custom")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "the API's own words")
		}
		s.mu.Unlock()
		a := s.get(t, "/x", token)
		if a.status != status || a.body != "the API's own words" || a.header.Get("WWW-Authenticate") != "Custom" {
			t.Errorf("%d: status %d, body %q, challenge %q", status, a.status, a.body, a.header.Get("WWW-Authenticate"))
		}
		s.take()
	}
}

// The API that is gone is Caddy's fault to tell, not a verdict on the token.
func TestErrorOfTheNextHandlerIsCaddys(t *testing.T) {
	s := protectedSite(t)
	token := s.issue(nil)
	s.served(t, s.get(t, "/x", token))
	s.api.Close()
	a := s.get(t, "/x", token)
	if a.status != http.StatusBadGateway || a.header.Get("Cache-Control") != "" {
		t.Errorf("status %d, Cache-Control %q", a.status, a.header.Get("Cache-Control"))
	}
}

// Catalogue: G9.
func TestReloadKeepsWhatIsKnown(t *testing.T) {
	s := newSite(t)
	body := func(settings, more string) string {
		return "phantom {\n" + settings + "}\n" + more + "\nreverse_proxy " + s.api.Listener.Addr().String()
	}
	s.start(t, body(s.settings(), ""))
	token := s.issue(nil)
	s.served(t, s.get(t, "/x", token))
	s.reload(t, body(s.settings(), "header X-Reloaded yes"))
	a := s.get(t, "/x", token)
	s.served(t, a)
	if n := s.as.Introspections(); n != 1 || a.header.Get("X-Reloaded") != "yes" {
		t.Errorf("%d lookups, X-Reloaded %q", n, a.header.Get("X-Reloaded"))
	}
	// A token that is good is not what makes the settings equal.
	s.reload(t, body(s.settings()+"scopes orders:read\n", ""))
	s.refused(t, s.get(t, "/x", token), 403, `Bearer realm="api", error="insufficient_scope", scope="orders:read"`)
	s.reload(t, body(strings.Replace(s.settings(), "rs.test", "other.test", 1), ""))
	s.refused(t, s.get(t, "/x", token), 401, invalid)
	if n := s.as.Introspections(); n != 2 {
		t.Errorf("%d lookups", n)
	}
}

func TestUpstreamWithoutAJWTHasTheClaims(t *testing.T) {
	s := newSite(t, phantomtest.WithoutJWT())
	s.start(t, "phantom {\n"+s.settings()+"without_jwt\n}\nreverse_proxy "+s.api.Listener.Addr().String()+
		" {\nheader_up X-User {http.auth.user.id}\n}")
	r := s.served(t, s.get(t, "/x", s.issue(map[string]any{"sub": "alice"})))
	if got := r.Header.Values("Authorization"); got != nil || r.Header.Get("X-User") != "alice" {
		t.Errorf("%d values of Authorization, X-User %q", len(got), r.Header.Get("X-User"))
	}
}

// Who stands outside must find in Caddy's log what is wrong.
func TestCaddysLogHasPhantomsLines(t *testing.T) {
	s := protectedSite(t)
	s.as.Fail(http.StatusUnauthorized, 100)
	s.refused(t, s.get(t, "/x", s.issue(nil)), 502, "")
	for deadline := time.Now().Add(patience); !strings.Contains(s.output.String(), `"logger":"http.handlers.phantom"`); {
		if time.Now().After(deadline) {
			t.Fatal("no line of phantom")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Catalogue: G10.
func TestValidateReportsAllMistakes(t *testing.T) {
	s := newSite(t)
	if out, ok := s.validate(t, "phantom {\n"+s.settings()+"}"); !ok {
		t.Fatalf("valid settings are refused:\n%s", out)
	}
	for _, tc := range []struct {
		name, settings string
		want           []string
	}{
		{"nothing", "", []string{"issuer: ", "audience: ", "client_id and client_secret: "}},
		{"values", s.settings() + "max_ttl -1s\ncache_size -2\nintrospection_endpoint login\n",
			[]string{"max_ttl: ", "-1s", "cache_size: ", "-2", "introspection_endpoint: ", "login"}},
		{"client", "issuer " + s.issuer + "\naudience a\nclient_auth digest\n", []string{`client_auth: "digest" is not basic, post or none`}},
		{"plain http", "issuer http://as.example.com\naudience a\nclient_auth none\n",
			[]string{`issuer: "http://as.example.com" is not https; see insecure_http`}},
		{"a secret for none", s.settings() + "client_auth none\n", []string{`client_auth: "none" excludes client_id and client_secret`}},
		{"an unset variable", strings.Replace(s.settings(), "client_id caddy", "client_id {env.NOT_THERE}", 1), []string{"client_id: ", "env.NOT_THERE"}},
		{"a missing file", strings.Replace(s.settings(), s.secretFile(), s.dir+"/gone", 1), []string{"client_secret: "}},
		{"a scope", s.settings() + `scopes "a b"` + "\n", []string{`scopes: "a b" is not a scope`}},
		{"an empty argument", s.settings() + `scopes ""` + "\n", []string{"scopes has an empty argument"}},
		{"a duration", s.settings() + "timeout soon\n", []string{`timeout: "soon" is not a duration such as 60s`}},
		{"a number", s.settings() + "max_in_flight many\n", []string{`max_in_flight: "many" is not a number`}},
		{"twice", s.settings() + "issuer https://other.test\n", []string{"issuer stands twice"}},
		{"unknown", s.settings() + "audiences a\n", []string{"unknown subdirective audiences"}},
		{"two values", s.settings() + "realm a b\n", []string{"realm takes one argument"}},
		{"no value", s.settings() + "realm\n", []string{"realm takes one argument"}},
		{"a switch", s.settings() + "without_jwt yes\n", []string{"without_jwt takes no argument"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, ok := s.validate(t, "phantom {\n"+tc.settings+"}")
			if ok {
				t.Errorf("accepted:\n%s", out)
			}
			for _, want := range tc.want {
				if !strings.Contains(strings.ReplaceAll(out, `\"`, `"`), want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
		})
	}
}

// A file that has nothing in it is no secret.
func TestEmptySecretIsRefused(t *testing.T) {
	s := newSite(t)
	file := s.dir + "/empty"
	if err := os.WriteFile(file, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, ok := s.validate(t, "phantom {\n"+strings.Replace(s.settings(), s.secretFile(), file, 1)+"}"); ok {
		t.Errorf("accepted:\n%s", out)
	}
}

func TestREADMEIsValid(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(readme), "```caddyfile\n")
	block, _, ended := strings.Cut(block, "```")
	if !found || !ended {
		t.Fatal("README.md has no Caddyfile")
	}
	s := newSite(t)
	block = strings.Replace(block, "/run/secrets/phantom", s.secretFile(), 1)
	out, err := s.command("validate", "--config", s.write(t, "{\n\tauto_https off\n}\n"+block), "--adapter", "caddyfile").CombinedOutput()
	if err != nil {
		t.Errorf("caddy validate: %v\n%s", err, out)
	}
}
