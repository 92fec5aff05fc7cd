package conformance_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
)

// drain is an outer handler that reads what is left of the body.
func drain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		io.Copy(io.Discard, r.Body)
	})
}

// An unreadBody is a request that announces a body and then keeps it back.
type unreadBody struct{ name, request string }

// unreadBodies are the ways to do that in HTTP/1.1 and HTTP/1.0.
var unreadBodies = []unreadBody{
	{"length, no body", "POST /orders HTTP/1.1\r\nHost: rs.test\r\nContent-Length: 100\r\n%"},
	{"a part of the length", "POST /orders HTTP/1.1\r\nHost: rs.test\r\nContent-Length: 100\r\n%drip"},
	{"a part of the chunks", "POST /orders HTTP/1.1\r\nHost: rs.test\r\nTransfer-Encoding: chunked\r\n%4\r\ndrip\r\n"},
	{"a part of a chunk", "POST /orders HTTP/1.1\r\nHost: rs.test\r\nTransfer-Encoding: chunked\r\n%400\r\ndrip"},
	{"a GET with a body", "GET /orders HTTP/1.1\r\nHost: rs.test\r\nContent-Length: 100\r\n%"},
	{"keep-alive of HTTP/1.0", "POST /orders HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 100\r\n%"},
}

// with returns the bytes of the request with the given fields.
func (u unreadBody) with(fields string) string {
	return strings.Replace(u.request, "%", fields+"\r\n", 1)
}

// fields returns what the client sends in the setup.
func (s rejectedSetup) fields() string {
	if len(s.authorization) == 0 {
		return ""
	}
	return "Authorization: " + s.authorization[0] + "\r\n"
}

// ended closes our half of the connection and sees the server close the other.
func ended(t *testing.T, conn net.Conn, in *bufio.Reader) {
	t.Helper()
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("the connection stays open: %v", err)
	}
}

// A rejection does not wait for the body of the request. It is on the wire at
// once, whole, and says that the connection ends.
//
// Catalogue: Q1.
func TestRejectionDoesNotWaitForTheBody(t *testing.T) {
	for _, s := range rejectedSetups {
		for _, body := range unreadBodies {
			t.Run(s.code+"/"+body.name, func(t *testing.T) {
				as := s.server(t)
				conn, in := dial(t, as.middleware(s.options...).Handler(&spy{}))
				must(io.WriteString(conn, body.with(s.fields())))
				resp := must(http.ReadResponse(in, nil)) // it knows what Connection says
				rec := record(t, resp)
				delete(rec.Header(), "Date")
				delete(rec.Header(), "Connection")
				if !resp.Close {
					t.Error("the answer does not end the connection")
				}
				checkRejection(t, rec, s.code, false)
				ended(t, conn, in)
			})
		}
	}
}

// What an error handler or an outer handler does to the answer or to the body
// does not hold the rejection back either.
//
// Catalogue: Q1.
func TestRejectionIsSentWhateverOthersDo(t *testing.T) {
	for _, tc := range []struct {
		name    string
		handler phantom.ErrorHandler // nil: none
		body    string
	}{
		{"no error handler", nil, rejections[code401T].body(code401T)},
		{"nothing", func(http.ResponseWriter, *http.Request, *phantom.Error) {}, rejections[code401T].body(code401T)},
		{"a body", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { io.WriteString(w, "go away") }, "go away"},
		{"http.Error", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
			http.Error(w, "go away", e.StatusCode())
		}, "go away"},
		{"header lost", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			clear(w.Header())
			io.WriteString(w, "go away")
		}, "go away"},
		{"header lost, nothing written", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			clear(w.Header())
		}, rejections[code401T].body(code401T)},
		{"keep-alive", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			w.Header().Set("Connection", "keep-alive")
			io.WriteString(w, "go away")
		}, "go away"},
		{"a panic", func(http.ResponseWriter, *http.Request, *phantom.Error) { panic("handler") }, rejections[code500I].body(code500I)},
	} {
		for _, outer := range []mounting{
			{"alone", func(h http.Handler) http.Handler { return h }},
			{"inside a handler that drains", drain},
		} {
			t.Run(tc.name+"/"+outer.name, func(t *testing.T) {
				as := newAS(t)
				as.introspect = answer(204, "", "")
				var options []phantom.Option
				if tc.handler != nil {
					options = append(options, phantom.WithErrorHandler(tc.handler))
				}
				conn, in := dial(t, outer.wrap(as.middleware(options...).Handler(&spy{})))
				must(io.WriteString(conn, unreadBodies[3].with("Authorization: Bearer opaque-token\r\n")))
				resp := must(http.ReadResponse(in, nil))
				if !resp.Close || resp.StatusCode != 401 && tc.name != "a panic" {
					t.Errorf("%s, to be closed: %v", resp.Status, resp.Close)
				}
				got := make([]byte, len(tc.body))
				if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != tc.body {
					t.Errorf("%q, %v", got, err)
				}
				if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
					t.Error(err)
				}
				if rest, err := io.ReadAll(in); err != nil {
					t.Errorf("the connection stays open: %q, %v", rest, err)
				}
			})
		}
	}
}

// A connection on which nothing is left to read serves the next request.
//
// Catalogue: Q1.
func TestRejectionKeepsAConnectionWithoutABody(t *testing.T) {
	as := newAS(t)
	conn, in := dial(t, drain(as.middleware().Handler(&spy{})))
	for _, request := range []string{
		"GET /orders HTTP/1.1\r\nHost: rs.test\r\n\r\n",
		"POST /orders HTTP/1.1\r\nHost: rs.test\r\nContent-Length: 0\r\n\r\n",
		"DELETE /orders HTTP/1.1\r\nHost: rs.test\r\nAuthorization: Bearer a b\r\n\r\n",
		"POST /orders HTTP/1.1\r\nHost: rs.test\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
		"GET /orders HTTP/1.1\r\nHost: rs.test\r\n\r\n",
	} {
		must(io.WriteString(conn, request))
		resp := must(http.ReadResponse(in, nil))
		if got := record(t, resp); resp.Close || got.Code/100 != 4 {
			t.Errorf("%s: %s, to be closed: %v", request[:8], resp.Status, resp.Close)
		}
	}
}

// Over HTTP/2 a rejection ends its own stream. The connection serves the next
// request.
//
// Catalogue: Q1.
func TestRejectionOverHTTP2KeepsTheConnection(t *testing.T) {
	as := newAS(t)
	for _, outer := range []mounting{
		{"alone", func(h http.Handler) http.Handler { return h }},
		{"inside a handler that drains", drain},
	} {
		srv := startHTTP2(t, outer.wrap(as.middleware().Handler(&spy{})))
		for i := range 3 {
			reused := false
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused },
			})
			body, upload := io.Pipe() // nothing is ever written to it
			r := must(http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, body))
			resp := must(srv.Client().Transport.RoundTrip(r))
			got := must(io.ReadAll(io.LimitReader(resp.Body, int64(len(rejections[code401N].body(code401N))))))
			if resp.StatusCode != 401 || string(got) != rejections[code401N].body(code401N) || resp.Header["Connection"] != nil {
				t.Errorf("%s: %s %v %q", outer.name, resp.Status, resp.Header, got)
			}
			if reused != (i > 0) {
				t.Errorf("%s: request %d on a connection that was used before: %v", outer.name, i, reused)
			}
			upload.Close()
			resp.Body.Close()
		}
	}
}

// In memory there is no connection, and no wrong to flush what cannot be.
//
// Catalogue: Q1.
func TestRejectionOfABodyWithoutAFlusher(t *testing.T) {
	as := newAS(t)
	r := httptest.NewRequest(http.MethodPost, "https://rs.test/orders", strings.NewReader("body"))
	rec := httptest.NewRecorder()
	as.middleware().Handler(&spy{}).ServeHTTP(struct{ http.ResponseWriter }{rec}, r)
	if got := rec.Header()["Connection"]; len(got) != 1 || got[0] != "close" {
		t.Errorf("Connection %q", got)
	}
	delete(rec.Header(), "Connection")
	checkRejection(t, rec, code401N, false)
	if rest := string(must(io.ReadAll(r.Body))); rest != "body" {
		t.Errorf("%q is left of the body", rest)
	}
}
