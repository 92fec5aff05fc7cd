package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/phantom-token/phantom/phantomtest"
)

// binary is the program under test. The tests run it as a process and talk to
// it through sockets, as its users do.
var binary string

func TestMain(m *testing.M) {
	if upstream := os.Getenv(bareVariable); upstream != "" {
		serveBare(upstream)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gateway")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "gateway")
	args := []string{"build", "-o", binary}
	// Under the race detector the process is watched as well; what it finds
	// is on stderr, where nothing may be.
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

const (
	clientID = "gateway client"
	// With characters that the ways of sending it encode.
	clientSecret = "s3cr3t: 100 % of+the/gateway"
	audience     = "https://rs.test"
	patience     = 10 * time.Second // only a failing test waits so long
)

// client ends a test that would otherwise hang.
var client = &http.Client{Timeout: patience}

// A site is what the gateway stands between and beside.
type site struct {
	as       *phantomtest.AuthorizationServer
	issuer   string
	asServer replaceable // in front of as; hands everything on at first
	upstream *upstream

	mu      sync.Mutex
	secrets map[string]bool
}

func newSite(t testing.TB, opts ...phantomtest.Option) *site {
	t.Helper()
	return newSiteOver(t, nil, opts...)
}

// newSiteOver has an authorization server that speaks TLS, unless config is nil.
func newSiteOver(t testing.TB, config *tls.Config, opts ...phantomtest.Option) *site {
	t.Helper()
	s := &site{secrets: map[string]bool{}}
	s.secret(clientSecret)
	s.secret(base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(clientID) + ":" + url.QueryEscape(clientSecret))))

	server := httptest.NewUnstartedServer(nil)
	t.Cleanup(server.Close)
	server.TLS, s.issuer = config, "http://"+server.Listener.Addr().String()
	start := server.Start
	if config != nil {
		s.issuer, start = strings.Replace(s.issuer, "http", "https", 1), server.StartTLS
	}
	s.as = phantomtest.New(append([]phantomtest.Option{
		phantomtest.WithIssuer(s.issuer), phantomtest.WithAudience(audience), phantomtest.WithClient(clientID, clientSecret),
	}, opts...)...)
	s.asServer.be(s.as.ServeHTTP)
	server.Config.Handler, server.Config.ErrorLog = &s.asServer, log.New(io.Discard, "", 0)
	start()
	s.upstream = newUpstream(t, s)
	return s
}

// secret registers what may be in no output of the gateway.
func (s *site) secret(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[text] = true
	return text
}

// issue returns a new opaque token.
func (s *site) issue(claims map[string]any) string { return s.secret(s.as.Issue(claims)) }

func (s *site) leaks(text string) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for secret := range s.secrets {
		if strings.Contains(text, secret) || strings.Contains(text, url.QueryEscape(secret)) {
			found = append(found, secret)
		}
	}
	return found
}

// A replaceable handler is one that a test may replace while it serves.
type replaceable struct {
	current atomic.Pointer[http.HandlerFunc]
}

func (h *replaceable) be(f http.HandlerFunc) { h.current.Store(&f) }

func (h *replaceable) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*h.current.Load())(w, r) }

// An upstream records what reaches it. It answers "served" unless a test has
// it do something else.
type upstream struct {
	*httptest.Server
	site    *site
	handler replaceable

	mu          sync.Mutex
	connections int
	requests    []*http.Request
	bodies      []string
}

func newUpstream(t testing.TB, s *site) *upstream {
	t.Helper()
	u := &upstream{site: s}
	u.handler.be(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // brings the trailer, too
		u.record(r, string(body))
		_, _ = io.WriteString(w, "served")
	})
	u.Server = httptest.NewUnstartedServer(&u.handler)
	u.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			u.mu.Lock()
			u.connections++
			u.mu.Unlock()
		}
	}
	u.Start()
	t.Cleanup(u.Close)
	return u
}

func bearer(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

// does has the upstream do something else than read and answer.
func (u *upstream) does(f http.HandlerFunc) {
	u.handler.be(func(w http.ResponseWriter, r *http.Request) {
		u.record(r, "")
		f(w, r)
	})
}

func (u *upstream) record(r *http.Request, body string) {
	if jwt := bearer(r); jwt != "" {
		u.site.secret(jwt)
	}
	r = r.WithContext(r.Context()) // the server goes on with its own
	r.Body = http.NoBody
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests, u.bodies = append(u.requests, r), append(u.bodies, body)
}

// last returns the only request since the last call of last.
func (u *upstream) last(t *testing.T) (*http.Request, string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.requests) != 1 {
		t.Fatalf("%d requests reached the upstream, want 1", len(u.requests))
	}
	r, body := u.requests[0], u.bodies[0]
	u.requests, u.bodies = nil, nil
	return r, body
}

// untouched checks that nobody so much as connected to the upstream.
func (u *upstream) untouched(t *testing.T) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.connections > 0 || len(u.requests) > 0 {
		t.Errorf("%d connections and %d requests to the upstream", u.connections, len(u.requests))
	}
}

// checkJWT checks that r has a JWT of the authorization server as its only
// credential, in a shape that the whole suite agrees on.
func checkJWT(t *testing.T, r *http.Request) {
	t.Helper()
	values := r.Header.Values("Authorization")
	if len(values) != 1 || !strings.HasPrefix(values[0], "Bearer eyJ") || strings.Count(values[0], ".") != 2 {
		t.Errorf("Authorization upstream: %q", values)
	}
}

// A gateway is a running process.
type gateway struct {
	cmd            *exec.Cmd
	url, health    string // without a slash at the end
	forget, meter  string
	stdout, stderr lockedBuffer
	exited         chan struct{}
}

// settings of the usual gateway; a test changes some and removes those that it
// sets to "".
func (s *site) settings(changes map[string]string) map[string]string {
	all := map[string]string{
		"listen": "127.0.0.1:0", "health-listen": "127.0.0.1:0", "forget-listen": "127.0.0.1:0", "metrics-listen": "127.0.0.1:0",
		"drain": "1ms", "upstream": s.upstream.URL,
		"issuer": s.issuer, "audience": audience, "client-id": clientID,
	}
	maps.Copy(all, changes)
	return all
}

// start runs the gateway with the usual settings and the given changes, waits
// until it serves, and stops it when the test is over.
func (s *site) start(t *testing.T, changes map[string]string) *gateway {
	t.Helper()
	all := s.settings(changes)
	var env []string
	if method := all["client-auth"]; all["client-secret-file"] == "" && (method == "" || method == "basic" || method == "post") {
		env = append(env, "PHANTOM_CLIENT_SECRET"+"="+clientSecret)
	}
	return s.startWith(t, s.args(changes), env)
}

// args are the flags of the usual settings with the given changes.
func (s *site) args(changes map[string]string) (args []string) {
	all := s.settings(changes)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] != "" {
			args = append(args, "-"+name, all[name])
		}
	}
	return args
}

func (s *site) startWith(t *testing.T, args, env []string) *gateway {
	t.Helper()
	return s.await(t, launch(t, args, env))
}

// await waits until a gateway serves.
func (s *site) await(t *testing.T, g *gateway) *gateway {
	t.Helper()
	t.Cleanup(func() {
		select {
		case <-g.exited:
		default:
			g.stop(t, syscall.SIGTERM)
		}
		if text := g.stderr.String(); text != "" {
			t.Errorf("stderr:\n%s", text)
		}
		if found := s.leaks(g.stdout.String() + g.stderr.String()); len(found) > 0 {
			t.Errorf("in the output: %q\n%s", found, &g.stdout)
		}
	})
	line := g.await(t, "serving")
	scheme := "http://"
	if line["tls"] == true {
		scheme = "https://"
	}
	g.url = scheme + line["listen"].(string)
	g.health, g.forget = "http://"+line["health-listen"].(string), "http://"+line["forget-listen"].(string)
	g.meter = "http://" + line["metrics-listen"].(string)
	return g
}

// launch runs the program and does not wait for anything.
func launch(t *testing.T, args, env []string) *gateway {
	t.Helper()
	return launchCommand(t, exec.Command(binary, args...), env)
}

func launchCommand(t *testing.T, cmd *exec.Cmd, env []string) *gateway {
	t.Helper()
	g := &gateway{cmd: cmd, exited: make(chan struct{})}
	g.cmd.Env = append([]string{
		"GORACE=atexit_sleep_ms=0", "PHANTOM_HEALTH_LISTEN=127.0.0.1:0", "PHANTOM_FORGET_LISTEN=127.0.0.1:0", "PHANTOM_METRICS_LISTEN=127.0.0.1:0",
		"PHANTOM_DRAIN=1ms",
	}, env...) // and nothing of the test's
	g.cmd.Stdout, g.cmd.Stderr = &g.stdout, &g.stderr
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = g.cmd.Wait()
		close(g.exited)
	}()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		<-g.exited
	})
	return g
}

// lines returns what the log says under a message.
func (g *gateway) lines(message string) (found []map[string]any) {
	for line := range strings.Lines(g.stdout.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err == nil && fields["msg"] == message {
			found = append(found, fields)
		}
	}
	return found
}

// await returns the first line of the log with a message, as soon as there is
// one.
func (g *gateway) await(t *testing.T, message string) map[string]any {
	t.Helper()
	var found []map[string]any
	g.eventually(t, "a log line "+message, func() bool {
		found = g.lines(message)
		return len(found) > 0
	})
	return found[0]
}

// eventually waits until done reports true.
func (g *gateway) eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if done() {
			return
		}
		select {
		case <-g.exited:
			if done() {
				return
			}
			t.Fatalf("no %s, and the process ended (%v)\n%s%s", what, g.cmd.ProcessState, &g.stdout, &g.stderr)
		default:
		}
	}
	t.Fatalf("no %s\n%s%s", what, &g.stdout, &g.stderr)
}

// ready waits until the gateway is ready, for which it asks about one token.
func (g *gateway) ready(t *testing.T) {
	t.Helper()
	g.eventually(t, "readiness", func() bool {
		resp, err := client.Get(g.health + "/readyz")
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
}

// stop ends the process in the regular way.
func (g *gateway) stop(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := g.cmd.Process.Signal(sig); err != nil {
		t.Error(err)
	}
	if code := g.wait(t); code != 0 {
		t.Errorf("exit status %d\n%s%s", code, &g.stdout, &g.stderr)
	}
}

// wait returns the exit status; -1 for a death by a signal.
func (g *gateway) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-g.exited:
	case <-time.After(patience):
		t.Fatalf("the process does not end\n%s%s", &g.stdout, &g.stderr)
	}
	return g.cmd.ProcessState.ExitCode()
}

// complains checks what is on stderr, without "gateway: " in front of each line.
// A line that ends in … goes on in the library's words.
func (g *gateway) complains(t *testing.T, want string) {
	t.Helper()
	got := strings.Split(strings.TrimSpace(g.stderr.String()), "\n")
	lines := strings.Split(strings.TrimSpace(want), "\n")
	ok := len(got) == len(lines)
	for i := 0; ok && i < len(got); i++ {
		start, isOpen := strings.CutSuffix("gateway: "+strings.TrimSpace(lines[i]), "…")
		ok = got[i] == start || isOpen && strings.HasPrefix(got[i], start)
	}
	if !ok {
		t.Errorf("stderr\n%s\nwant\n%s", &g.stderr, want)
	}
}

// An answer is a response with its body.
type answer struct {
	*http.Response
	body string
}

// do sends a request with a token, or without if that is empty.
func (g *gateway) do(t *testing.T, method, path, token string, fields ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, g.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	return fetch(t, client, req)
}

func (g *gateway) get(t *testing.T, path, token string) answer {
	t.Helper()
	return g.do(t, http.MethodGet, path, token)
}

func fetch(t *testing.T, c *http.Client, req *http.Request) answer {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp, string(body)}
}

// dial connects to the gateway, for requests that no client library sends.
func (g *gateway) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// raw sends a request as it stands, but for line ends, and returns the answer.
func (g *gateway) raw(t *testing.T, request string) answer {
	t.Helper()
	conn := g.dial(t)
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp, string(body)}
}

// The challenges, byte by byte.
const (
	noToken      = `Bearer realm="api"`
	invalidToken = `Bearer realm="api", error="invalid_token"`
)

// rejected checks that a is a rejection: its status, its challenge (empty for
// none), and what all rejections have.
func (a answer) rejected(t *testing.T, status int, challenge string) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("status %d, want %d; %s", a.StatusCode, status, a.body)
	}
	var want []string
	if challenge != "" {
		want = []string{challenge}
	}
	if got := a.Header.Values("WWW-Authenticate"); !slices.Equal(got, want) {
		t.Errorf("challenge %q, want %q", got, want)
	}
	if got := a.Header.Values("Cache-Control"); !slices.Equal(got, []string{"no-store"}) {
		t.Errorf("Cache-Control %q", got)
	}
	if got := a.Header.Values("Content-Type"); !slices.Equal(got, []string{"application/problem+json"}) {
		t.Errorf("Content-Type %q", got)
	}
	var problem struct{ Status int }
	if a.Request == nil || a.Request.Method != http.MethodHead {
		if err := json.Unmarshal([]byte(a.body), &problem); err != nil || problem.Status != status {
			t.Errorf("body %q", a.body)
		}
	}
}

// served checks that a is the upstream's usual answer.
func (a answer) served(t *testing.T) {
	t.Helper()
	if a.StatusCode != http.StatusOK || a.body != "served" {
		t.Errorf("status %d, body %q", a.StatusCode, a.body)
	}
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

// subjectOf reads the sub of a JWT.
func subjectOf(jwt string) string {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct{ Sub string }
	_ = json.Unmarshal(payload, &claims)
	return claims.Sub
}
