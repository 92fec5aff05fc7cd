package conformance_test

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A wire brings the request of a case to a handler.
type wire struct {
	name  string
	carry func(t *testing.T, h http.Handler, c requestCase) *httptest.ResponseRecorder
}

// wires are the versions of HTTP, and no HTTP at all.
var wires = []wire{{"memory", inMemory}, {"HTTP 1.1", overHTTP1}, {"HTTP 2", overHTTP2}}

// inMemory calls the handler.
func inMemory(_ *testing.T, h http.Handler, c requestCase) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "https://rs.test"+c.uri(), nil)
	r.Header = c.header()
	return serve(h, r)
}

// overHTTP1 writes the bytes of an HTTP/1.1 request to a socket.
func overHTTP1(t *testing.T, h http.Handler, c requestCase) *httptest.ResponseRecorder {
	var b strings.Builder
	b.WriteString("GET " + c.uri() + " HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n")
	for _, field := range c.fields {
		b.WriteString(field + "\r\n")
	}
	return exchange(t, h, b.String()+"\r\n")
}

// overHTTP2 sends the request with a client that speaks HTTP/2 only.
func overHTTP2(t *testing.T, h http.Handler, c requestCase) *httptest.ResponseRecorder {
	srv := startHTTP2(t, h)
	target := must(url.ParseRequestURI(c.uri()))
	target.Scheme, target.Host = "https", srv.Listener.Addr().String()
	return roundTrip(t, srv, &http.Request{Method: http.MethodGet, URL: target, Header: c.header()})
}

// startHTTP2 starts a server whose client speaks HTTP/2 only.
func startHTTP2(t *testing.T, h http.Handler) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// roundTrip sends r to srv over HTTP/2 and reads the answer.
func roundTrip(t *testing.T, srv *httptest.Server, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	resp, err := srv.Client().Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.ProtoMajor != 2 {
		t.Fatalf("the answer came over %s", resp.Proto)
	}
	return record(t, resp)
}

// record reads a whole answer.
func record(t *testing.T, resp *http.Response) *httptest.ResponseRecorder {
	t.Helper()
	defer resp.Body.Close()
	rec := httptest.NewRecorder()
	rec.Code = resp.StatusCode
	maps.Copy(rec.Header(), resp.Header)
	if _, err := io.Copy(rec.Body, resp.Body); err != nil {
		t.Fatal(err)
	}
	return rec
}

// dial starts a server and connects to it. The deadline is far off: it only
// ends a test that hangs.
func dial(t *testing.T, h http.Handler) (net.Conn, *bufio.Reader) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn, bufio.NewReader(conn)
}

// exchange sends the bytes of a request as they are and reads the answer.
func exchange(t *testing.T, h http.Handler, request string) *httptest.ResponseRecorder {
	t.Helper()
	conn, in := dial(t, h)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return record(t, resp)
}
