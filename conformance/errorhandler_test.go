package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// An errorHandlerCase is something that an error handler can do, and what the
// client gets to see of it.
type errorHandlerCase struct {
	name    string
	handler phantom.ErrorHandler
	status  int         // 0: that of the rejection
	body    string      // "default": that of the rejection
	header  http.Header // beside what each rejection has
}

// problemType is the type of the default body.
var problemType = http.Header{"Content-Type": {"application/problem+json"}}

// errorHandlers are what a handler can do, one step after the other.
var errorHandlers = []errorHandlerCase{
	{"nothing", func(http.ResponseWriter, *http.Request, *phantom.Error) {}, 0, "default", problemType},
	{"header only", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Length", "3")
		w.Header().Set("X-Own", "1")
	}, 0, "default", http.Header{"Content-Type": {"application/problem+json"}, "X-Own": {"1"}}},
	{"header lost, nothing written", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { clear(w.Header()) }, 0, "default", problemType},
	{"body only", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		io.WriteString(w, "go ")
		io.WriteString(w, "away")
	}, 0, "go away", nil},
	{"empty body", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { w.Write(nil) }, 0, "", nil},
	{"copied body", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		io.Copy(w, strings.NewReader("go away"))
	}, 0, "go away", nil},
	{"its status", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) { w.WriteHeader(e.StatusCode()) }, 0, "", nil},
	{"status and body", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(e.StatusCode())
		io.WriteString(w, "go away")
	}, 0, "go away", http.Header{"Content-Type": {"text/plain"}}},
	{"http.Error", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
		http.Error(w, "go away", e.StatusCode())
	}, 0, "go away\n",
		http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "X-Content-Type-Options": {"nosniff"}}},
	{"status of its own", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { w.WriteHeader(418) }, 418, "", nil},
	{"200", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		w.WriteHeader(200)
		io.WriteString(w, `{"errors":[]}`)
	}, 0, `{"errors":[]}`, nil},
	{"a page", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", "bytes=0-1")
		http.ServeContent(w, r, "401.txt", time.Time{}, strings.NewReader("go away"))
	}, 0, "go", http.Header{
		"Content-Type":  {"text/plain; charset=utf-8"},
		"Accept-Ranges": {"bytes"}, "Content-Range": {"bytes 0-1/7"},
	}},
	{"101", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { w.WriteHeader(101) }, 0, "", nil},
	{"to be kept", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
		w.Header().Set("Cache-Control", "public, max-age=60")
		w.WriteHeader(e.StatusCode())
	}, 0, "", nil},
	{"an empty challenge", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
		if len(w.Header()["Www-Authenticate"]) > 0 {
			w.Header().Set("WWW-Authenticate", "")
		}
		w.WriteHeader(e.StatusCode())
	}, 0, "", nil},
	{"304", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { w.WriteHeader(304) }, 0, "", nil},
	{"a redirection", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		w.Header().Set("Location", "/login")
		w.WriteHeader(303)
	}, 303, "", http.Header{"Location": {"/login"}}},
	{"header lost", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
		clear(w.Header())
		w.WriteHeader(e.StatusCode())
	}, 0, "", nil},
	{"header lost, body only", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		clear(w.Header())
		io.WriteString(w, "go away")
	}, 0, "go away", nil},
	{"two statuses", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		w.WriteHeader(418)
		w.WriteHeader(200)
	}, 418, "", nil},
	{"flush, then a body", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		http.NewResponseController(w).Flush()
		io.WriteString(w, "go away")
	}, 0, "go away", nil},
	{"flush only", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { http.NewResponseController(w).Flush() }, 0, "", nil},
	{"a field of its own", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
		w.Header().Set("X-Own", "1")
		w.WriteHeader(e.StatusCode())
	}, 0, "", http.Header{"X-Own": {"1"}}},
	{"a changed error", func(_ http.ResponseWriter, _ *http.Request, e *phantom.Error) {
		*e = phantom.Error{Reason: phantom.ReasonInternal}
	}, 0, "default", problemType},
	{"another time to come again", func(_ http.ResponseWriter, _ *http.Request, e *phantom.Error) { e.RetryAfter = time.Hour }, 0, "default", problemType},
}

// An error handler may do any of these things. The client still learns that the
// request was rejected, and no cache keeps the answer.
func TestErrorHandler(t *testing.T) {
	for _, tc := range errorHandlers {
		for _, s := range rejectedSetups {
			t.Run(tc.name+"/"+s.code, func(t *testing.T) { tc.check(t, s) })
		}
	}
}

// check has a request rejected and compares the whole answer.
func (tc errorHandlerCase) check(t *testing.T, s rejectedSetup) {
	as := newAS(t)
	as.introspect = s.introspect
	want := rejections[s.code]
	next := &spy{}
	handler := func(w http.ResponseWriter, r *http.Request, e *phantom.Error) {
		got := w.Header()
		if got.Get("Cache-Control") != "no-store" || got.Get("Www-Authenticate") != want.challenge ||
			got.Get("Retry-After") != want.retryAfter {
			t.Errorf("the handler was given %v", got)
		}
		if fmt.Sprint(e.StatusCode()) != s.code[:3] || r.URL.Path != "/orders" {
			t.Errorf("the handler was given %v for %v", e, r.URL)
		}
		tc.handler(w, r, e)
	}
	m := as.middleware(append(s.options, phantom.WithErrorHandler(handler))...)
	rec := serve(m.Handler(next), get(s.authorization...))
	if next.calls() != 0 {
		t.Error("next ran")
	}
	status, header, body := tc.want(s)
	got := rec.Result()
	delete(got.Header, "Content-Length")
	if body != tc.body {
		got.Header = rec.Header()
	}
	if got.Header.Get("Content-Type") == "text/plain; charset=utf-8" && header["Content-Type"] == nil {
		delete(got.Header, "Content-Type") // sniffed by the recorder
	}
	if fmt.Sprint(rec.Code) != status || fmt.Sprint(got.Header) != fmt.Sprint(header) || rec.Body.String() != body {
		t.Errorf("got  %d %v %q\nwant %s %v %q", rec.Code, got.Header, rec.Body, status, header, body)
	}
}

// want returns the answer that the client gets.
func (tc errorHandlerCase) want(s rejectedSetup) (status string, header http.Header, body string) {
	want := rejections[s.code]
	header = http.Header{"Cache-Control": {"no-store"}}
	maps.Copy(header, tc.header)
	if want.challenge != "" {
		header["Www-Authenticate"] = []string{want.challenge}
	}
	if want.retryAfter != "" {
		header["Retry-After"] = []string{want.retryAfter}
	}
	body, status = tc.body, fmt.Sprint(tc.status)
	if body == "default" {
		body = want.body(s.code)
		header["Content-Length"] = []string{fmt.Sprint(len(body))}
	}
	if tc.status == 0 {
		status = s.code[:3]
	}
	return status, header, body
}

// An error handler that sets challenges of its own sends them beside ours. An
// answer that had none is left with the handler's.
//
// Catalogue: Q4.
func TestErrorHandlerThatSetsAChallenge(t *testing.T) {
	const basic, digest = `Basic realm="api"`, `Digest realm="api"`
	for _, tc := range []struct {
		name  string
		set   func(h http.Header)
		added []string
	}{
		{"another one", func(h http.Header) { h.Set("WWW-Authenticate", basic) }, []string{basic}},
		{"one beside it", func(h http.Header) { h.Add("WWW-Authenticate", basic) }, []string{basic}},
		{"two others", func(h http.Header) { h["Www-Authenticate"] = []string{basic, digest} }, []string{basic, digest}},
		{"before it", func(h http.Header) {
			h["Www-Authenticate"] = append([]string{basic}, h["Www-Authenticate"]...)
		}, []string{basic}},
		{"over it", func(h http.Header) {
			if values := h["Www-Authenticate"]; len(values) > 0 {
				values[0] = basic
			}
			h.Set("WWW-Authenticate", basic)
		}, []string{basic}},
		{"another Bearer", func(h http.Header) { h.Set("WWW-Authenticate", `Bearer realm="mine"`) }, []string{`Bearer realm="mine"`}},
	} {
		for _, answer := range []struct {
			name  string
			write func(w http.ResponseWriter, e *phantom.Error)
		}{
			{"status", func(w http.ResponseWriter, e *phantom.Error) { w.WriteHeader(e.StatusCode()) }},
			{"body", func(w http.ResponseWriter, _ *phantom.Error) { io.WriteString(w, "go away") }},
			{"flush", func(w http.ResponseWriter, _ *phantom.Error) { http.NewResponseController(w).Flush() }},
			{"nothing", func(http.ResponseWriter, *phantom.Error) {}},
		} {
			for _, s := range rejectedSetups {
				as := s.server(t)
				handler := func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
					tc.set(w.Header())
					answer.write(w, e)
				}
				m := as.middleware(append(s.options, phantom.WithErrorHandler(handler))...)
				rec := serve(m.Handler(&spy{}), get(s.authorization...))
				want := tc.added
				if ours := rejections[s.code].challenge; ours != "" {
					want = append([]string{ours}, tc.added...)
				} else if answer.name == "nothing" {
					want = nil // the default answer of a 5xx has none
				}
				if got := rec.Result().Header["Www-Authenticate"]; !slices.Equal(got, want) || fmt.Sprint(rec.Code) != s.code[:3] {
					t.Errorf("%s, %s, %s: %d %q, want %q", tc.name, answer.name, s.code, rec.Code, got, want)
				}
			}
		}
	}
}

// An error handler gets no way around its writer, to the connection or to the
// server's own writer.
//
// Catalogue: Q4.
func TestErrorHandlerCannotTakeTheConnection(t *testing.T) {
	as := newAS(t)
	handler := func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			conn.Close()
		}
		if _, ok := w.(http.Hijacker); ok {
			t.Error("the writer can be hijacked")
		}
		if _, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
			t.Error("the writer can be unwrapped")
		}
		rc, far := http.NewResponseController(w), time.Now().Add(time.Hour)
		if err := errors.Join(rc.SetReadDeadline(far), rc.SetWriteDeadline(far), rc.EnableFullDuplex()); err != nil {
			t.Error(err)
		}
	}
	rec := exchange(t, as.middleware(phantom.WithErrorHandler(handler)).Handler(&spy{}),
		"GET / HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n")
	delete(rec.Header(), "Date")
	delete(rec.Header(), "Connection")
	checkRejection(t, rec, code401N, false)
}

// Each error handler has an Error of its own. What it does to that one reaches
// neither another request nor the Error of the requirement or Introspector.
//
// Catalogue: Q5.
func TestErrorHandlerOwnsItsError(t *testing.T) {
	refusal := &phantom.Error{
		Reason: phantom.ReasonScope, Status: 401, Code: "insufficient_user_authentication",
		Scopes: []string{"admin"}, Params: map[string]string{"acr_values": "mfa"},
	}
	const challenge = `Bearer realm="api", error="insufficient_user_authentication", scope="admin", acr_values="mfa"`
	spoil := func(e *phantom.Error) {
		e.Scopes[0] = "evil"
		e.Params["acr_values"], e.Params["evil"] = "evil", "1"
	}
	for _, tc := range []struct {
		name   string
		option phantom.Option
	}{
		{"requirement", phantom.WithRequirements(func(*phantom.Token) error { return refusal })},
		{"wrapped", phantom.WithRequirements(func(*phantom.Token) error { return fmt.Errorf("no: %w", refusal) })},
		{"extractor", phantom.WithTokenExtractor(func(*http.Request) (string, error) { return "", refusal })},
	} {
		as := newAS(t)
		handler := phantom.WithErrorHandler(func(_ http.ResponseWriter, _ *http.Request, e *phantom.Error) { spoil(e) })
		m := as.middleware(tc.option, handler)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					rec := serve(m.Handler(&spy{}), get("Bearer opaque-token"))
					if got := rec.Header()["Www-Authenticate"]; !slices.Equal(got, []string{challenge}) {
						t.Errorf("%s: challenge %q", tc.name, got)
					}
					_, err := m.Authenticate(get("Bearer opaque-token"))
					var own *phantom.Error
					if !errors.As(err, &own) {
						t.Errorf("%s: %v", tc.name, err)
						return
					}
					spoil(own)
				}
			})
		}
		wg.Wait()
	}
	if len(refusal.Params) != 1 || refusal.Params["acr_values"] != "mfa" || refusal.Scopes[0] != "admin" {
		t.Errorf("the requirement's own Error became %v %v", refusal.Params, refusal.Scopes)
	}
}

// An outer handler announces the length of the answer it expects. The error
// handler's own text arrives whole all the same.
func TestErrorHandlerBehindALength(t *testing.T) {
	as := newAS(t)
	h := as.middleware(phantom.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		io.WriteString(w, "go away")
	})).Handler(&spy{})
	rec := exchange(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "3")
		h.ServeHTTP(w, r)
	}), "GET / HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n")
	if rec.Code != http.StatusUnauthorized || rec.Body.String() != "go away" {
		t.Errorf("%d %q", rec.Code, rec.Body)
	}
}

// An error handler that flushes or sends an early hint still rejects. Here the
// connection is real, so both go out at once.
func TestErrorHandlerOverASocket(t *testing.T) {
	for _, tc := range []struct {
		name    string
		handler phantom.ErrorHandler
	}{
		{"nothing", func(http.ResponseWriter, *http.Request, *phantom.Error) {}},
		{"flush, then a body", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			io.WriteString(w, "go away")
		}},
		{"deadline, then a body", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
				t.Error(err)
			}
			io.WriteString(w, "go away")
		}},
		{"early hints only", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { w.WriteHeader(103) }},
		{"early hints, then a body", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			w.WriteHeader(103)
			io.WriteString(w, "go away")
		}},
		{"copied file", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			io.Copy(w, io.LimitReader(neverEnding('x'), 1<<16))
		}},
		{"panic", func(http.ResponseWriter, *http.Request, *phantom.Error) { panic("handler") }},
		{"early hints, then a panic", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			w.WriteHeader(103)
			panic("handler")
		}},
	} {
		as := newAS(t)
		conn, in := dial(t, as.middleware(phantom.WithErrorHandler(tc.handler)).Handler(&spy{}))
		must(io.WriteString(conn, "GET / HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n"))
		resp := must(http.ReadResponse(in, nil))
		for resp.StatusCode < 200 {
			resp = must(http.ReadResponse(in, nil))
		}
		want := http.StatusUnauthorized
		if strings.HasSuffix(tc.name, "panic") {
			want = http.StatusInternalServerError
		}
		challenged := resp.Header.Get("Www-Authenticate") != ""
		if resp.StatusCode != want || resp.Header.Get("Cache-Control") != "no-store" || challenged != (want == 401) {
			t.Errorf("%s: %d %v", tc.name, resp.StatusCode, resp.Header)
		}
	}
}

// A neverEnding body repeats one byte.
type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

// A panic of the error handler becomes a plain 500. If the answer has begun or
// the value is ErrAbortHandler, the server aborts the connection.
func TestErrorHandlerThatPanics(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before func(http.ResponseWriter)
		value  any
		passes bool
	}{
		{"at once", func(http.ResponseWriter) {}, "a secret value", false},
		{"with an error", func(http.ResponseWriter) {}, errors.New("a secret value"), false},
		{"with nil", func(http.ResponseWriter) {}, nil, false},
		{"after a header", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "7") }, "a secret value", false},
		{"to abort", func(http.ResponseWriter) {}, http.ErrAbortHandler, true},
		{"to abort, after a part", func(w http.ResponseWriter) { io.WriteString(w, "part") }, http.ErrAbortHandler, true},
		{"after a status", func(w http.ResponseWriter) { w.WriteHeader(401) }, "a secret value", true},
		{"after a part", func(w http.ResponseWriter) { io.WriteString(w, "part") }, "a secret value", true},
	} {
		for _, s := range rejectedSetups {
			t.Run(tc.name+"/"+s.code, func(t *testing.T) {
				as := newAS(t)
				as.secret("a secret value")
				as.introspect = s.introspect
				next := &spy{}
				handler := func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
					tc.before(w)
					panic(tc.value)
				}
				h := as.middleware(append(s.options, phantom.WithErrorHandler(handler))...).Handler(next)
				rec := httptest.NewRecorder()
				func() {
					defer func() {
						if p := recover(); (p != nil) != tc.passes || tc.passes && p != tc.value {
							t.Errorf("the panic came out as %v", p)
						}
					}()
					h.ServeHTTP(rec, get(s.authorization...))
				}()
				if next.calls() != 0 {
					t.Error("next ran")
				}
				if tc.passes {
					return // the server aborts the connection
				}
				checkRejection(t, rec, code500I, false)
				as.checkLog("level=ERROR", "reason=internal", "status=500", "errorhandler_test.go")
			})
		}
	}
}

// A logger that panics lets no request through. The panic itself goes to the
// server, for there is no log left to write it to.
func TestLoggerThatPanics(t *testing.T) {
	as := newAS(t)
	m := as.middleware(phantom.WithLogger(slog.New(panickingHandler{})))
	for _, authorization := range []string{"Bearer opaque-token", "Bearer a b", "Basic Zm9v"} {
		next := &spy{}
		rec := httptest.NewRecorder()
		func() {
			defer func() { _ = recover() }()
			m.Handler(next).ServeHTTP(rec, get(authorization))
		}()
		if next.calls() != 0 || rec.Body.String() == "served" {
			t.Errorf("%s: next ran", authorization)
		}
	}
}

// A panickingHandler is a log on a full disk.
type panickingHandler struct{ slog.Handler }

func (panickingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (panickingHandler) Handle(context.Context, slog.Record) error { panic("disk full") }

// An error handler that writes a status that is none is a hook that panics: the
// client gets the default answer.
func TestErrorHandlerThatWritesNoStatus(t *testing.T) {
	for _, status := range []int{-1, 0, 1000, 1 << 20} {
		as := newAS(t)
		m := as.middleware(phantom.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			w.WriteHeader(status)
		}))
		if got := as.send(m.Handler, get()); got != code500I {
			t.Errorf("%d: %s", status, got)
		}
	}
}
