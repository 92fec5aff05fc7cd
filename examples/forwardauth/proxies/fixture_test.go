package proxies

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantom-token/phantom/phantomtest"
)

const (
	patience = 20 * time.Second // only a failing test waits so long
	secret   = "the secret of the introspection client"
)

// program is examples/forwardauth.
var program string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "proxies")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "forwardauth")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	caddy = sync.OnceValues(func() (string, error) {
		path, err := exec.Command("go", "tool", "-n", "caddy").Output() // builds what is not built yet
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			err = fmt.Errorf("go tool: %w\n%s", err, failed.Stderr)
		}
		return strings.TrimSpace(string(path)), err
	})
	return m.Run()
}

// A site is what a proxy stands between.
type site struct {
	as       *phantomtest.AuthorizationServer
	issuer   string
	upstream *upstream

	mu      sync.Mutex
	opaque  []string
	service *process
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	server := httptest.NewUnstartedServer(nil)
	t.Cleanup(server.Close)
	s.issuer = "http://" + server.Listener.Addr().String()
	s.as = phantomtest.New(phantomtest.WithIssuer(s.issuer), phantomtest.WithClient("proxy", secret))
	server.Config.Handler = s.as
	server.Start()
	s.upstream = newUpstream(t, s)
	return s
}

// issue returns a new opaque token.
func (s *site) issue(claims map[string]any) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.as.Issue(claims)
	s.opaque = append(s.opaque, token)
	return token
}

// checkNoToken fails if the text has an opaque token.
func (s *site) checkNoToken(t *testing.T, where, text string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(append(s.opaque, secret), func(token string) bool { return strings.Contains(text, token) }) {
		t.Errorf("a secret in %s", where)
	}
}

// startService starts the program and returns the address for questions.
func (s *site) startService(t *testing.T, address string) string {
	t.Helper()
	s.service = launch(t, s, "", program, []string{"PHANTOM_CLIENT_SECRET=" + secret},
		"-listen", address, "-issuer", s.issuer, "-audience", "https://rs.test", "-client-id", "proxy")
	return s.service.logged(t, "serving")["address"].(string)
}

// An upstream is the API. It records what comes.
type upstream struct {
	address string
	mu      sync.Mutex
	got     []*http.Request
	bodies  []string
	answer  http.HandlerFunc
}

func newUpstream(t *testing.T, s *site) *upstream {
	u := &upstream{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		u.mu.Lock()
		u.got, u.bodies = append(u.got, r), append(u.bodies, string(body))
		answer := u.answer
		u.mu.Unlock()
		s.checkNoToken(t, "a request to the API", fmt.Sprint(r.RequestURI, r.Header, r.Trailer))
		if answer != nil {
			answer(w, r)
			return
		}
		_, _ = io.WriteString(w, "the API's")
	}))
	t.Cleanup(server.Close)
	u.address = server.Listener.Addr().String()
	return u
}

func (u *upstream) be(answer http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = answer
}

// take returns the requests since the last call.
func (u *upstream) take() []*http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	got := u.got
	u.got = nil
	return got
}

func (u *upstream) lastBody() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.bodies[len(u.bodies)-1]
}

// one returns the one request since the last call; it had a JWT.
func (u *upstream) one(t *testing.T) *http.Request {
	t.Helper()
	got := u.take()
	if len(got) != 1 {
		t.Fatalf("%d requests reached the API, not one", len(got))
	}
	checkJWT(t, got[0])
	return got[0]
}

func (u *upstream) untouched(t *testing.T) {
	t.Helper()
	if got := u.take(); len(got) > 0 {
		t.Errorf("%d requests reached the API: %s %s", len(got), got[0].Method, got[0].RequestURI)
	}
}

// checkJWT checks that Authorization is a JWT's and has no second.
func checkJWT(t *testing.T, r *http.Request) {
	t.Helper()
	values := r.Header.Values("Authorization")
	if len(values) != 1 || !strings.HasPrefix(values[0], "Bearer eyJ") || strings.Count(values[0], ".") != 2 {
		t.Errorf("%d values of Authorization at the API, not one JWT", len(values))
	}
}

// A gate is a running proxy.
type gate struct {
	*site
	name, address string
}

// send sends a request line and fields, one text each, and a body. Whatever
// comes back has no token in it.
func (g *gate) send(t *testing.T, line string, fields []string, body string) answer {
	t.Helper()
	var request bytes.Buffer
	fmt.Fprintf(&request, "%s HTTP/1.1\r\nHost: api.test\r\n", line)
	if !slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, "Connection:") }) {
		request.WriteString("Connection: close\r\n")
	}
	for _, field := range fields {
		request.WriteString(field + "\r\n")
	}
	if body != "" {
		fmt.Fprintf(&request, "Content-Length: %d\r\n", len(body))
	}
	request.WriteString("\r\n" + body)

	conn, err := net.DialTimeout("tcp", g.address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = conn.Write(request.Bytes()) }()
	method, _, _ := strings.Cut(line, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("broken answer: %v", err)
	}
	a := answer{response.StatusCode, response.Header, string(content)}
	text := fmt.Sprint(a.header, a.body)
	g.checkNoToken(t, "an answer", text)
	if strings.Contains(text, "eyJ") || a.header.Values("Authorization") != nil {
		t.Error("a JWT in an answer")
	}
	return a
}

// get sends a GET with the token, if there is one.
func (g *gate) get(t *testing.T, path, token string) answer {
	t.Helper()
	var fields []string
	if token != "" {
		fields = []string{"Authorization: Bearer " + token}
	}
	return g.send(t, "GET "+path, fields, "")
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) served(t *testing.T) {
	t.Helper()
	if a.status != http.StatusOK || a.body != "the API's" {
		t.Errorf("status %d, body %q", a.status, a.body)
	}
}

// refused checks the status and, if there is to be one, the only challenge.
func (a answer) refused(t *testing.T, status int, challenge string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d", a.status, status)
	}
	var want []string
	if challenge != "" {
		want = []string{challenge}
	}
	if got := a.header.Values("WWW-Authenticate"); !slices.Equal(got, want) {
		t.Errorf("challenge %q, want %q", got, want)
	}
}

// A process is a program that runs, and its output.
type process struct {
	command *exec.Cmd
	out     *buffer
	ended   chan struct{}
}

// launch starts a program in dir. It is killed at the end of the test, and its
// output must have no secret.
func launch(t *testing.T, s *site, dir, name string, env []string, args ...string) *process {
	t.Helper()
	p := &process{command: exec.Command(name, args...), out: &buffer{}, ended: make(chan struct{})}
	p.command.Dir = dir
	p.command.Env = append(os.Environ(), env...)
	p.command.Stdout, p.command.Stderr = p.out, p.out
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.command.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		s.checkNoToken(t, "the output of "+filepath.Base(name), p.out.String())
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(name), p.out)
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.command.Process.Kill()
	<-p.ended
}

// logged waits for the line of the JSON log and returns it.
func (p *process) logged(t *testing.T, msg string) map[string]any {
	t.Helper()
	var found map[string]any
	p.await(t, "line "+msg, func() bool {
		for line := range strings.Lines(p.out.String()) {
			var fields map[string]any
			if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == msg {
				found = fields
				return true
			}
		}
		return false
	})
	return found
}

// await waits for something that the process does.
func (p *process) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.ended:
			t.Fatalf("ended before %s:\n%s", what, p.out)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s:\n%s", what, p.out)
		}
	}
}

// A buffer may be written to and read at the same time.
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

// freeAddress returns an address that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// caddy builds Caddy, once.
var caddy func() (string, error)

// installed returns the path of a program, which CI must have.
func installed(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name) // not in everyone's PATH
	}
	switch {
	case err == nil:
		return path
	case os.Getenv("CI") != "":
		t.Fatalf("CI has no %s: %v", name, err)
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		t.Skipf("install %s to run this test", name)
	default:
		t.Fatal(err)
	}
	return ""
}

// proxies are what stands at an API. Each is started by the name of its program
// in a folder with the files of the example.
var proxies = map[string]func(t *testing.T, s *site, dir string) *process{
	"nginx": func(t *testing.T, s *site, dir string) *process {
		return launch(t, s, dir, installed(t, "nginx"), nil,
			"-p", dir, "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off; master_process off; pid nginx.pid;")
	},
	"haproxy": func(t *testing.T, s *site, dir string) *process {
		return launch(t, s, dir, installed(t, "haproxy"), nil, "-db", "-f", "haproxy.cfg")
	},
	"caddy": func(t *testing.T, s *site, dir string) *process {
		binary, err := caddy()
		if err != nil {
			t.Fatal(err)
		}
		return launch(t, s, dir, binary, []string{"HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir},
			"run", "--config", "Caddyfile", "--adapter", "caddyfile")
	},
}

// start starts the proxy between the API and a service that answers at the
// address. Only addresses and times in its files are changed.
func (s *site) start(t *testing.T, name, service string, changes ...string) *gate {
	t.Helper()
	dir := t.TempDir()
	g := &gate{site: s, name: name, address: freeAddress(t)}
	_, port, _ := net.SplitHostPort(g.address)
	replaced := strings.NewReplacer(append([]string{
		"127.0.0.1:9090", service, "127.0.0.1:9000", s.upstream.address, "127.0.0.1:8080", g.address, "http://:8080", "http://:" + port,
		// Where the package's folders are is no matter of the configuration.
		"access_log off;\n", "access_log off;\nclient_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path f;\nuwsgi_temp_path u;\nscgi_temp_path s;\n",
	}, changes...)...)
	for _, file := range []string{"nginx.conf", "nginx_headers.conf", "haproxy.cfg", "haproxy.lua", "Caddyfile"} {
		text, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(replaced.Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := proxies[name](t, s, dir)
	p.await(t, "listening", func() bool {
		conn, err := net.Dial("tcp", g.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	s.upstream.take()
	return g
}
