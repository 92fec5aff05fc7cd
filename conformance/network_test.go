package conformance_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
	s := &tcpServer{Listener: l, script: script, tls: config, conns: map[*peer]bool{}}
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

// statusOf verifies a token and returns the status code of the rejection, or 200.
// It is for those who ask by the thousand.
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

func unusedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestN264ClosedPort(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	m := as.networked("http://"+unusedPort(t), phantom.WithTimeout(time.Minute))
	begin := time.Now()
	if got := as.try(m, "opaque-token"); got != code503A {
		t.Error(got)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %v: somebody waited for a time limit", took)
	}
	if as.logged("ERROR", "status=503 reason=as_unavailable issuer=https://as.test detail=connecting") != 1 {
		t.Errorf("log:\n%s", as.logs.String())
	}
}

// resolve makes every name lookup of the test binary ask answer. It returns the
// addresses of the name and the response code.
func resolve(t *testing.T, answer func(name string) (addresses []string, code byte)) (queries *atomic.Int64) {
	queries = &atomic.Int64{}
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		client, server := net.Pipe()
		context.AfterFunc(ctx, func() { _ = client.Close() }) // the resolver itself waits its own 5 s
		go func() {
			defer server.Close()
			for {
				var size [2]byte
				if _, err := io.ReadFull(server, size[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(server, query); err != nil {
					return
				}
				queries.Add(1)
				reply := dnsReply(query, answer)
				if reply == nil {
					continue
				}
				if _, err := server.Write(binary.BigEndian.AppendUint16(nil, uint16(len(reply)))); err != nil {
					return
				}
				if _, err := server.Write(reply); err != nil {
					return
				}
			}
		}()
		return client, nil
	}}
	t.Cleanup(func() { net.DefaultResolver = before })
	return queries
}

// dnsReply answers a query (RFC 1035 section 4). A code of 255 is no answer.
func dnsReply(query []byte, answer func(string) ([]string, byte)) []byte {
	end := 12
	var labels []string
	for query[end] != 0 {
		n := int(query[end])
		labels = append(labels, string(query[end+1:end+1+n]))
		end += n + 1
	}
	end += 5
	addresses, code := answer(strings.Join(labels, "."))
	if code == 255 {
		return nil
	}
	kind := binary.BigEndian.Uint16(query[end-4:])
	var records []byte
	count := 0
	for _, a := range addresses {
		ip := netip.MustParseAddr(a)
		if kind == 1 && ip.Is4() || kind == 28 && ip.Is6() {
			records = append(records, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(ip.AsSlice())))
			records = append(records, ip.AsSlice()...)
			count++
		}
	}
	reply := slices.Clone(query[:2])
	reply = append(reply, 0x81, 0x80|code, 0, 1, 0, byte(count), 0, 0, 0, 0)
	reply = append(reply, query[12:end]...)
	return append(reply, records...)
}

func TestN265NameResolution(t *testing.T) {
	for _, c := range []struct {
		name string
		code byte
	}{
		{"N265 NXDOMAIN", 3},
		{"N265 no answer in time", 255},
		{"SERVFAIL", 2},
		{"REFUSED", 5},
		{"a name without an address", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			queries := resolve(t, func(string) ([]string, byte) { return nil, c.code })
			leaveNothing(t)
			as := newAS(t)
			m := as.networked("https://as.invalid", phantom.WithTimeout(300*time.Millisecond))
			if got := as.try(m, "opaque-token"); got != code503A {
				t.Error(got)
			}
			if queries.Load() == 0 {
				t.Error("nobody asked for the name")
			}
			if as.logged("ERROR", "reason=as_unavailable") != 1 {
				t.Errorf("log:\n%s", as.logs.String())
			}
		})
	}
}

// A host that resolves to an IPv6 address where nobody listens and to a live
// IPv4 one.
func TestN284IPv6Refused(t *testing.T) {
	resolve(t, func(string) ([]string, byte) { return []string{"::1", "127.0.0.1"}, 0 })
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	s := listenTCP(t, func(p *peer) { p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) }) })
	m := as.networked("http://as.example.test:"+s.port(), phantom.WithInsecureHTTP())
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Errorf("%s, log:\n%s", got, as.logs.String())
	}
}

// The environment's proxy would read every token. net/http reads the
// environment once, so a process of its own has to look.
func TestNoProxyFromEnvironment(t *testing.T) {
	const inner = "PHANTOM_TEST_PROXY"
	leaveNothing(t)
	if os.Getenv(inner) == "" {
		proxy := listenTCP(t, func(p *peer) { p.serve(func(string) string { return rawAnswer(502, "text/plain", "") }) })
		test := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		test.Env = append(os.Environ(), inner+"=1", "NO_PROXY=", "no_proxy=")
		for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
			test.Env = append(test.Env, name+"="+proxy.url())
		}
		if out, err := test.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if n := proxy.opened.Load(); n != 0 {
			t.Errorf("%d connections to the proxy", n)
		}
		return
	}
	resolve(t, func(string) ([]string, byte) { return []string{"127.0.0.1"}, 0 })
	as := newAS(t)
	good := mint("ES256", claims(nil))
	s := listenTCP(t, func(p *peer) { p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) }) })
	base := "http://as.example.test:" + s.port()
	for name, options := range map[string][]phantom.Option{
		"own transport":              {phantom.WithInsecureHTTP()},
		"client without a transport": {phantom.WithInsecureHTTP(), phantom.WithHTTPClient(&http.Client{})},
	} {
		if got := as.try(as.networked(base, options...), "opaque-token"); got != codeOK {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// Each fault of a connection or an answer has its outcome, costs at most two
// attempts, and leaves nothing behind: with one place for lookups and one
// connection, the next lookup of the same token shows whether the place is free
// again, the connection closed or fit for use, and the fault not remembered.
func TestConnectionFaults(t *testing.T) {
	const bare = "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\n"
	const hint = "HTTP/1.1 103 Early Hints\r\n"
	huge := bytes.Repeat([]byte("x"), 20<<20)
	for _, c := range []struct {
		name     string
		want     string
		attempts int64 // at most; 0: the client is gone before
		hangs    bool  // until the time limit
		fault    func(p *peer, good string)
	}{
		{"N268 closed before the request is read", code503A, 0, false, func(*peer, string) {}},
		{"N268 closed after the request", code503A, 2, false, func(p *peer, _ string) { p.request() }},
		{"N268 reset after the request", code503A, 2, false, func(p *peer, _ string) { p.request(); p.reset() }},
		// What the client has read when the reset arrives is a matter of luck.
		{"N269 reset in the middle of the body", code503A, 2, false, func(p *peer, good string) {
			p.request()
			p.send(bare + "Content-Length: 5000\r\n\r\n" + good)
			p.reset()
		}},
		{"N269 short body", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(bare + "Content-Length: 5000\r\n\r\n" + good)
		}},
		{"N269 short by one byte", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(bare + "Content-Length: " + strconv.Itoa(len(good)) + "\r\n\r\n" + good[1:])
		}},
		{"N270 JSON without its last chunk", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(chunkedHead + chunkOf(activeJSON(good)))
		}},
		{"N270 inactive without its last chunk", code503A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(chunkedHead + chunkOf(`{"active":false}`))
		}},
		{"N270 cut inside the last chunk", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(chunkedHead + chunkOf(activeJSON(good)) + "0\r\n")
		}},
		{"N270 JWT without its last chunk", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(strings.Replace(chunkedHead, "json", "jwt", 1) + chunkOf(good))
		}},
		{"a chunk's size is no number", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(chunkedHead + chunkOf(activeJSON(good)) + "zz\r\n")
			p.wait()
		}},
		{"a chunk larger than it says", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(chunkedHead + "5\r\n" + activeJSON(good) + "\r\n0\r\n\r\n")
			p.wait()
		}},
		{"endless chunk extensions", code503A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(chunkedHead)
			p.flood("1;" + strings.Repeat("x", 2000) + "\r\n \r\n")
		}},
		{"endless trailer", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(chunkedHead + chunkOf(activeJSON(good)) + "0\r\n")
			p.flood("X-Trailer: " + strings.Repeat("x", 2000) + "\r\n")
		}},
		{"status line broken off", code503A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send("HTTP/1.1 2")
		}},
		{"header broken off", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(bare + "Content-Len")
		}},
		{"not HTTP", code503A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send("SSH-2.0-OpenSSH_9.9\r\n")
			p.wait()
		}},
		{"a TLS alert in plain text", code503A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send("\x15\x03\x01\x00\x02\x02\x46")
		}},
		{"no status code", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send("HTTP/1.1 abc\r\n\r\n")
			p.wait()
		}},
		{"a header line without a colon", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(bare + "nonsense\r\nContent-Length: " + strconv.Itoa(len(good)) + "\r\n\r\n" + good)
			p.wait()
		}},
		{"two lengths", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(bare + "Content-Length: " + strconv.Itoa(len(good)) + "\r\nContent-Length: 5\r\n\r\n" + good)
			p.wait()
		}},
		{"negative length", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(bare + "Content-Length: -1\r\n\r\n" + good)
			p.wait()
		}},
		{"unknown transfer coding", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(bare + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunkOf(good) + chunkOf(""))
			p.wait()
		}},
		// An upgraded connection has no end and obeys no deadline.
		{"status 101", code502A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			p.wait()
		}},
		{"status 101 with a JWT behind it", code502A, 1, false, func(p *peer, good string) {
			p.request()
			p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Type: application/jwt\r\n\r\n" + good)
			p.wait()
		}},
		{"status 600, which is none (RFC 9110 section 15)", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(strings.Replace(rawAnswer(200, "application/jwt", good), "200 OK", "600 Odd", 1))
		}},
		{"A90 one byte too many, announced", code502A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(bare + "Content-Length: 65537\r\n\r\n")
			p.sendBytes(huge[:64<<10+1])
			p.wait()
		}},
		{"A90 one byte too many, chunked", code502A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(chunkedHead + chunkOf(strings.Repeat(" ", 64<<10)) + chunkOf("x") + chunkOf(""))
		}},
		{"A90 5 MiB", code502A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(bare + "Content-Length: 5242880\r\n\r\n")
			if p.sendBytes(huge[:5<<20]) {
				p.wait()
			}
		}},
		{"A90 endless, announced", code502A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(bare + "Content-Length: 10000000000\r\n\r\n")
			p.flood("x")
		}},
		{"A90 announced and never sent", code502A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(bare + "Content-Length: 10000000000\r\n\r\n")
			p.wait()
		}},
		{"A90 endless, chunked", code502A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(chunkedHead)
			p.flood(chunkOf("x"))
		}},
		{"A90 endless, to the end of the connection", code502A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(bare + "\r\n")
			p.flood("x")
		}},
		{"A90 endless, of an error", code502A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send("HTTP/1.1 404 Not Found\r\n\r\n")
			p.flood("x")
		}},
		{"A91 body drips", code503A, 1, true, func(p *peer, good string) {
			p.request()
			p.send(bare + "Content-Length: 60000\r\n\r\n")
			p.drip("x")
		}},
		{"A91 chunks drip", code503A, 1, true, func(p *peer, good string) {
			p.request()
			p.send(chunkedHead)
			p.drip(chunkOf("x"))
		}},
		{"A91 header drips", code503A, 1, true, func(p *peer, good string) {
			p.request()
			p.send(bare)
			p.drip("X-Header: x\r\n")
		}},
		{"A91 status line drips", code503A, 1, true, func(p *peer, good string) {
			p.request()
			p.send("HTTP/1.1 200 ")
			p.drip("O")
		}},
		{"A92 nothing is ever sent", code503A, 1, true, func(p *peer, good string) {
			p.request()
			p.wait()
		}},
		{"A92 nothing is ever read", code503A, 0, true, func(p *peer, _ string) {
			for p.in.Buffered() == 0 {
				if _, err := p.in.Peek(1); err != nil {
					return
				}
			}
			p.wait()
		}},
		{"all but the end", code503A, 1, true, func(p *peer, good string) {
			p.request()
			p.send(chunkedHead + chunkOf(activeJSON(good)))
			p.wait()
		}},
		{"A106 1,000 interim answers", code503A, 1, false, func(p *peer, good string) {
			p.request()
			p.send(strings.Repeat(hint+"\r\n", 1000) + rawAnswer(200, "application/jwt", good))
			p.wait()
		}},
		{"A106 interim answers without end", code503A, 1, false, func(p *peer, _ string) {
			p.request()
			p.flood(hint + "Link: </style.css>; rel=preload\r\n\r\n")
		}},
		{"A106 interim answers drip", code503A, 1, false, func(p *peer, _ string) {
			p.request()
			for p.send(hint + "\r\n") {
				time.Sleep(time.Millisecond)
			}
		}},
		{"A106 20 MiB of header in one line", code503A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(bare + "X-Header: ")
			if p.sendBytes(huge) {
				t.Error("all of it was read")
			}
		}},
		{"A106 20 MiB of header in many lines", code503A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send(bare)
			p.flood("X-Header: " + strings.Repeat("x", 1000) + "\r\n")
		}},
		{"A106 an endless status line", code503A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send("HTTP/1.1 200 ")
			p.flood("x")
		}},
		{"A96 a redirect, endless", code502A, 1, false, func(p *peer, _ string) {
			p.request()
			p.send("HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\n\r\n")
			p.flood("x")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := as.secret(mint("ES256", claims(nil)))
			var healthy atomic.Bool
			s := listenTCP(t, func(p *peer) {
				if healthy.Load() {
					p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) })
					return
				}
				c.fault(p, good)
			})
			limit := 20 * time.Second
			if c.hangs {
				limit = 150 * time.Millisecond
			}
			m := as.networked(s.url(), phantom.WithTimeout(limit), phantom.WithMaxInFlight(1))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := time.Now()
			if got := as.try(m, "opaque-token"); got != c.want {
				t.Error(got)
			}
			took := time.Since(begin)
			runtime.ReadMemStats(&after)
			if n := s.lookups.Load(); n > c.attempts || n == 0 && c.attempts > 0 {
				t.Errorf("%d attempts", n)
			}
			if took > 15*time.Second || c.hangs && took < limit {
				t.Errorf("took %v", took)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
				t.Errorf("%d bytes allocated", grown)
			}
			// The client gives the connection up by itself: the scripts wait for that.
			eventually(t, "all connections closed", func() bool { return s.open.Load() == 0 })
			if as.logged("ERROR", "") != 1 {
				t.Errorf("log:\n%s", as.logs.String())
			}
			healthy.Store(true)
			as.recovers(m, c.hangs)
		})
	}
}

// An answer that is complete is an answer, whatever form HTTP gives it.
func TestConnectionForms(t *testing.T) {
	for _, c := range []struct {
		name   string
		want   string
		answer func(good string) string
	}{
		{"to the end of the connection", codeOK, func(good string) string {
			return "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\n\r\n" + good
		}},
		{"HTTP/1.0", codeOK, func(good string) string {
			return "HTTP/1.0 200 OK\r\nContent-Type: application/jwt\r\n\r\n" + good
		}},
		{"HTTP/1.0, inactive", code401T, func(string) string {
			return "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + `{"active":false}`
		}},
		{"JSON cut at the end of the connection", code502A, func(string) string {
			return "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + `{"active":false`
		}},
		{"chunks of one byte", codeOK, func(good string) string {
			var b strings.Builder
			for i := range good {
				b.WriteString(chunkOf(good[i : i+1]))
			}
			return strings.Replace(chunkedHead, "json", "jwt", 1) + b.String() + chunkOf("")
		}},
		{"chunked with a trailer", codeOK, func(good string) string {
			return strings.Replace(chunkedHead, "Transfer", "Trailer: Content-Type\r\nTransfer", 1) +
				chunkOf(activeJSON(good)) + "0\r\nContent-Type: text/html\r\n\r\n"
		}},
		{"one early hint", codeOK, func(good string) string {
			return "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n" + rawAnswer(200, "application/jwt", good)
		}},
		{"100 Continue unasked", codeOK, func(good string) string {
			return "HTTP/1.1 100 Continue\r\n\r\n" + rawAnswer(200, "application/jwt", good)
		}},
		{"a header of 60 KiB", codeOK, func(good string) string {
			return "HTTP/1.1 200 OK\r\nX-Header: " + strings.Repeat("x", 60<<10) + "\r\nContent-Type: application/jwt\r\n" +
				"Content-Length: " + strconv.Itoa(len(good)) + "\r\n\r\n" + good
		}},
		{"a body of 64 KiB", codeOK, func(good string) string {
			body := activeJSON(good)
			return rawAnswer(200, "application/json", body+strings.Repeat(" ", 64<<10-len(body)))
		}},
		{"a body of 64 KiB, chunked", codeOK, func(good string) string {
			body := activeJSON(good)
			return chunkedHead + chunkOf(body) + chunkOf(strings.Repeat(" ", 64<<10-len(body))) + chunkOf("")
		}},
		{"a line feed alone at the end of each line", codeOK, func(good string) string {
			return strings.ReplaceAll(rawAnswer(200, "application/jwt", good), "\r\n", "\n")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := as.secret(mint("ES256", claims(nil)))
			s := listenTCP(t, func(p *peer) {
				p.request()
				p.send(c.answer(good))
				p.tcp.CloseWrite()
				p.wait()
			})
			if got := as.try(as.networked(s.url()), "opaque-token"); got != c.want {
				t.Errorf("%s, log:\n%s", got, as.logs.String())
			}
			if n := s.lookups.Load(); n != 1 {
				t.Errorf("%d attempts", n)
			}
		})
	}
}

// A connection that is reused may have been closed by the server meanwhile,
// and so may all the others that wait in the pool.
func TestN268ReusedConnectionCloses(t *testing.T) {
	for _, idle := range []int{1, 8} {
		for name, end := range map[string]func(*peer){"closed": func(*peer) {}, "reset": (*peer).reset} {
			t.Run(fmt.Sprintf("N268 %d idle, %s", idle, name), func(t *testing.T) {
				leaveNothing(t)
				as := newAS(t)
				good := as.secret(mint("ES256", claims(nil)))
				var arrived sync.WaitGroup
				arrived.Add(idle)
				var stale atomic.Bool
				s := listenTCP(t, func(p *peer) {
					for {
						_, ok := p.request()
						switch {
						case !ok:
							return
						case stale.Load() && p.nth <= int64(idle):
							end(p)
							return
						case p.nth <= int64(idle):
							arrived.Done()
							arrived.Wait() // so that each lookup has a connection of its own
						}
						p.send(rawAnswer(200, "application/jwt", good))
					}
				})
				m := as.networked(s.url())
				var lookups sync.WaitGroup
				for i := range idle {
					lookups.Go(func() {
						if got := statusOf(m, "warm-"+strconv.Itoa(i)); got != 200 {
							t.Error(got)
						}
					})
				}
				lookups.Wait()
				stale.Store(true)
				before := s.lookups.Load()
				if got := as.try(m, "opaque-token"); got != codeOK {
					t.Error(got)
				}
				if n := s.lookups.Load() - before; n != 2 {
					t.Errorf("%d attempts", n)
				}
			})
		}
	}
}

// The server closed its idle connections and says so: nobody need try them.
func TestN268ServerRestarts(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := as.secret(mint("ES256", claims(nil)))
	script := func(p *peer) { p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) }) }
	s := listenTCP(t, script)
	m := as.networked(s.url())
	for i := range 5 {
		if got := as.try(m, "opaque-token-"+strconv.Itoa(i)); got != codeOK {
			t.Fatal(got)
		}
		address := s.Addr().String()
		s.stop()
		s = listenAt(t, address, nil, script)
	}
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Error(got)
	}
}

// An assertion is good for one attempt.
func TestN268FreshAssertion(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := as.secret(mint("ES256", claims(nil)))
	var mu sync.Mutex
	seen := map[string]bool{}
	var fail atomic.Bool
	s := listenTCP(t, func(p *peer) {
		for {
			if _, ok := p.request(); !ok {
				return
			}
			mu.Lock()
			seen[as.secret(p.form.Get("client_assertion"))] = true
			mu.Unlock()
			if fail.Swap(false) {
				return
			}
			p.send(rawAnswer(200, "application/jwt", good))
		}
	})
	m := as.networked(s.url(), phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k-1", "ES256", p256Key())))
	for i := range 3 {
		fail.Store(i > 0)
		if got := as.try(m, "opaque-token-"+strconv.Itoa(i)); got != codeOK {
			t.Error(got)
		}
	}
	if len(seen) != 5 || s.lookups.Load() != 5 {
		t.Errorf("%d assertions in %d attempts", len(seen), s.lookups.Load())
	}
}

// The fetch of a document is tried again as a lookup is.
func TestN268KeySetConnectionCloses(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := as.secret(mint("ES256", claims(nil)))
	var drops atomic.Int64
	s := listenTCP(t, func(p *peer) {
		for {
			if _, ok := p.request(); !ok {
				return
			}
			switch {
			case p.req.URL.Path == endpointPath:
				p.send(rawAnswer(200, "application/jwt", good))
			case p.req.Header.Get("Authorization") != "" || len(p.form) > 0:
				t.Error("credentials in the request for the keys")
			case drops.Add(1) == 1:
				return
			default:
				p.send(rawAnswer(200, "application/jwk-set+json", allKeys()))
			}
		}
	})
	m, err := phantom.New(
		phantom.WithIssuer(issuer), phantom.WithAudience(audience),
		phantom.WithIntrospectionEndpoint(s.url()+endpointPath), phantom.WithJWKSURL(s.url()+jwksPath),
		phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret)),
	)
	if err != nil {
		t.Fatal(err)
	}
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Error(got)
	}
}

func TestN276ConnectionClosedAfterEachAnswer(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		answerJWT(good)(w, r)
	}
	s, opened, open := as.serveHTTP(nil)
	m := as.networked(s.URL)
	idle := runtime.NumGoroutine()
	for i := range 200 {
		if got := statusOf(m, "opaque-token-"+strconv.Itoa(i)); got != 200 {
			t.Fatal(got)
		}
	}
	if n := opened.Load(); n != 200 {
		t.Errorf("%d connections", n)
	}
	eventually(t, "all connections closed", func() bool { return open.Load() == 0 })
	eventually(t, "no goroutine left of them", func() bool { return runtime.NumGoroutine() <= idle })
}

// Bodies that are not read to their end cost a connection each, so they are
// read, those of errors too.
func TestN277SequentialLookupsShareConnections(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	page := strings.Repeat("<p>", 5000)
	answers := []struct {
		http.HandlerFunc
		status int
	}{
		{answerJWT(good), 200},
		{answer(204, "", ""), 401},
		{answerJSON(`{"active":false}`), 401},
		{answer(400, "application/json", `{"error":"invalid_request"}`), 502},
		{answer(401, "application/json", `{"error":"invalid_client"}`), 502},
		{answer(403, "text/html", page), 502},
		{answer(404, "text/plain", "not here"), 502},
		{answer(302, "text/html", page), 502},
		{answer(500, "text/html", page), 503},
		{answer(200, "text/html", page), 502},
		{answerJSON(`{"active":true}`), 502},
		{answer(503, "text/plain", "busy"), 503},
		{answer(415, "", ""), 502},
	}
	tooLarge := answer(200, "application/jwt", strings.Repeat("x", 70<<10))
	const lookups, eachLarge = 10_000, 500
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		i, err := strconv.Atoi(strings.TrimPrefix(r.PostForm.Get("token"), "opaque-token-"))
		switch {
		case err != nil:
			t.Error(err)
		case i%eachLarge == 0:
			tooLarge(w, r)
		default:
			answers[i%len(answers)].HandlerFunc(w, r)
		}
	}
	s, opened, _ := as.serveHTTP(nil)
	m := as.networked(s.URL)
	for i := range lookups {
		want := answers[i%len(answers)].status
		if i%eachLarge == 0 {
			want = 502
		}
		if got := statusOf(m, "opaque-token-"+strconv.Itoa(i)); got != want {
			t.Fatalf("lookup %d: %d, not %d", i, got, want)
		}
	}
	if n := as.calls.Load(); n != lookups {
		t.Errorf("%d attempts", n)
	}
	if n := opened.Load(); n > 64 {
		t.Errorf("%d connections", n)
	}
}

func TestN278ConcurrentLookups(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	as.introspect = wait(100*time.Millisecond, answerJWT(good))
	s, opened, _ := as.serveHTTP(nil)
	m := as.networked(s.URL, phantom.WithTimeout(30*time.Second))
	begin := time.Now()
	if failed := together(500, func(i int) bool { return statusOf(m, "opaque-token-"+strconv.Itoa(i)) == 200 }); failed != 0 {
		t.Errorf("%d failed", failed)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	if n := opened.Load(); n > 64 {
		t.Errorf("%d connections", n)
	}
	if n := as.peak.Load(); n > 64 {
		t.Errorf("%d at once", n)
	}
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

// The slow ones are not answered before all the others are, so that anything
// that waited for a slow one would wait for ever.
func TestN279SlowLookupsDelayNobody(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	release := make(chan struct{})
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.PostForm.Get("token"), "slow-") {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		answerJWT(good)(w, r)
	}
	s, _, _ := as.serveHTTP(nil)
	m := as.networked(s.URL, phantom.WithTimeout(30*time.Second))
	var slow sync.WaitGroup
	for i := range 10 {
		slow.Go(func() {
			if got := statusOf(m, "slow-"+strconv.Itoa(i)); got != 200 {
				t.Errorf("slow: %d", got)
			}
		})
	}
	eventually(t, "all slow lookups under way", func() bool { return as.current.Load() == 10 })
	if failed := together(990, func(i int) bool { return statusOf(m, "fast-"+strconv.Itoa(i)) == 200 }); failed != 0 {
		t.Errorf("%d failed", failed)
	}
	if n := as.current.Load(); n != 10 {
		t.Errorf("%d under way", n)
	}
	close(release)
	slow.Wait()
}

// A sharedTransport is the caller's, who may use it for other servers too.
type sharedTransport struct {
	http.RoundTripper
	closed atomic.Int64
}

func (s *sharedTransport) CloseIdleConnections() { s.closed.Add(1) }

// Lookups that take too long among others that are answered say nothing of the
// connections of these. When nothing is answered, the idle ones are given up.
func TestN279SlowLookupsKeepConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		slow := wait(10*time.Second, answerJWT("late"))
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.PostForm.Get("token"), "slow-") {
				slow(w, r)
				return
			}
			newToken(w, r)
		}
		shared := &sharedTransport{RoundTripper: as}
		m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: shared}))
		for i := range 1000 {
			token := "fast-" + strconv.Itoa(i)
			if i%100 == 0 {
				token = "slow-" + strconv.Itoa(i)
			}
			go statusOf(m, token)
			time.Sleep(5 * time.Millisecond)
		}
		if n := shared.closed.Load(); n != 0 {
			t.Errorf("idle connections given up %d times", n)
		}
		time.Sleep(10 * time.Second)
		before := shared.closed.Load()
		got := statusOf(m, "slow-alone")
		synctest.Wait()
		if got != 503 || shared.closed.Load() == before {
			t.Errorf("%d, idle connections kept although nothing is answered", got)
		}
		time.Sleep(10 * time.Second)
	})
}

// An outage under 1,000 distinct tokens a second. It is in memory, so that a
// minute is none.
func TestN280Outage(t *testing.T) {
	for name, down := range map[string]struct {
		serve  http.HandlerFunc
		takes  time.Duration // a lookup, until it fails
		lasts  time.Duration
		probes int64
	}{
		"N280 503":    {answer(503, "", ""), 0, time.Minute, 60},
		"N280 silent": {wait(time.Hour, answer(503, "", "")), 2 * time.Second, 15 * time.Second, 5},
		"N280 slow":   {wait(500*time.Millisecond, answer(500, "", "")), 500 * time.Millisecond, 15 * time.Second, 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				good := mint("ES256", claims(map[string]any{"exp": time.Now().Add(time.Hour).Unix()}))
				var healthy atomic.Bool
				var atOnce atomic.Int64 // the most at once, once the breaker is open
				var settled atomic.Bool
				as.introspect = func(w http.ResponseWriter, r *http.Request) {
					if healthy.Load() {
						answerJWT(good)(w, r)
						return
					}
					if n := as.current.Load(); settled.Load() && n > atOnce.Load() {
						atOnce.Store(n)
					}
					down.serve(w, r)
				}
				m := as.middleware()
				const rate = 1000
				begin := time.Now()
				var requests sync.WaitGroup
				var served, slow, other atomic.Int64
				var firstServed atomic.Int64
				var callsThen int64
				request := func(i int) {
					sent := time.Now()
					switch statusOf(m, "opaque-token-"+strconv.Itoa(i)) {
					case 200:
						served.Add(1)
						firstServed.CompareAndSwap(0, int64(time.Since(begin)))
					case 503:
						// A probe takes its time; nobody else does.
						if settled.Load() && sent.Sub(begin) > down.takes+time.Second && time.Since(sent) >= 5*time.Millisecond {
							slow.Add(1)
						}
					default:
						other.Add(1)
					}
				}
				for i := range int(down.lasts/time.Second) * rate {
					if d := time.Since(begin); !settled.Load() && d > down.takes+time.Second {
						callsThen = as.calls.Load()
						settled.Store(true)
					}
					requests.Go(func() { request(i) })
					time.Sleep(time.Second / rate)
				}
				probes := as.calls.Load() - callsThen
				if served.Load() != 0 || other.Load() != 0 {
					t.Errorf("%d served, %d neither served nor 503", served.Load(), other.Load())
				}
				if atOnce.Load() > 1 {
					t.Errorf("%d probes at once", atOnce.Load())
				}
				if probes > down.probes || probes < down.probes*2/3 {
					t.Errorf("%d probes", probes)
				}
				if slow.Load() > probes+1 { // one was under way
					t.Errorf("%d slow 503s beside %d probes", slow.Load(), probes)
				}
				// The probe under way when the server returns is lost.
				healthy.Store(true)
				returned := time.Since(begin)
				for i := range 4 * rate {
					requests.Go(func() { request(1_000_000 + i) })
					time.Sleep(time.Second / rate)
				}
				requests.Wait()
				if after := time.Duration(firstServed.Load()) - returned; after < 0 || after > down.takes+time.Second+10*time.Millisecond {
					t.Errorf("first served %v after the return", after)
				}
				before := served.Load()
				for i := range 100 {
					request(2_000_000 + i)
				}
				if served.Load() != before+100 {
					t.Errorf("%d of 100 served in the end", served.Load()-before)
				}
			})
		})
	}
}

// An HTTP answer is never asked for again.
func TestN281NoAnswerIsRetried(t *testing.T) {
	for status, want := range map[int]int{503: 503, 400: 502, 429: 503, 500: 503, 502: 503, 408: 502, 425: 502} {
		t.Run(fmt.Sprintf("N281 %d", status), func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			as.introspect = answer(status, "", "")
			s, _, _ := as.serveHTTP(nil)
			m := as.networked(s.URL)
			for i := range 1000 {
				if got := statusOf(m, "opaque-token-"+strconv.Itoa(i)); got != want {
					t.Fatalf("%d, not %d", got, want)
				}
			}
			n := as.calls.Load()
			if want == 502 && n != 1000 || want == 503 && (n < 10 || n > 100) {
				t.Errorf("%d attempts", n)
			}
		})
	}
}

// A crowd of clients, each with a token of its own, that comes again whenever
// it is told to: no more of them reach the server than there are places, no
// more wait than the queue holds, and all are served in the end.
func TestN282ServerReturnsToACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		good := mint("ES256", claims(map[string]any{"exp": time.Now().Add(time.Hour).Unix()}))
		var healthy atomic.Bool
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(10 * time.Millisecond)
			if !healthy.Load() {
				w.WriteHeader(503)
				return
			}
			answerJWT(good)(w, r)
		}
		m := as.middleware()
		const clients = 10_000
		var group sync.WaitGroup
		var refusals, odd atomic.Int64
		for i := range clients {
			group.Go(func() {
				time.Sleep(time.Duration(i) * time.Second / clients)
				for {
					switch statusOf(m, "opaque-token-"+strconv.Itoa(i)) {
					case 200:
						return
					case 503:
						refusals.Add(1)
						time.Sleep(time.Second) // its Retry-After
					default:
						odd.Add(1)
						return
					}
				}
			})
		}
		time.Sleep(5 * time.Second)
		if n := as.peak.Load(); n > 64 {
			t.Errorf("%d at once", n)
		}
		healthy.Store(true)
		returned := time.Now()
		group.Wait()
		// 10,000 lookups of 10 ms, 64 at once, take 1.6 s; a probe's interval and
		// the clients' own pause come on top.
		if took := time.Since(returned); took > 5*time.Second {
			t.Errorf("full service after %v", took)
		}
		if n := as.peak.Load(); n > 64 || odd.Load() != 0 || refusals.Load() < clients {
			t.Errorf("%d at once, %d odd answers, %d refusals", n, odd.Load(), refusals.Load())
		}
	})
}

// With all places taken and the queue full, the rest is told at once.
func TestN282QueueIsBounded(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	release := make(chan struct{})
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		answerJWT(good)(w, r)
	}
	s, opened, _ := as.serveHTTP(nil)
	m := as.networked(s.URL, phantom.WithMaxInFlight(4), phantom.WithTimeout(30*time.Second))
	const clients, places, queue = 1000, 4, 4 * 32
	var refused atomic.Int64
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			switch got := statusOf(m, "opaque-token-"+strconv.Itoa(i)); got {
			case 503:
				refused.Add(1)
			case 200:
			default:
				t.Error(got)
			}
		})
	}
	eventually(t, "the excess told", func() bool { return refused.Load() == clients-places-queue })
	if n := as.current.Load(); n > places {
		t.Errorf("%d at once", n)
	}
	close(release)
	group.Wait()
	if n := as.calls.Load(); n != places+queue {
		t.Errorf("%d attempts", n)
	}
	if n := opened.Load(); n > places {
		t.Errorf("%d connections", n)
	}
	if refused.Load() != clients-places-queue {
		t.Errorf("%d refused", refused.Load())
	}
}

// Places and connections come back from lookups that nobody could finish.
func TestAbandonedConnectionsFreeTheirPlaces(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	var healthy atomic.Bool
	s := listenTCP(t, func(p *peer) {
		if !healthy.Load() {
			p.wait()
			return
		}
		p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) })
	})
	m := as.networked(s.url(), phantom.WithTimeout(200*time.Millisecond), phantom.WithMaxInFlight(4))
	for range 3 { // the breaker opens in between
		if ok := together(40, func(i int) bool { return statusOf(m, "opaque-token-"+strconv.Itoa(i)) != 503 }); ok != 40 {
			t.Errorf("%d of 40 unavailable", ok)
		}
	}
	eventually(t, "all connections closed", func() bool { return s.open.Load() == 0 })
	if n := s.opened.Load(); n > 40 {
		t.Errorf("%d connections", n)
	}
	healthy.Store(true)
	eventually(t, "served again", func() bool { return statusOf(m, "opaque-token") == 200 })
	eventually(t, "all served at once", func() bool {
		return together(40, func(i int) bool { return statusOf(m, "opaque-token-"+strconv.Itoa(i)) == 200 }) == 0
	})
}

// A server may answer as soon as it has seen the header: each lookup has the
// answer to its own request all the same.
func TestN283AnswerBeforeTheBodyIsRead(t *testing.T) {
	for name, after := range map[string]func(p *peer, rest io.Reader) (more bool){
		"N283 read then":   func(_ *peer, rest io.Reader) bool { _, _ = io.Copy(io.Discard, rest); return true },
		"N283 then closed": func(p *peer, _ io.Reader) bool { _ = p.tcp.CloseWrite(); p.wait(); return false },
		"N283 a while later": func(p *peer, rest io.Reader) bool {
			time.Sleep(time.Millisecond)
			_, _ = io.Copy(io.Discard, rest)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			jwts := map[string]string{}
			for i := range 20 {
				user := "user-" + strconv.Itoa(i)
				jwts["token-of-"+user] = mint("ES256", claims(map[string]any{"sub": user}))
			}
			s := listenTCP(t, func(p *peer) {
				for more := true; more; {
					r, err := http.ReadRequest(p.in)
					if err != nil {
						return
					}
					body := must(p.in.Peek(int(r.ContentLength))) // which leaves it where it is
					form, _ := url.ParseQuery(string(body))
					p.send(rawAnswer(200, "application/jwt", jwts[form.Get("token")]))
					more = after(p, r.Body)
				}
			})
			m := as.networked(s.url())
			for range 5 {
				for token := range jwts {
					tok, err := m.Verify(t.Context(), token)
					if err != nil {
						t.Fatal(err)
					}
					if "token-of-"+tok.Subject() != token {
						t.Fatalf("%s got the answer of %s", token, tok.Subject())
					}
					m.Forget(token)
				}
			}
		})
	}
}

// A connection on which the server says more than it was asked is given up, or
// what it says would answer the next request.
func TestN283MoreThanOneAnswer(t *testing.T) {
	defer log.SetOutput(log.Writer())
	log.SetOutput(io.Discard) // net/http complains there
	good := mint("ES256", claims(nil))
	stranger := rawAnswer(200, "application/jwt", mint("ES256", claims(map[string]any{"sub": "mallory"})))
	for name, c := range map[string]struct{ answer, want string }{
		"behind a JWT":          {rawAnswer(200, "application/jwt", good) + stranger, codeOK},
		"behind no body":        {"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n" + stranger, code502A},
		"behind a 204":          {"HTTP/1.1 204 No Content\r\n\r\n" + stranger, code401T},
		"in the body of a 204":  {"HTTP/1.1 204 No Content\r\nContent-Length: " + strconv.Itoa(len(stranger)) + "\r\n\r\n" + stranger, code401T},
		"behind the last chunk": {chunkedHead + chunkOf(`{"active":false}`) + chunkOf("") + stranger, code401T},
		"noise":                 {rawAnswer(200, "application/jwt", good) + "\r\n\r\nnoise", codeOK},
		"an interim answer":     {rawAnswer(200, "application/jwt", good) + "HTTP/1.1 103 Early Hints\r\n\r\n", codeOK},
		"length and last chunk": {strings.Replace(chunkedHead, "Transfer", "Content-Length: 5\r\nTransfer", 1) + chunkOf(`{"active":false}`) + chunkOf("") + stranger, code401T},
	} {
		t.Run("N283 "+name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			s := listenTCP(t, func(p *peer) {
				p.request()
				p.send(c.answer)
				p.wait()
			})
			m := as.networked(s.url())
			for i := range 3 {
				if got := as.try(m, "opaque-token-"+strconv.Itoa(i)); got != c.want {
					t.Errorf("%s, log:\n%s", got, as.logs.String())
				}
				eventually(t, "the connection closed", func() bool { return s.open.Load() == 0 })
			}
		})
	}
}

func TestA107Cookies(t *testing.T) {
	jar := must(cookiejar.New(nil))
	for name, options := range map[string][]phantom.Option{
		"own transport":     nil,
		"client with a jar": {phantom.WithHTTPClient(&http.Client{Jar: jar, Timeout: time.Nanosecond})},
	} {
		t.Run("A107 "+name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := mint("ES256", claims(nil))
			as.introspect = func(w http.ResponseWriter, r *http.Request) {
				http.SetCookie(w, &http.Cookie{Name: "session", Value: "sticky", Path: "/"})
				if got := r.Header["Cookie"]; got != nil {
					t.Errorf("Cookie %q", got)
				}
				answerJWT(good)(w, r)
			}
			s, _, _ := as.serveHTTP(nil)
			m := as.networked(s.URL, options...)
			for i := range 3 {
				if got := as.try(m, "opaque-token-"+strconv.Itoa(i)); got != codeOK {
					t.Error(got)
				}
			}
			if cookies := jar.Cookies(must(url.Parse(s.URL))); len(cookies) > 0 {
				t.Errorf("kept %v", cookies)
			}
		})
	}
}

// A redirect would carry the token, and the client's credentials, elsewhere.
func TestA96RedirectOverTheNetwork(t *testing.T) {
	leaveNothing(t)
	elsewhere := listenTCP(t, func(p *peer) { p.wait() })
	for _, status := range []int{301, 302, 303, 307, 308} {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", elsewhere.url()+endpointPath)
			w.WriteHeader(status)
		}
		s, _, _ := as.serveHTTP(nil)
		if got := as.try(as.networked(s.URL), "opaque-token"); got != code502A {
			t.Errorf("%d: %s", status, got)
		}
		if n := as.calls.Load(); n != 1 {
			t.Errorf("%d: %d attempts", status, n)
		}
	}
	if n := elsewhere.opened.Load(); n != 0 {
		t.Errorf("%d connections elsewhere", n)
	}
}
