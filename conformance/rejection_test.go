package conformance_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/phantom-token/phantom"
)

// rejections are the whole answers by their outcome code, without the status
// line and the date.
var rejections = map[string]rejectedAnswer{
	code400R: {challenges[code400R], "", "Bad Request", "The bearer token is malformed or sent more than once."},
	code401N: {challenges[code401N], "", "Unauthorized", "A bearer token is required."},
	code401T: {challenges[code401T], "", "Unauthorized", "The token is expired, revoked or not valid here."},
	code403S: {
		`Bearer realm="api", error="insufficient_scope", scope="admin"`, "",
		"Forbidden", "The token does not permit this request.",
	},
	code500I: {"", "", "Internal Server Error", "The token could not be checked."},
	code502A: {"", "", "Bad Gateway", "The token could not be checked."},
	code503A: {"", "1", "Service Unavailable", "The token cannot be checked right now."},
}

// A rejectedAnswer is the answer of a rejection.
type rejectedAnswer struct {
	challenge, retryAfter, title, detail string
}

// body returns the body of the answer with an outcome code.
func (r rejectedAnswer) body(code string) string {
	return fmt.Sprintf(`{"type":"about:blank","title":%q,"status":%s,"detail":%q}`, r.title, code[:3], r.detail)
}

// checkRejection compares a whole answer with what its outcome code promises.
func checkRejection(t *testing.T, rec *httptest.ResponseRecorder, code string, head bool) {
	t.Helper()
	want := rejections[code]
	body := want.body(code)
	header := http.Header{
		"Cache-Control":  {"no-store"},
		"Content-Type":   {"application/problem+json"},
		"Content-Length": {fmt.Sprint(len(body))},
	}
	if want.challenge != "" {
		header["Www-Authenticate"] = []string{want.challenge}
	}
	if want.retryAfter != "" {
		header["Retry-After"] = []string{want.retryAfter}
	}
	if head {
		body = ""
	}
	if fmt.Sprint(rec.Code) != code[:3] || fmt.Sprint(rec.Header()) != fmt.Sprint(header) || rec.Body.String() != body {
		t.Errorf("got  %d %v %s\nwant %s %v %s", rec.Code, rec.Header(), rec.Body, code, header, body)
	}
}

// checkLog checks that there is one line in the log, which has all the parts.
func (as *fakeAS) checkLog(parts ...string) {
	as.tb.Helper()
	log := as.logs.String()
	missing := func(part string) bool { return !strings.Contains(log, part) }
	if strings.Count(log, "\n") != 1 || slices.ContainsFunc(parts, missing) {
		as.tb.Errorf("the log is not one line with %q:\n%s", parts, log)
	}
}

// A rejectedSetup is one way to an outcome code: what the client sends, what
// the server answers, and the options of the Middleware.
type rejectedSetup struct {
	code          string
	authorization []string
	introspect    http.HandlerFunc // nil: a good JWT
	options       []phantom.Option
	log           []string // what the one line says
}

// rejectedSetups have one way to each rejection.
var rejectedSetups = []rejectedSetup{
	{
		code:          code400R,
		authorization: []string{"Bearer opaque token"},
		log:           []string{"level=DEBUG", "reason=malformed_request", "status=400", `detail="not a b64token"`},
	},
	{
		code: code401N,
		log:  []string{"level=DEBUG", "reason=no_credentials", "status=401"},
	},
	{
		code:          code401T,
		authorization: []string{"Bearer opaque-token"},
		introspect:    answer(204, "", ""),
		log:           []string{"level=DEBUG", "reason=inactive", "status=401"},
	},
	{
		code:          code403S,
		authorization: []string{"Bearer opaque-token"},
		options:       []phantom.Option{phantom.WithRequirements(phantom.AllScopes("admin"))},
		log:           []string{"level=DEBUG", "reason=scope", "status=403"},
	},
	{
		code:          code500I,
		authorization: []string{"Bearer opaque-token"},
		options: []phantom.Option{
			phantom.WithRequirements(func(tok *phantom.Token) error { panic(tok.JWT()) }),
		},
		log: []string{"level=ERROR", "reason=internal", "status=500", `stack="goroutine `},
	},
	{
		code:          code502A,
		authorization: []string{"Bearer opaque-token"},
		introspect:    answer(404, "text/html", "<h1>opaque-token</h1>"),
		log:           []string{"level=ERROR", "reason=as_protocol", "status=502", `detail="status 404"`},
	},
	{
		code:          code503A,
		authorization: []string{"Bearer opaque-token"},
		introspect:    answer(500, "text/html", "<h1>opaque-token</h1>"),
		log:           []string{"level=ERROR", "reason=as_unavailable", "status=503", `detail="status 500"`},
	},
}

// server starts the server of the setup, which keeps all tokens secret.
func (s rejectedSetup) server(t *testing.T) *fakeAS {
	as := newAS(t)
	as.secret("opaque-token")
	jwt := as.secret(mint("ES256", claims(nil)))
	if as.introspect = s.introspect; as.introspect == nil {
		as.introspect = answerJWT(jwt)
	}
	return as
}

// A rejection is the same to the byte, however the client asks. Nothing that an
// outer handler said of the answer it expected changes it.
//
// Catalogue: R37, P70.
func TestRejections(t *testing.T) {
	for _, s := range rejectedSetups {
		for _, tc := range []struct {
			name, method string
			header       http.Header
			outer        http.Header
		}{
			{name: "GET", method: http.MethodGet},
			{name: "HEAD", method: http.MethodHead},
			{name: "POST", method: http.MethodPost},
			{name: "OPTIONS", method: http.MethodOptions},
			{name: "Range", method: http.MethodGet, header: http.Header{"Range": {"bytes=0-3"}, "If-Range": {`"x"`}}},
			{name: "If-None-Match", method: http.MethodGet, header: http.Header{
				"If-None-Match": {"*"}, "If-Modified-Since": {"Sat, 29 Oct 2044 19:43:31 GMT"}, "Cache-Control": {"only-if-cached"},
			}},
			{name: "Accept-Encoding", method: http.MethodGet, header: http.Header{"Accept-Encoding": {"gzip"}, "Te": {"gzip"}}},
			{name: "Accept", method: http.MethodGet, header: http.Header{"Accept": {"text/html"}, "Accept-Language": {"de"}}},
			{name: "fields of an outer handler", method: http.MethodGet, outer: http.Header{
				"Cache-Control": {"public, max-age=3600"}, "Etag": {`"x"`}, "Last-Modified": {"Sat, 29 Oct 1994 19:43:31 GMT"},
				"Expires": {"Sat, 29 Oct 2044 19:43:31 GMT"}, "Content-Length": {"3"},
				"Content-Type": {"text/html"}, "Accept-Ranges": {"bytes"}, "Retry-After": {"99"}, "Www-Authenticate": {"Basic", "Foo"},
			}},
		} {
			t.Run(s.code+"/"+tc.name, func(t *testing.T) {
				as := s.server(t)
				next := &spy{}
				r := httptest.NewRequest(tc.method, "https://rs.test/orders", nil)
				for name, values := range tc.header {
					r.Header[name] = values
				}
				r.Header["Authorization"] = s.authorization
				rec := httptest.NewRecorder()
				for name, values := range tc.outer {
					rec.Header()[name] = values
				}
				as.middleware(s.options...).Handler(next).ServeHTTP(rec, r)
				if next.calls() != 0 {
					t.Error("next ran")
				}
				checkRejection(t, rec, s.code, tc.method == http.MethodHead)
				if found := as.leaks(rec.Body.String() + fmt.Sprint(rec.Header())); len(found) > 0 {
					t.Errorf("secrets in the answer: %q", found)
				}
			})
		}
	}
}

// A gzipWriter compresses as widespread middlewares do: it announces that
// before the inner handler runs.
type gzipWriter struct {
	http.ResponseWriter
	body *gzip.Writer
}

func (g *gzipWriter) WriteHeader(status int) {
	g.Header().Del("Content-Length")
	g.ResponseWriter.WriteHeader(status)
}

func (g *gzipWriter) Write(p []byte) (int, error) { return g.body.Write(p) }

// An outer handler that compresses gets a rejection it can compress.
//
// Catalogue: P70.
func TestRejectionInsideACompressor(t *testing.T) {
	as := newAS(t)
	h := as.middleware().Handler(&spy{})
	rec := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		body := gzip.NewWriter(w)
		defer body.Close()
		h.ServeHTTP(&gzipWriter{w, body}, r)
	}), get())
	if got := rec.Header().Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("Content-Encoding %q of a compressed body", got)
	}
	plain := httptest.NewRecorder()
	plain.Code = rec.Code
	plain.Body.Write(must(io.ReadAll(must(gzip.NewReader(rec.Body)))))
	maps.Copy(plain.Header(), rec.Header())
	plain.Header().Del("Content-Encoding")
	plain.Header().Set("Content-Length", fmt.Sprint(plain.Body.Len()))
	checkRejection(t, plain, code401N, false)
}

// Each rejection writes one log line, with its reason and status and without a
// secret.
func TestRejectionIsOneLogLine(t *testing.T) {
	for _, s := range rejectedSetups {
		t.Run(s.code, func(t *testing.T) {
			as := s.server(t)
			if got := as.send(as.middleware(s.options...).Handler, get(s.authorization...)); got != s.code {
				t.Errorf("%s", got)
			}
			as.checkLog(s.log...)
		})
	}
}

// Over a socket, the answer to HEAD has the fields of the answer to GET and no
// body.
//
// Catalogue: R37.
func TestHeadOverASocket(t *testing.T) {
	as := newAS(t)
	as.introspect = answer(204, "", "")
	h := as.middleware().Handler(&spy{})
	rest := " /orders HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n" +
		"Authorization: Bearer " + as.secret("opaque-token") + "\r\n\r\n"
	head, whole := exchange(t, h, "HEAD"+rest), exchange(t, h, "GET"+rest)
	for _, rec := range []*httptest.ResponseRecorder{head, whole} {
		delete(rec.Header(), "Date")
		delete(rec.Header(), "Connection")
	}
	checkRejection(t, head, code401T, true)
	checkRejection(t, whole, code401T, false)
}

// A bodySpy counts the reads of a request's body.
type bodySpy struct {
	io.ReadCloser
	reads atomic.Int64
}

func (b *bodySpy) Read(p []byte) (int, error) {
	b.reads.Add(1)
	return b.ReadCloser.Read(p)
}

// A client that asks before it sends its body gets the 401 at once. No 100
// comes first, and no byte of the body is read.
//
// Catalogue: R38.
func TestRejectedBodyGetsNoContinue(t *testing.T) {
	as := newAS(t)
	next := &spy{}
	var body bodySpy
	protected := as.middleware().Handler(next)
	conn, in := dial(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner := r.WithContext(r.Context()) // the server looks at the body of its own
		body.ReadCloser, inner.Body = r.Body, &body
		protected.ServeHTTP(w, inner)
	}))
	must(io.WriteString(conn, "POST /orders HTTP/1.1\r\nHost: rs.test\r\n"+
		"Expect: 100-continue\r\nContent-Length: 10000000\r\n\r\n"))
	resp := must(http.ReadResponse(in, nil)) // does not skip a 100
	if got := as.outcome(record(t, resp), next, 0); got != code401N {
		t.Errorf("%s as the first answer", got)
	}
	if n := body.reads.Load(); n != 0 {
		t.Errorf("the body was read %d times", n)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("the connection stays open after a body that was refused: %v", err)
	}
}

// A rejected upload that never ends is answered, cut off and not drained.
//
// Catalogue: R39.
func TestEndlessUploadIsNotDrained(t *testing.T) {
	as := newAS(t)
	as.introspect = answer(204, "", "")
	next := &spy{}
	conn, in := dial(t, as.middleware().Handler(next))
	must(io.WriteString(conn, "POST /orders HTTP/1.1\r\nHost: rs.test\r\nTransfer-Encoding: chunked\r\n"+
		"Authorization: Bearer "+as.secret("opaque-token")+"\r\n\r\n"))
	uploaded := make(chan int64)
	go func() {
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 32<<10, strings.Repeat("x", 32<<10))
		var n int64
		for {
			sent, err := io.WriteString(conn, chunk)
			n += int64(sent)
			if err != nil {
				uploaded <- n
				return
			}
		}
	}()
	// The server closes while we are writing, which may cost the answer its
	// end; the status line and the fields come first.
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.StatusCode; got != http.StatusUnauthorized {
		t.Errorf("status %d", got)
	}
	// The server reads at most 256 KiB of a body that no handler read; the rest
	// is in the buffers of the two sockets.
	if n := <-uploaded; n > 8<<20 {
		t.Errorf("%d bytes were taken", n)
	}
	if next.calls() != 0 {
		t.Error("next ran")
	}
}
