package conformance_test

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A meteredBody counts what is read of it and tells when it is closed.
type meteredBody struct {
	io.Reader
	read   atomic.Int64
	closed atomic.Bool
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read.Add(int64(n))
	return n, err
}

func (b *meteredBody) Close() error { b.closed.Store(true); return nil }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// No more than 64 KiB of an answer are taken, and one byte more is read at
// most. The body is closed in any case.
//
// Catalogue: A90.
func TestAnswerSizeIsBounded(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	padded := func(size int) string {
		empty := answerOf(jwt, map[string]any{"x": ""})
		return answerOf(jwt, map[string]any{"x": strings.Repeat("x", size-len(empty))})
	}
	const limit = 64 << 10
	for _, tc := range []struct {
		name, body string
		length     int64
		status     int
		want       string
		read       int64 // at most
	}{
		{"exactly the limit", padded(limit), -1, 200, codeOK, limit},
		{"exactly the limit, announced", padded(limit), limit, 200, codeOK, limit},
		{"one byte more", padded(limit + 1), -1, 200, code502A, limit + 1},
		{"one byte more, announced", padded(limit + 1), limit + 1, 200, code502A, 0},
		{"space behind a good answer", answerOf(jwt, nil) + strings.Repeat(" ", limit), -1, 200, code502A, limit + 1},
		{"5 MiB", strings.Repeat("x", 5<<20), -1, 200, code502A, limit + 1},
		{"a great length announced", answerOf(jwt, nil), 10_000_000_000, 200, code502A, 0},
		{"5 MiB with an outage", strings.Repeat("x", 5<<20), -1, 503, code503A, limit + 1},
		{"5 MiB with a refusal", strings.Repeat("x", 5<<20), -1, 401, code502A, limit + 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			body := &meteredBody{Reader: strings.NewReader(tc.body)}
			transport := roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.URL.Path != endpointPath {
					return as.RoundTrip(r)
				}
				return &http.Response{
					StatusCode: tc.status, Header: http.Header{"Content-Type": {"application/json"}},
					Body: body, ContentLength: tc.length, Request: r,
				}, nil
			})
			m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: transport}))
			if got := as.try(m, "tok"); got != tc.want {
				t.Errorf("outcome %s, want %s", got, tc.want)
			}
			if n := body.read.Load(); n > tc.read {
				t.Errorf("%d bytes read, want at most %d", n, tc.read)
			}
			if !body.closed.Load() {
				t.Error("body not closed")
			}
		})
	}
}

// A wireAS speaks raw bytes: each connection is handed to serve, which closes
// it. The client side is the real transport of net/http over pipes, so that it
// works in a synctest bubble.
type wireAS struct {
	serve func(conn net.Conn)
	conns atomic.Int64
	done  sync.WaitGroup
}

func (s *wireAS) transport(t *testing.T) *http.Transport {
	tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		s.conns.Add(1)
		s.done.Go(func() {
			defer ours.Close()
			s.serve(ours)
		})
		return theirs, nil
	}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		s.done.Wait()
	})
	return tr
}

// readRequest reads a whole request off the connection.
func readRequest(conn net.Conn) bool {
	buf := make([]byte, 64<<10)
	var got []byte
	for {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		if head, body, ok := strings.Cut(string(got), "\r\n\r\n"); ok {
			var length int
			if _, after, ok := strings.Cut(head, "Content-Length: "); ok {
				_, _ = fmt.Sscan(after, &length)
			}
			if len(body) >= length {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}

func staticES256() phantom.Option {
	return phantom.WithKeySet(phantom.StaticKeys(p256Key().Public().(*ecdsa.PublicKey)))
}

// wireOptions are the reference configuration with raw bytes as the server.
func wireOptions(t *testing.T, as *fakeAS, wire *wireAS) []phantom.Option {
	opts := as.options(phantom.WithHTTPClient(&http.Client{Transport: wire.transport(t)}), staticES256())
	return slices.Delete(opts, 3, 4) // WithJWKSURL
}

// An answer that comes too slowly ends at the time limit of the lookup.
//
// Catalogue: A91, A92.
func TestSlowAnswerEndsAtTheTimeLimit(t *testing.T) {
	hold := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) } // until the client hangs up
	head := "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\nContent-Length: 1000\r\n\r\n"
	drip := func(conn net.Conn) {
		for {
			time.Sleep(time.Second)
			if _, err := io.WriteString(conn, "x"); err != nil {
				return
			}
		}
	}
	for _, tc := range []struct {
		name  string
		serve func(net.Conn)
		want  string
		after time.Duration
	}{
		{"the body drips", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, head)
			drip(conn)
		}, code503A, 2 * time.Second},
		{"the body of an outage drips", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1000\r\n\r\n")
			drip(conn)
		}, code503A, 2 * time.Second},
		{"the header drips", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Long: ")
			drip(conn)
		}, code503A, 2 * time.Second},
		{"nothing is ever sent", func(conn net.Conn) { readRequest(conn); hold(conn) }, code503A, 2 * time.Second},
		{"nothing is ever read", func(conn net.Conn) { time.Sleep(10 * time.Second) }, code503A, 2 * time.Second},
		// The body of a 101 is the connection, which no context ends.
		{"another protocol is switched to", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			hold(conn)
		}, code502A, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, wire := newAS(t), &wireAS{serve: tc.serve}
				m := must(phantom.New(wireOptions(t, as, wire)...))
				start := time.Now()
				if got := as.try(m, "tok"); got != tc.want {
					t.Errorf("outcome %s, want %s", got, tc.want)
				}
				if got := time.Since(start); got != tc.after {
					t.Errorf("after %v, want %v", got, tc.after)
				}
				time.Sleep(time.Minute) // what is left over would keep the bubble from ending
			})
		})
	}
}

// An answer that breaks off, or is no HTTP, is an outage. One that is complete
// is judged.
func TestBrokenOffAnswerIsAnOutage(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	chunk := answerOf(jwt, nil)
	const (
		ok      = "HTTP/1.1 200 OK\r\n"
		okJWT   = ok + "Content-Type: application/jwt\r\n"
		chunked = "Transfer-Encoding: chunked\r\n\r\n"
	)
	oneChunk := fmt.Sprintf("Content-Type: application/json\r\n"+chunked+"%x\r\n%s\r\n", len(chunk), chunk)
	for _, tc := range []struct{ name, bytes, want string }{
		{"shorter than announced", okJWT + "Content-Length: 5000\r\n\r\n" + jwt, code503A},                                                        // A90, N269
		{"no last chunk", ok + oneChunk, code503A},                                                                                                // A90, N270
		{"a chunk length that is none", okJWT + chunked + "zz\r\n" + jwt, code503A},                                                               // A90
		{"no HTTP", "SSH-2.0-OpenSSH_9.9\r\n", code503A},                                                                                          // A90
		{"two lengths", okJWT + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + jwt, code503A},                                                 // A90
		{"until the connection closes", okJWT + "\r\n" + jwt, codeOK},                                                                             // A90
		{"cut short by its length", okJWT + "Connection: close\r\nContent-Length: 40\r\n\r\n" + jwt, code502A},                                    // A90
		{"a refusal that breaks off", "HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n" + `{"error":"unsupported_token_type"}`, code503A}, // A99
		{"Location that is no URL", "HTTP/1.1 302 Found\r\nLocation: ://%zz\r\nContent-Length: 0\r\n\r\n", code502A},                              // A96
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			wire := &wireAS{serve: func(conn net.Conn) {
				readRequest(conn)
				_, _ = io.WriteString(conn, tc.bytes)
			}}
			m := must(phantom.New(wireOptions(t, as, wire)...))
			if got := as.try(m, "tok"); got != tc.want {
				t.Errorf("outcome %s, want %s\n%s", got, tc.want, as.logs.String())
			}
			if got := wire.conns.Load(); got != 1 {
				t.Errorf("%d connections", got)
			}
		})
	}
}

// The default transport bounds what it reads before the body, and the rest of
// an endless body is not read.
//
// Catalogue: A90, A106.
func TestFloodIsCutOff(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	const okChunked = ok + "Content-Type: application/jwt\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tc := range []struct {
		name, want string
		head       string // what the answer begins with
		more       string // what is written again and again, until that fails
	}{
		{"interim answers", code503A, "", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </"+strings.Repeat("x", 200)+">\r\n\r\n", 10)},
		{"header fields", code503A, ok, strings.Repeat("X-Field: "+strings.Repeat("x", 1000)+"\r\n", 10)},
		{"body without end", code502A, okChunked, "400\r\n" + strings.Repeat("x", 1024) + "\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			written := make(chan int64, 10)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				counter := &countingWriter{w: conn}
				defer func() { written <- counter.n }()
				_, _ = io.WriteString(conn, tc.head)
				for counter.n < 20<<20 && err == nil {
					_, err = io.WriteString(counter, tc.more)
				}
			}))
			defer server.Close()
			m := must(phantom.New(
				phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithClientAuth(phantom.NoClientAuth()),
				phantom.WithIntrospectionEndpoint(server.URL), staticES256(), phantom.WithTimeout(time.Minute),
			))
			if got := as.try(m, "tok"); got != tc.want {
				t.Errorf("outcome %s, want %s", got, tc.want)
			}
			// The client hung up long before the end. What is on the way in the
			// buffers of the system is not known, but bounded.
			if n := <-written; n >= 20<<20 {
				t.Errorf("all of %d bytes were taken", n)
			}
			if len(written) > 0 {
				t.Error("asked again after an answer had begun")
			}
		})
	}
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
