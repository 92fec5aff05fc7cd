package conformance_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// eventually waits for what happens behind the test's back. Its limit is no
// figure of the library's: a machine may be as slow as it likes.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			var stacks bytes.Buffer
			_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			t.Fatalf("never: %s\n%s", what, &stacks)
		}
	}
}

// leaveNothing fails the test unless all goroutines that it began have ended
// once its servers are closed. It is called before they are started.
func leaveNothing(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		eventually(t, fmt.Sprintf("no more than %d goroutines, as before", before), func() bool {
			return runtime.NumGoroutine() <= before
		})
	})
}

// A tcpServer runs a script on each connection that is made to it.
type tcpServer struct {
	net.Listener
	tb      testing.TB
	script  func(*peer)
	tls     *tls.Config // nil: plain TCP
	opened  atomic.Int64
	open    atomic.Int64
	lookups atomic.Int64 // requests read to their end
	peers   sync.WaitGroup

	mu     sync.Mutex
	conns  map[*peer]bool
	closed bool
}

// A peer is the server's end of a connection.
type peer struct {
	net.Conn
	tcp    *net.TCPConn // beneath TLS, too
	in     *bufio.Reader
	server *tcpServer
	nth    int64         // of the server's connections, from 1
	req    *http.Request // the last one
	form   url.Values    // of the last request
}

func listenTCP(t testing.TB, script func(*peer)) *tcpServer {
	t.Helper()
	return listenAt(t, "127.0.0.1:0", nil, script)
}

func listenAt(t testing.TB, address string, config *tls.Config, script func(*peer)) *tcpServer {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &tcpServer{Listener: l, tb: t, script: script, tls: config, conns: map[*peer]bool{}}
	s.peers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p := &peer{Conn: c, tcp: c.(*net.TCPConn), server: s, nth: s.opened.Add(1)}
			if config != nil {
				p.Conn = tls.Server(c, config)
			}
			p.in = bufio.NewReader(p.Conn)
			s.open.Add(1)
			s.mu.Lock()
			s.conns[p] = true
			refused := s.closed
			s.mu.Unlock()
			s.peers.Go(func() {
				if !refused {
					s.script(p)
				}
				_ = p.Close()
				s.mu.Lock()
				delete(s.conns, p)
				s.mu.Unlock()
				s.open.Add(-1)
			})
		}
	})
	t.Cleanup(s.stop)
	return s
}

// stop closes the listener and all connections, and waits for the scripts.
func (s *tcpServer) stop() {
	_ = s.Close()
	s.mu.Lock()
	s.closed = true
	for p := range s.conns {
		_ = p.tcp.Close()
	}
	s.mu.Unlock()
	s.peers.Wait()
}

func (s *tcpServer) port() string {
	_, port, err := net.SplitHostPort(s.Addr().String())
	return must(port, err)
}

func (s *tcpServer) url() string {
	if s.tls != nil {
		return "https://127.0.0.1:" + s.port()
	}
	return "http://127.0.0.1:" + s.port()
}

// request reads a request to its end and returns the token that it asks about.
// It is false when the client is gone.
func (p *peer) request() (token string, ok bool) {
	r, err := http.ReadRequest(p.in)
	if err != nil {
		return "", false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return "", false
	}
	p.req = r
	p.form, _ = url.ParseQuery(string(body))
	p.server.lookups.Add(1)
	return p.form.Get("token"), true
}

// send writes as much as the client takes, and reports whether that was all.
func (p *peer) send(text string) bool { return p.sendBytes([]byte(text)) }

func (p *peer) sendBytes(b []byte) bool {
	_, err := p.Conn.Write(b)
	return err == nil
}

// reset ends the connection with an RST.
func (p *peer) reset() {
	_ = p.tcp.SetLinger(0)
	_ = p.tcp.Close()
}

// wait waits for the client to close the connection.
func (p *peer) wait() { _, _ = io.Copy(io.Discard, p.in) }

// drip sends text a byte at a time until the client has enough of it.
func (p *peer) drip(text string) {
	for i := 0; p.send(text[i%len(text) : i%len(text)+1]); i++ {
		time.Sleep(5 * time.Millisecond)
	}
}

// flood sends text again and again until the client has enough of it.
func (p *peer) flood(text string) {
	for b := []byte(strings.Repeat(text, 1+16<<10/len(text))); p.sendBytes(b); {
	}
}

// sendMany sends n bytes, piece by piece, and reports whether the client took
// all of them.
func (p *peer) sendMany(n int) bool {
	for piece := bytes.Repeat([]byte("x"), 16<<10); n > 0; n -= len(piece) {
		if piece = piece[:min(n, len(piece))]; !p.sendBytes(piece) {
			return false
		}
	}
	return true
}

// serve answers each request of the connection with what answer makes of its
// token.
func (p *peer) serve(answer func(token string) string) {
	for {
		token, ok := p.request()
		if !ok || !p.send(answer(token)) {
			return
		}
	}
}

// rawAnswer is an HTTP answer with a Content-Length.
func rawAnswer(status int, contentType, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		status, http.StatusText(status), contentType, len(body), body)
}

// activeJSON is the JSON form of an answer with a JWT.
func activeJSON(jwt string) string { return `{"active":true,"phantom_token":"` + jwt + `"}` }

// chunkOf is one chunk of a chunked body.
func chunkOf(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

const chunkedHead = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

// networked returns a Middleware that asks the server at base, with the
// transport that it makes for itself.
func (as *fakeAS) networked(base string, extra ...phantom.Option) *phantom.Middleware {
	as.tb.Helper()
	m, err := phantom.New(append([]phantom.Option{
		phantom.WithIssuer(issuer),
		phantom.WithAudience(audience),
		phantom.WithIntrospectionEndpoint(base + endpointPath),
		phantom.WithKeySet(phantom.StaticKeys(p256Key().Public())),
		phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret)),
		phantom.WithTimeout(2 * time.Second),
		phantom.WithLogger(slog.New(slog.NewTextHandler(&as.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))),
	}, extra...)...)
	if err != nil {
		as.tb.Fatal(err)
	}
	return m
}

// serveHTTP serves as over real connections and counts them.
func (as *fakeAS) serveHTTP(prepare func(*httptest.Server)) (s *httptest.Server, opened, open *atomic.Int64) {
	as.tb.Helper()
	opened, open = &atomic.Int64{}, &atomic.Int64{}
	s = httptest.NewUnstartedServer(as)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			opened.Add(1)
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		}
	}
	if prepare != nil {
		prepare(s)
	} else {
		s.Start()
	}
	as.tb.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s, opened, open
}

// statusOf verifies a token and returns the status code of the rejection, or
// 200. It is for tests that ask by the thousand.
func statusOf(m *phantom.Middleware, token string) int {
	_, err := m.Verify(context.Background(), token)
	var e *phantom.Error
	if errors.As(err, &e) {
		return e.StatusCode()
	}
	return http.StatusOK
}

// logged counts the log's lines of a level.
func (as *fakeAS) logged(level, with string) int {
	n := 0
	for line := range strings.Lines(as.logs.String()) {
		if strings.Contains(line, "level="+level+" ") && strings.Contains(line, with) {
			n++
		}
	}
	return n
}

// unusedPort returns an address at which no server listens.
func unusedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// recovers checks that the next lookup finds a healthy server. With a tight
// limit a busy machine may need more than one.
func (as *fakeAS) recovers(m *phantom.Middleware, tight bool) {
	as.tb.Helper()
	served := func() bool { return as.try(m, "opaque-token") == codeOK }
	if tight {
		eventually(as.tb, "served again", served)
	} else if !served() {
		as.tb.Errorf("not served afterwards, log:\n%s", as.logs.String())
	}
}

// together runs f n times at once and returns how often it was false.
func together(n int, f func(i int) bool) (failed int64) {
	var group sync.WaitGroup
	var count atomic.Int64
	for i := range n {
		group.Go(func() {
			if !f(i) {
				count.Add(1)
			}
		})
	}
	group.Wait()
	return count.Load()
}
