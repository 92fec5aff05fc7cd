package valkeystore_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/phantom-token/phantom/valkeystore"
)

// A server is an engine of the test's own, on a free port of the loopback
// interface.
type server struct {
	t    *testing.T
	path string
	addr string
	args []string
	cmd  *exec.Cmd

	config string // a file; empty: none
}

// findServer returns the path of an engine. Without one, the test is skipped,
// unless PHANTOM_NEEDS_ENGINE says that it must run. PHANTOM_ENGINE names one
// that is not in the PATH.
func findServer(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("PHANTOM_ENGINE"), "valkey-server", "redis-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("PHANTOM_NEEDS_ENGINE") != "" {
		t.Fatal("neither valkey-server nor redis-server is installed, and PHANTOM_NEEDS_ENGINE is set")
	}
	t.Skip("needs valkey-server or redis-server in the PATH, or PHANTOM_ENGINE")
	return ""
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newServer returns a server that is started with these arguments.
func newServer(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, path: findServer(t), addr: freeAddr(t), args: args}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.addr)
	dir := s.t.TempDir()
	args := append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir,
		"--logfile", filepath.Join(dir, "log")}, s.args...)
	if s.config != "" {
		args = append([]string{s.config, "--port", port, "--bind", "127.0.0.1"}, s.args...)
	}
	s.cmd = exec.Command(s.path, args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for range 200 {
		if conn, err := net.Dial("tcp", s.addr); err == nil {
			conn.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Fatal("the server does not start")
}

func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// freeze lets the server accept and never answer; thaw ends that.
func (s *server) freeze() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }
func (s *server) thaw()   { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// do runs a command on the server, past the Store.
func (s *server) do(words ...string) valkey.ValkeyResult {
	s.t.Helper()
	client, err := valkey.NewClient(valkey.ClientOption{
		InitAddress: []string{s.addr}, DisableCache: true, ForceSingleClient: true,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	return client.Do(s.t.Context(), client.B().Arbitrary(words...).Build())
}

// open returns a Store on the address.
func open(t *testing.T, addr string, opts ...valkeystore.Option) *valkeystore.Store {
	t.Helper()
	store := valkeystore.New(valkey.ClientOption{InitAddress: []string{addr}}, opts...)
	t.Cleanup(store.Close)
	return store
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, most time.Duration, f func() bool) {
	t.Helper()
	for start := time.Now(); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > most {
			t.Fatalf("%s: not within %v", what, most)
		}
	}
}

// works reports whether the Store answers.
func works(store *valkeystore.Store) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, _, err := store.Get(ctx, strings.Repeat("k", 32))
	return err == nil
}

// A proxy is a line to the server that a test can cut and slow down.
type proxy struct {
	addr string

	mu    sync.Mutex
	isCut bool
	delay time.Duration
	conns []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	var all sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		p.drop()
		all.Wait()
	})
	all.Go(func() {
		for {
			near, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, near, far)
			p.mu.Unlock()
			all.Go(func() { p.pipe(far, near) })
			all.Go(func() { p.pipe(near, far) })
		}
	})
	return p
}

// pipe copies until one side ends. While the line is cut it swallows nothing
// and hands on nothing, as a partition does.
func (p *proxy) pipe(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		for {
			p.mu.Lock()
			isCut, delay := p.isCut, p.delay
			p.mu.Unlock()
			if !isCut {
				time.Sleep(delay)
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if _, failed := to.Write(buf[:n]); failed != nil || err != nil {
			return
		}
	}
}

func (p *proxy) cut(isCut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = isCut
}

func (p *proxy) slow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = false
	for _, c := range p.conns {
		c.Close()
	}
}
