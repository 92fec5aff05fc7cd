package phantomcaddy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/phantom-token/phantom/contrib/caddy"
	"github.com/phantom-token/phantom/phantomtest"
)

const (
	patience = 30 * time.Second // only a failing test waits so long
	secret   = "the-secret-of-the-client"
)

// TestMain makes the test binary a Caddy with the module in it, for the tests
// that start one.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_AS_CADDY") != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// A site is an authorization server, an API, and a Caddy between it and
// clients.
type site struct {
	as     *phantomtest.AuthorizationServer
	issuer string
	api    *httptest.Server

	dir, address, admin string
	output              *buffer

	mu     sync.Mutex
	opaque []string
	got    []*http.Request
	answer http.HandlerFunc
}

func newSite(t *testing.T, opts ...phantomtest.Option) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), output: &buffer{}}
	server := httptest.NewUnstartedServer(nil)
	t.Cleanup(server.Close)
	s.issuer = "http://" + server.Listener.Addr().String()
	s.as = phantomtest.New(append(opts, phantomtest.WithIssuer(s.issuer), phantomtest.WithClient("caddy", secret))...)
	server.Config.Handler = s.as
	server.Start()
	s.api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		s.mu.Lock()
		s.got = append(s.got, r)
		answer := s.answer
		s.mu.Unlock()
		s.checkNoToken(t, "a request to the API", fmt.Sprint(r.RequestURI, r.Header))
		if answer != nil {
			answer(w, r)
			return
		}
		_, _ = io.WriteString(w, "the API's")
	}))
	t.Cleanup(s.api.Close)
	return s
}

func (s *site) issue(claims map[string]any) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.as.Issue(claims)
	s.opaque = append(s.opaque, token)
	return token
}

func (s *site) take() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	return got
}

func (s *site) checkNoToken(t *testing.T, where, text string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, token := range append(s.opaque, secret) {
		if strings.Contains(text, token) {
			t.Errorf("a secret in %s", where)
		}
	}
}

// settings are the directive's lines that every site needs.
func (s *site) settings() string {
	return "issuer " + s.issuer + "\naudience https://rs.test\nclient_id caddy\nclient_secret {file." + s.secretFile() + "}\n"
}

func (s *site) secretFile() string { return filepath.Join(s.dir, "secret") }

// caddyfile is a site whose body is what the test is about.
func (s *site) caddyfile(body string) string {
	return fmt.Sprintf("{\n\tadmin %s\n\tauto_https off\n\tpersist_config off\n}\nhttp://%s {\n%s\n}\n", s.admin, s.address, body)
}

// command is Caddy with arguments.
func (s *site) command(args ...string) *exec.Cmd {
	command := exec.Command(os.Args[0], args...)
	command.Env = append(os.Environ(), "RUN_AS_CADDY=1", "HOME="+s.dir, "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	command.Dir = s.dir
	return command
}

// write writes the Caddyfile and what it refers to.
func (s *site) write(t *testing.T, caddyfile string) string {
	t.Helper()
	file := filepath.Join(s.dir, "Caddyfile")
	for name, content := range map[string]string{s.secretFile(): secret + "\n", file: caddyfile} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// start starts a Caddy whose site has the body.
func (s *site) start(t *testing.T, body string) {
	t.Helper()
	s.address, s.admin = freeAddress(t), freeAddress(t)
	command := s.command("run", "--config", s.write(t, s.caddyfile(body)), "--adapter", "caddyfile")
	command.Stdout, command.Stderr = s.output, s.output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		s.checkNoToken(t, "Caddy's output", s.output.String())
		if t.Failed() {
			t.Logf("Caddy:\n%s", s.output)
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("Caddy does not serve")
		}
	}
}

// reload gives the running Caddy a site with another body.
func (s *site) reload(t *testing.T, body string) {
	t.Helper()
	out, err := s.command("reload", "--config", s.write(t, s.caddyfile(body)), "--adapter", "caddyfile", "--address", s.admin).CombinedOutput()
	if err != nil {
		t.Fatalf("caddy reload: %v\n%s", err, out)
	}
}

// validate returns what "caddy validate" says of a site with the body, and
// whether it passes.
func (s *site) validate(t *testing.T, body string) (output string, ok bool) {
	t.Helper()
	s.address, s.admin = "127.0.0.1:8080", "127.0.0.1:2019" // neither is opened
	out, err := s.command("validate", "--config", s.write(t, s.caddyfile(body)), "--adapter", "caddyfile").CombinedOutput()
	s.checkNoToken(t, "the output of caddy validate", string(out))
	return string(out), err == nil
}

type answer struct {
	status int
	header http.Header
	body   string
}

// send sends a request line and fields, one text each, and a body. No answer
// has a token in it.
func (s *site) send(t *testing.T, line string, fields []string, body string) answer {
	t.Helper()
	var request bytes.Buffer
	fmt.Fprintf(&request, "%s HTTP/1.1\r\nHost: %s\r\n", line, s.address)
	if !strings.Contains(strings.Join(fields, "\n"), "Connection:") {
		request.WriteString("Connection: close\r\n")
	}
	for _, field := range fields {
		request.WriteString(field + "\r\n")
	}
	if body != "" {
		fmt.Fprintf(&request, "Content-Length: %d\r\n", len(body))
	}
	request.WriteString("\r\n" + body)
	conn, err := net.DialTimeout("tcp", s.address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = conn.Write(request.Bytes()) }()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("broken answer: %v", err)
	}
	text := fmt.Sprint(response.Header, string(content))
	s.checkNoToken(t, "an answer", text)
	if strings.Contains(text, "eyJ") {
		t.Error("a JWT in an answer")
	}
	return answer{response.StatusCode, response.Header, string(content)}
}

func (s *site) get(t *testing.T, path, token string) answer {
	t.Helper()
	return s.send(t, "GET "+path, []string{"Authorization: Bearer " + token}, "")
}

// served checks that the API answered, and returns the one request that it got.
func (s *site) served(t *testing.T, a answer) *http.Request {
	t.Helper()
	got := s.take()
	if a.status != http.StatusOK || a.body != "the API's" || len(got) != 1 {
		t.Fatalf("status %d, body %q, %d requests at the API", a.status, a.body, len(got))
	}
	return got[0]
}

// refused checks an answer that came without the API being asked.
func (s *site) refused(t *testing.T, a answer, status int, challenge string) {
	t.Helper()
	got := strings.Join(a.header.Values("WWW-Authenticate"), "\n")
	if a.status != status || got != challenge {
		t.Errorf("status %d, challenge %q; want %d, %q", a.status, got, status, challenge)
	}
	if cached := a.header.Values("Cache-Control"); len(cached) != 1 || cached[0] != "no-store" {
		t.Errorf("Cache-Control %q", cached)
	}
	if requests := s.take(); len(requests) > 0 {
		t.Errorf("%d requests reached the API", len(requests))
	}
}

func checkJWT(t *testing.T, r *http.Request) {
	t.Helper()
	values := r.Header.Values("Authorization")
	if len(values) != 1 || !strings.HasPrefix(values[0], "Bearer eyJ") || strings.Count(values[0], ".") != 2 {
		t.Errorf("%d values of Authorization at the API, not one JWT", len(values))
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// A buffer takes a process's output while a test reads it.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
