package conformance_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A requestCase is a request that all versions of HTTP can carry.
type requestCase struct {
	name   string
	fields []string // "Name: value", in order
	want   string
	token  string // what the server is asked about; empty: it is not asked
	target string // default: /orders
}

func bearer(value string) []string { return []string{"Authorization: " + value} }

var (
	longestToken = strings.Repeat("t", 8192)
	jwtLike      = b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(`{"sub":"root","iss":"https://as.test"}`)) + ".c2lnbmF0dXJl"
	jweLike      = b64([]byte(`{"alg":"dir","enc":"A128GCM"}`)) + "..aXY.Y2lwaGVydGV4dA.dGFn"
)

var requestCases = []requestCase{
	{name: "R1 no field", want: code401N},
	{name: "R2 empty value", fields: bearer(""), want: code401N},
	{name: "R2 only spaces", fields: bearer("    "), want: code401N},
	{name: "R3 Basic", fields: bearer("Basic dXNlcjpwYXNz"), want: code401N},
	{name: "R3 Basic without credentials", fields: bearer("Basic"), want: code401N},
	{name: "R3 Digest", fields: bearer(`Digest username="alice", response="dGVzdA"`), want: code401N},
	{name: "R3 DPoP", fields: bearer("DPoP opaque-token"), want: code401N},
	{name: "R3 Negotiate", fields: bearer("Negotiate YIIJvwYGKwY="), want: code401N},
	{name: "R3 no scheme", fields: bearer("opaque-token"), want: code401N},
	{name: "R3 scheme that begins with ours", fields: bearer("BearerX opaque-token"), want: code401N},
	{name: "R3 scheme and token in one", fields: bearer("Beareropaque-token"), want: code401N},
	{name: "R3 scheme in two words", fields: bearer("Bear er opaque-token"), want: code401N},
	{name: "R3 scheme that ends with ours", fields: bearer("XBearer opaque-token"), want: code401N},
	{name: "R3 Basic before Bearer in one field", fields: bearer("Basic Zm9vOmJhcg==, Bearer opaque-token"), want: code401N},
	{name: "R4 scheme alone", fields: bearer("Bearer"), want: code400R},
	{name: "R4 scheme alone in lower case", fields: bearer("bearer"), want: code400R},
	{name: "R4 scheme and spaces", fields: bearer("Bearer    "), want: code400R},
	{name: "R5 any case", fields: []string{"authorization: bEaReR opaque-token"}, want: codeOK, token: "opaque-token"},
	{name: "R5 upper case", fields: []string{"AUTHORIZATION: BEARER opaque-token"}, want: codeOK, token: "opaque-token"},
	{name: "R6 one space", fields: bearer("Bearer opaque-token"), want: codeOK, token: "opaque-token"},
	{name: "R6 three spaces", fields: bearer("Bearer   opaque-token"), want: codeOK, token: "opaque-token"},
	{name: "R7 tab", fields: bearer("Bearer\topaque-token"), want: code400R},
	{name: "R7 space and tab", fields: bearer("Bearer \topaque-token"), want: code400R},
	{name: "R7 tab and space", fields: bearer("Bearer\t opaque-token"), want: code400R},
	{name: "R7 no-break space", fields: bearer("Bearer\u00a0opaque-token"), want: code400R},
	{name: "R7 colon", fields: bearer("Bearer: opaque-token"), want: code400R},
	{name: "R7 equals sign", fields: bearer("Bearer=opaque-token"), want: code400R},
	{name: "R7 slash", fields: bearer("Bearer/opaque-token"), want: code400R},
	{name: "R7 comma", fields: bearer("Bearer, opaque-token"), want: code400R},
	{name: "R8 two words", fields: bearer("Bearer aaaaa bbbbb"), want: code400R},
	{name: "R8 the scheme twice", fields: bearer("Bearer Bearer opaque-token"), want: code400R},
	{name: "R8 tab between", fields: bearer("Bearer aaaaa\tbbbbb"), want: code400R},
	{name: "R8 parameters", fields: bearer(`Bearer opaque-token, realm="api"`), want: code400R},
	{name: "R10 two tokens", fields: []string{"Authorization: Bearer good-token", "Authorization: Bearer good2-token"}, want: code400R},
	{name: "R11 the same twice", fields: []string{"Authorization: Bearer good-token", "Authorization: Bearer good-token"}, want: code400R},
	{name: "R11 in another case", fields: []string{"Authorization: Bearer good-token", "aUTHORIZATION: Bearer good-token"}, want: code400R},
	{name: "R11 an empty one beside it", fields: []string{"Authorization: ", "Authorization: Bearer good-token"}, want: code400R},
	{name: "R11 many", fields: slices.Repeat([]string{"Authorization: Bearer good-token"}, 100), want: code400R},
	{name: "R12 a list", fields: bearer("Bearer good-token, Basic Zm9vOmJhcg=="), want: code400R},
	{name: "R12 a list of one", fields: bearer("Bearer good-token,"), want: code400R},
	{name: "R13 Basic, then Bearer", fields: []string{"Authorization: Basic Zm9vOmJhcg==", "Authorization: Bearer good-token"}, want: code400R},
	{name: "R13 Bearer, then Basic", fields: []string{"Authorization: Bearer good-token", "Authorization: Basic Zm9vOmJhcg=="}, want: code400R},
	{name: "R13 Basic twice", fields: []string{"Authorization: Basic Zm9vOmJhcg==", "Authorization: Basic Zm9vOmJhcg=="}, want: code400R},
	{name: "R14 percent", fields: bearer("Bearer t%41k"), want: code400R},
	{name: "R14 quoted", fields: bearer(`Bearer "opaque-token"`), want: code400R},
	{name: "R14 semicolon", fields: bearer("Bearer tok;x"), want: code400R},
	{name: "R14 byte 0x80", fields: bearer("Bearer tok\x80"), want: code400R},
	{name: "R14 byte 0xFF", fields: bearer("Bearer \xff"), want: code400R},
	{name: "R14 UTF-8", fields: bearer("Bearer t\u00f6k"), want: code400R},
	{name: "R14 full-width letters", fields: bearer("Bearer \uff54\uff4f\uff4b"), want: code400R},
	{name: "R14 ampersand", fields: bearer("Bearer tok&token_type_hint=refresh_token"), want: code400R},
	{name: "R14 angle brackets", fields: bearer("Bearer <token>"), want: code400R},
	{name: "R14 backslash", fields: bearer(`Bearer to\k`), want: code400R},
	{name: "R14 pipe", fields: bearer("Bearer tok|x"), want: code400R},
	{name: "R15 equals sign inside", fields: bearer("Bearer a=b"), want: code400R},
	{name: "R15 only equals signs", fields: bearer("Bearer ==="), want: code400R},
	{name: "R15 equals sign first", fields: bearer("Bearer =abc"), want: code400R},
	{name: "R15 after the padding", fields: bearer("Bearer abc==d"), want: code400R},
	{name: "R17 8192 bytes", fields: bearer("Bearer " + longestToken), want: codeOK, token: longestToken},
	{name: "R17 8193 bytes", fields: bearer("Bearer " + longestToken + "t"), want: code400R},
	{name: "R17 8192 bytes behind many spaces", fields: bearer("Bearer" + strings.Repeat(" ", 1000) + longestToken), want: codeOK, token: longestToken},
	{name: "R17 one byte", fields: bearer("Bearer t"), want: codeOK, token: "t"},
	{name: "R18 a million bytes", fields: bearer("Bearer " + strings.Repeat("t", 1_000_000)), want: code400R},
	{name: "R19 query", target: "/orders?access_token=good-token", want: code401N},
	{name: "R19 query beside another scheme", target: "/orders?access_token=good-token", fields: bearer("Basic Zm9vOmJhcg=="), want: code401N},
	{name: "R19 query of another name", target: "/orders?token=good-token&bearer_token=good-token", want: code401N},
	{name: "R25 Proxy-Authorization", fields: []string{"Proxy-Authorization: Bearer good-token"}, want: code401N},
	{name: "R25 other fields", fields: []string{
		"X-Authorization: Bearer good-token", "Authorization2: Bearer good-token", "Authorisation: Bearer good-token",
		"X-Forwarded-Authorization: Bearer good-token", "X-Access-Token: good-token", "X-Api-Key: good-token", "Token: good-token",
	}, want: code401N},
	{name: "R26 cookie", fields: []string{"Cookie: access_token=good-token"}, want: code401N},
	{name: "R27 WebSocket protocol", fields: []string{"Sec-WebSocket-Protocol: bearer, good-token"}, want: code401N},
	{name: "R31 looks like a JWT", fields: bearer("Bearer " + jwtLike), want: codeOK, token: jwtLike},
	{name: "R32 looks like a JWE", fields: bearer("Bearer " + jweLike), want: codeOK, token: jweLike},
	{name: "R33 all kinds of characters", fields: bearer("Bearer a+b/c=="), want: codeOK, token: "a+b/c=="},
	{name: "R33 the other kinds", fields: bearer("Bearer -._~09AZaz="), want: codeOK, token: "-._~09AZaz="},
	{name: "R48 User-Agent", fields: []string{"User-Agent: GoogleHC/1.0"}, want: code401N},
	{name: "R48 kube-probe", fields: []string{"User-Agent: kube-probe/1.30"}, target: "/healthz", want: code401N},
	{name: "R48 X-Forwarded-Uri", fields: []string{"X-Forwarded-Uri: /public", "X-Forwarded-Method: OPTIONS"}, want: code401N},
	{name: "R48 X-Original-URL", fields: []string{"X-Original-URL: /public", "X-Rewrite-URL: /public"}, want: code401N},
	{name: "R48 method override", fields: []string{"X-HTTP-Method-Override: OPTIONS"}, want: code401N},
	{name: "R48 identity fields", fields: []string{"X-Forwarded-User: root", "X-Remote-User: root", "X-Auth-Sub: root"}, want: code401N},
	{name: "R48 source address", fields: []string{"X-Forwarded-For: 127.0.0.1", "X-Real-Ip: 127.0.0.1", "Forwarded: for=127.0.0.1"}, want: code401N},
	{name: "R48 encoded slash", target: "/public/..%2fadmin", want: code401N},
	{name: "R48 two slashes", target: "//admin", want: code401N},
	{name: "R48 dot segments", target: "/public/../admin", want: code401N},
	{name: "R48 path parameter", target: "/admin;/public", want: code401N},
	{name: "R48 encoded fragment", target: "/admin%23/public", want: code401N},
	{name: "R48 well-known", target: "/.well-known/oauth-protected-resource", want: code401N},
}

// A wire brings the request of a case to a handler.
type wire struct {
	name  string
	carry func(t *testing.T, h http.Handler, c requestCase) *httptest.ResponseRecorder
}

var wires = []wire{{"memory", inMemory}, {"HTTP 1.1", overHTTP1}, {"HTTP 2", overHTTP2}}

func (c requestCase) uri() string {
	if c.target == "" {
		return "/orders"
	}
	return c.target
}

func (c requestCase) header() http.Header {
	h := http.Header{}
	for _, field := range c.fields {
		name, value, _ := strings.Cut(field, ": ")
		h.Add(name, value)
	}
	return h
}

func inMemory(_ *testing.T, h http.Handler, c requestCase) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "https://rs.test"+c.uri(), nil)
	r.Header = c.header()
	return serve(h, r)
}

func overHTTP1(t *testing.T, h http.Handler, c requestCase) *httptest.ResponseRecorder {
	var b strings.Builder
	b.WriteString("GET " + c.uri() + " HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n")
	for _, field := range c.fields {
		b.WriteString(field + "\r\n")
	}
	return exchange(t, h, b.String()+"\r\n")
}

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

// secretsOf registers all that a client sent as credentials.
func (as *fakeAS) secretsOf(values ...string) {
	for _, value := range values {
		for _, word := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(" \t,:=&?", r) }) {
			if len(word) > 4 && (strings.Contains(word, "token") || len(word) > 9) {
				as.secret(word)
			}
		}
	}
}

// asked returns the tokens that the server was asked about.
func (as *fakeAS) asked() (tokens []string) {
	for _, r := range as.recorded(endpointPath) {
		tokens = append(tokens, r.Form["token"]...)
	}
	return tokens
}

// TestRequests sends each request over each version of HTTP: R43 wants the
// verdicts to be the same.
func TestRequests(t *testing.T) {
	for _, w := range wires {
		t.Run("R43 "+w.name, func(t *testing.T) {
			for _, c := range requestCases {
				t.Run(c.name, func(t *testing.T) {
					as := newAS(t)
					for _, value := range c.header()["Authorization"] {
						as.secretsOf(value)
					}
					next := &spy{}
					rec := w.carry(t, as.middleware().Handler(next), c)
					if got := as.outcome(rec, next, 0); got != c.want {
						t.Errorf("%s, want %s", got, c.want)
					}
					var want []string
					if c.token != "" {
						want = []string{c.token}
					}
					if got := as.asked(); !slices.Equal(got, want) {
						t.Errorf("the server was asked about %q, want %q", got, want)
					}
					if c.want != codeOK {
						return
					}
					if got := next.last(); len(c.token) > 3 && strings.Contains(fmt.Sprint(got.Header, got.URL, got.RequestURI), c.token) {
						t.Errorf("the opaque token is in the request of the next handler: %v", got.Header)
					}
				})
			}
		})
	}
}

// TestRequestHeaderMaps has header maps that no client can send, but that an
// outer handler or a server of another make can leave behind.
func TestRequestHeaderMaps(t *testing.T) {
	for _, c := range []struct {
		name   string
		header http.Header
		want   string
	}{
		{"R30 nil header", nil, code401N},
		{"R30 no values", http.Header{"Authorization": {}}, code401N},
		{"R30 nil values", http.Header{"Authorization": nil}, code401N},
		{"R30 no values in another case", http.Header{"authorization": {}, "AUTHORIZATION": nil}, code401N},
		{"R5 other key", http.Header{"authorization": {"Bearer opaque-token"}}, codeOK},
		{"R10 two keys", http.Header{"Authorization": {"Bearer opaque-token"}, "authorization": {"Bearer other-token"}}, code400R},
		{"R11 two keys, one value", http.Header{"Authorization": {"Bearer opaque-token"}, "AUTHORIZATION": {"Bearer opaque-token"}}, code400R},
		{"R13 two keys, neither canonical", http.Header{"authorization": {"Basic Zm9vOmJhcg=="}, "AUTHORIZATION": {"Bearer opaque-token"}}, code400R},
		{"R11 an empty key beside it", http.Header{"Authorization": {"Bearer opaque-token"}, "authorization": {}}, codeOK},
		{"R1 a key that only looks like it", http.Header{"Authorızation": {"Bearer opaque-token"}, "Authorization ": {"Bearer opaque-token"}}, code401N},
		{"R2 only tabs", http.Header{"Authorization": {"\t\t"}}, code401N},
		{"R8 leading space", http.Header{"Authorization": {" Bearer opaque-token"}}, code401N},
		{"R8 trailing space", http.Header{"Authorization": {"Bearer opaque-token "}}, code400R},
		{"R8 line feed", http.Header{"Authorization": {"Bearer opaque-token\nX: y"}}, code400R},
		{"R8 CR LF at the end", http.Header{"Authorization": {"Bearer opaque-token\r\n"}}, code400R},
		{"R14 NUL", http.Header{"Authorization": {"Bearer opaque-token\x00"}}, code400R},
		{"R14 DEL", http.Header{"Authorization": {"Bearer opaque-token\x7f"}}, code400R},
		{"R7 NUL in place of the space", http.Header{"Authorization": {"Bearer\x00opaque-token"}}, code400R},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			as.secret("opaque-token")
			r := get()
			r.Header = c.header
			next := &spy{}
			rec := serve(as.middleware().Handler(next), r)
			if got := as.outcome(rec, next, 0); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if c.want != codeOK {
				if n := as.calls.Load(); n != 0 {
					t.Errorf("the server was asked %d times", n)
				}
				return
			}
			for name, values := range next.last().Header {
				if name != "Authorization" && strings.EqualFold(name, "Authorization") && len(values) > 0 {
					t.Errorf("the next handler got a field %q too", name)
				}
			}
		})
	}
}

// TestRequestBytes has what only bytes on a socket can say.
func TestRequestBytes(t *testing.T) {
	const start, end = "GET /orders HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n", "\r\n"
	for _, c := range []struct {
		name, request, want, token string
	}{
		{"R4 spaces at the end", start + "Authorization: Bearer    \r\n" + end, code400R, ""},
		{"R6 no space after the colon", start + "Authorization:Bearer good-token\r\n" + end, codeOK, "good-token"},
		{"R6 spaces at both ends", start + "Authorization:  \tBearer good-token \t\r\n" + end, codeOK, "good-token"},
		{"R8 folded line", start + "Authorization: Bearer good-token\r\n other-token\r\n" + end, code400R, ""},
		{"R8 scheme and token on two lines", start + "Authorization: Bearer\r\n good-token\r\n" + end, codeOK, "good-token"},
		{"R44 1.0 without Host, without a token", "GET /orders HTTP/1.0\r\n\r\n", code401N, ""},
		{"R44 1.0 with Host, without a token", "GET /orders HTTP/1.0\r\nHost: rs.test\r\n\r\n", code401N, ""},
		{"R44 1.0 without Host", "GET /orders HTTP/1.0\r\nAuthorization: Bearer good-token\r\n\r\n", codeOK, "good-token"},
		{"R44 1.0 with Host", "GET /orders HTTP/1.0\r\nHost: rs.test\r\nAuthorization: Bearer good-token\r\n\r\n", codeOK, "good-token"},
		{"R44 1.0 malformed", "GET /orders HTTP/1.0\r\nAuthorization: Bearer good token\r\n\r\n", code400R, ""},
		{"R45 bare LF", start + "Authorization: Bearer good-token\nX: y\r\n" + end, codeOK, "good-token"},
		{"R48 absolute form", "GET http://public.test/ HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n", code401N, ""},
		{"R48 asterisk form", "OPTIONS * HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n", code401N, ""},
		{"R48 preflight", "OPTIONS /orders HTTP/1.1\r\nHost: rs.test\r\nOrigin: https://app.test\r\n" +
			"Access-Control-Request-Method: GET\r\nConnection: close\r\n\r\n", code401N, ""},
		{"R48 fragment", "GET /admin#/public HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n", code401N, ""},
		{"R48 unknown method", "BREW /pot HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n", code401N, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			as.secret("good-token")
			next := &spy{}
			// The server answers OPTIONS * itself unless it is told not to.
			h := as.middleware().Handler(next)
			srv := httptest.NewUnstartedServer(h)
			srv.Config.DisableGeneralOptionsHandler = true
			srv.Start()
			t.Cleanup(srv.Close)
			conn := must(net.Dial("tcp", srv.Listener.Addr().String()))
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			must(io.WriteString(conn, c.request))
			rec := record(t, must(http.ReadResponse(bufio.NewReader(conn), nil)))
			if got := as.outcome(rec, next, 0); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			var want []string
			if c.token != "" {
				want = []string{c.token}
			}
			if got := as.asked(); !slices.Equal(got, want) {
				t.Errorf("the server was asked about %q, want %q", got, want)
			}
			if strings.HasPrefix(c.name, "R45") && !slices.Equal(next.last().Header["X"], []string{"y"}) {
				t.Errorf("what follows the line feed is no field of its own: %v", next.last().Header)
			}
		})
	}
}

func TestR6SpacesDoNotChangeTheKey(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	for _, value := range []string{"Bearer   opaque-token", "Bearer opaque-token", "bearer      opaque-token"} {
		if got := as.send(m.Handler, get(value)); got != codeOK {
			t.Errorf("%q: %s", value, got)
		}
	}
	if n := as.calls.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

func TestR18LongTokensLeaveNothingBehind(t *testing.T) {
	as := newAS(t)
	h := as.middleware().Handler(&spy{})
	r := get("Bearer " + strings.Repeat("t", 1_000_000))
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for range 1000 {
		if rec := serve(h, r); rec.Code != http.StatusBadRequest {
			t.Fatalf("status %d", rec.Code)
		}
	}
	if grown := heap() - before; grown >= 10<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if n := as.calls.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
	runtime.KeepAlive(h)
}

// The trailer arrives with the end of the body, so an outer handler reads that
// first: then it is there when the request is judged.
func TestR28Trailer(t *testing.T) {
	readFirst := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if got := r.Trailer.Get("Authorization"); got != "Bearer good-token" {
				t.Errorf("the trailer did not arrive: %v", r.Trailer)
			}
			h.ServeHTTP(w, r)
		})
	}
	for _, announced := range []string{"Trailer: Authorization\r\n", ""} {
		t.Run("HTTP 1.1 "+announced, func(t *testing.T) {
			as := newAS(t)
			next := &spy{}
			rec := exchange(t, readFirst(as.middleware().Handler(next)),
				"POST /orders HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"+announced+
					"\r\n4\r\nbody\r\n0\r\nAuthorization: Bearer good-token\r\n\r\n")
			if got := as.outcome(rec, next, 0); got != code401N || as.calls.Load() != 0 {
				t.Errorf("%s, the server was asked %d times", got, as.calls.Load())
			}
		})
	}
	t.Run("HTTP 2", func(t *testing.T) {
		as := newAS(t)
		next := &spy{}
		protected := as.middleware().Handler(next)
		judged := make(chan *httptest.ResponseRecorder, 1)
		srv := startHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // fails: the server resets a stream with such a trailer
			judged <- serve(protected, r)
		}))
		r := must(http.NewRequest(http.MethodPost, srv.URL, io.NopCloser(strings.NewReader("body"))))
		r.Trailer = http.Header{"Authorization": {"Bearer good-token"}}
		if resp, err := srv.Client().Transport.RoundTrip(r); err == nil {
			resp.Body.Close()
		}
		if got := as.outcome(<-judged, next, 0); got != code401N || as.calls.Load() != 0 {
			t.Errorf("%s, the server was asked %d times", got, as.calls.Load())
		}
	})
}

// rejections are the answers to the byte, but for the status line and the date.
var rejections = map[string]struct {
	challenge, retryAfter, title, detail string
}{
	code400R: {challenges[code400R], "", "Bad Request", "The bearer token is malformed or sent more than once."},
	code401N: {challenges[code401N], "", "Unauthorized", "A bearer token is required."},
	code401T: {challenges[code401T], "", "Unauthorized", "The token is expired, revoked or not valid here."},
	code403S: {`Bearer realm="api", error="insufficient_scope", scope="admin"`, "", "Forbidden", "The token does not permit this request."},
	code500I: {"", "", "Internal Server Error", "The token could not be checked."},
	code502A: {"", "", "Bad Gateway", "The token could not be checked."},
	code503A: {"", "1", "Service Unavailable", "The token cannot be checked right now."},
}

// checkRejection compares a whole answer with what its outcome code promises.
func checkRejection(t *testing.T, rec *httptest.ResponseRecorder, code string, head bool) {
	t.Helper()
	want := rejections[code]
	body := fmt.Sprintf(`{"type":"about:blank","title":%q,"status":%s,"detail":%q}`, want.title, code[:3], want.detail)
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
	if strings.Count(log, "\n") != 1 || slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(log, p) }) {
		as.tb.Errorf("the log is not one line with %q:\n%s", parts, log)
	}
}

// A rejectedSetup makes a request be rejected with its code.
type rejectedSetup struct {
	code          string
	authorization []string
	introspect    http.HandlerFunc
	options       []phantom.Option
	log           []string // what the one line says
}

var rejectedSetups = []rejectedSetup{
	{code400R, []string{"Bearer opaque token"}, nil, nil,
		[]string{"level=INFO", "reason=malformed_request", "status=400", `detail="not a b64token"`}},
	{code401N, nil, nil, nil,
		[]string{"level=DEBUG", "reason=no_credentials", "status=401"}},
	{code401T, []string{"Bearer opaque-token"}, answer(204, "", ""), nil,
		[]string{"level=INFO", "reason=inactive", "status=401"}},
	{code403S, []string{"Bearer opaque-token"}, nil, []phantom.Option{phantom.WithRequirements(phantom.AllScopes("admin"))},
		[]string{"level=INFO", "reason=scope", "status=403"}},
	{code500I, []string{"Bearer opaque-token"}, nil, []phantom.Option{phantom.WithRequirements(func(tok *phantom.Token) error { panic(tok.JWT()) })},
		[]string{"level=ERROR", "reason=internal", "status=500", `stack="goroutine `}},
	{code502A, []string{"Bearer opaque-token"}, answer(404, "text/html", "<h1>opaque-token</h1>"), nil,
		[]string{"level=ERROR", "reason=as_protocol", "status=502", `detail="status 404"`}},
	{code503A, []string{"Bearer opaque-token"}, answer(500, "text/html", "<h1>opaque-token</h1>"), nil,
		[]string{"level=ERROR", "reason=as_unavailable", "status=503", `detail="status 500"`}},
}

// TestRejections compares whole answers. Besides GET and, for R37, HEAD it has
// what P70 is about: nothing that the request asks for, and nothing that an
// outer handler said of the answer that it expected, changes the rejection.
func TestRejections(t *testing.T) {
	for _, s := range rejectedSetups {
		for _, c := range []struct {
			name, method string
			header       http.Header
			outer        http.Header
		}{
			{name: "GET", method: http.MethodGet},
			{name: "R37 HEAD", method: http.MethodHead},
			{name: "POST", method: http.MethodPost},
			{name: "OPTIONS", method: http.MethodOptions},
			{name: "P70 Range", method: http.MethodGet, header: http.Header{"Range": {"bytes=0-3"}, "If-Range": {`"x"`}}},
			{name: "P70 If-None-Match", method: http.MethodGet, header: http.Header{
				"If-None-Match": {"*"}, "If-Modified-Since": {"Sat, 29 Oct 2044 19:43:31 GMT"}, "Cache-Control": {"only-if-cached"},
			}},
			{name: "P70 Accept-Encoding", method: http.MethodGet, header: http.Header{"Accept-Encoding": {"gzip"}, "Te": {"gzip"}}},
			{name: "P70 Accept", method: http.MethodGet, header: http.Header{"Accept": {"text/html"}, "Accept-Language": {"de"}}},
			{name: "P70 outer handler", method: http.MethodGet, outer: http.Header{
				"Cache-Control": {"public, max-age=3600"}, "Etag": {`"x"`}, "Last-Modified": {"Sat, 29 Oct 1994 19:43:31 GMT"},
				"Expires": {"Sat, 29 Oct 2044 19:43:31 GMT"}, "Content-Length": {"3"},
				"Content-Type": {"text/html"}, "Accept-Ranges": {"bytes"}, "Retry-After": {"99"}, "Www-Authenticate": {"Basic", "Foo"},
			}},
		} {
			t.Run(s.code+"/"+c.name, func(t *testing.T) {
				as := newAS(t)
				as.secret("opaque-token")
				jwt := as.secret(mint("ES256", claims(nil)))
				if as.introspect = s.introspect; as.introspect == nil {
					as.introspect = answerJWT(jwt)
				}
				next := &spy{}
				r := httptest.NewRequest(c.method, "https://rs.test/orders", nil)
				for name, values := range c.header {
					r.Header[name] = values
				}
				r.Header["Authorization"] = s.authorization
				rec := httptest.NewRecorder()
				for name, values := range c.outer {
					rec.Header()[name] = values
				}
				as.middleware(s.options...).Handler(next).ServeHTTP(rec, r)
				if next.calls() != 0 {
					t.Error("next ran")
				}
				checkRejection(t, rec, s.code, c.method == http.MethodHead)
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

func TestP70OuterCompression(t *testing.T) {
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

func TestRejectionIsOneLogLine(t *testing.T) {
	for _, s := range rejectedSetups {
		t.Run(s.code, func(t *testing.T) {
			as := newAS(t)
			as.secret("opaque-token")
			jwt := as.secret(mint("ES256", claims(nil)))
			if as.introspect = s.introspect; as.introspect == nil {
				as.introspect = answerJWT(jwt)
			}
			if got := as.send(as.middleware(s.options...).Handler, get(s.authorization...)); got != s.code {
				t.Errorf("%s", got)
			}
			as.checkLog(s.log...)
		})
	}
}

// Over a socket a HEAD answer has the same field lines and no body.
func TestR37HeadOverSockets(t *testing.T) {
	as := newAS(t)
	as.introspect = answer(204, "", "")
	h := as.middleware().Handler(&spy{})
	rest := " /orders HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\nAuthorization: Bearer " + as.secret("opaque-token") + "\r\n\r\n"
	head, whole := exchange(t, h, "HEAD"+rest), exchange(t, h, "GET"+rest)
	for _, rec := range []*httptest.ResponseRecorder{head, whole} {
		delete(rec.Header(), "Date")
		rec.Header()["Connection"] = nil
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

func TestR38NoContinueForARejectedBody(t *testing.T) {
	as := newAS(t)
	next := &spy{}
	var body bodySpy
	protected := as.middleware().Handler(next)
	conn, in := dial(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner := r.WithContext(r.Context()) // the server looks at the body of its own
		body.ReadCloser, inner.Body = r.Body, &body
		protected.ServeHTTP(w, inner)
	}))
	must(io.WriteString(conn, "POST /orders HTTP/1.1\r\nHost: rs.test\r\nExpect: 100-continue\r\nContent-Length: 10000000\r\n\r\n"))
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

func TestR39EndlessUploadIsNotDrained(t *testing.T) {
	as := newAS(t)
	as.introspect = answer(204, "", "")
	next := &spy{}
	conn, in := dial(t, as.middleware().Handler(next))
	must(io.WriteString(conn, "POST /orders HTTP/1.1\r\nHost: rs.test\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer "+
		as.secret("opaque-token")+"\r\n\r\n"))
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
	// The server reads at most 256 KiB of a body that nobody wanted; the rest
	// is in the buffers of the two sockets.
	if n := <-uploaded; n > 8<<20 {
		t.Errorf("%d bytes were taken", n)
	}
	if next.calls() != 0 {
		t.Error("next ran")
	}
}

func TestR40ClientLeavesDuringTheLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		m := as.middleware()
		next := &spy{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		begin := time.Now()
		rec := serve(m.Handler(next), get("Bearer "+as.secret("opaque-token")).WithContext(ctx))
		if got := as.outcome(rec, next, 0); got != code503A {
			t.Errorf("%s", got)
		}
		if d := time.Since(begin); d != 10*time.Millisecond {
			t.Errorf("answered after %v", d)
		}
		time.Sleep(time.Second)
		if got := as.try(m, "opaque-token"); got != codeOK {
			t.Errorf("next request: %s", got)
		}
		if n := as.calls.Load(); n != 1 {
			t.Errorf("the server was asked %d times", n)
		}
	})
}

func TestR41ContextEndedOnEntry(t *testing.T) {
	synctest.Test(t, contextEndedOnEntry)
}

func contextEndedOnEntry(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("an explanation"))
	if got := as.send(m.Handler, get("Bearer "+as.secret("opaque-token")).WithContext(ended)); got != code503A {
		t.Errorf("%s", got)
	}
	synctest.Wait() // for a lookup that nobody waits for
	if n := as.calls.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
	if tok, err := m.Verify(ended, "opaque-token"); tok != nil || !errors.Is(err, phantom.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Verify: %v, %v", tok, err)
	}
	// What needs no lookup needs no time.
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Errorf("%s", got)
	}
	if got := as.send(m.Handler, get("Bearer opaque-token").WithContext(ended)); got != codeOK {
		t.Errorf("cached: %s", got)
	}
	// A verdict on the request itself needs none either.
	if got := as.send(m.Handler, get("Bearer a b").WithContext(ended)); got != code400R {
		t.Errorf("malformed: %s", got)
	}
}

func TestR42ManyClientsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(time.Second, answerJWT(mint("ES256", claims(nil))))
		next := &spy{}
		h := as.middleware().Handler(next)
		before := runtime.NumGoroutine()
		const waves, clients = 20, 500 // not all at once: the race detector has a limit
		for wave := range waves {
			ctx, cancel := context.WithCancel(t.Context())
			for i := range clients {
				go func() {
					if rec := serve(h, get(fmt.Sprintf("Bearer t-%d-%d", wave, i)).WithContext(ctx)); rec.Code != http.StatusServiceUnavailable {
						t.Errorf("status %d", rec.Code)
					}
				}()
			}
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
			cancel()
			synctest.Wait()
			time.Sleep(90 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		if n := runtime.NumGoroutine() - before; n > 10 {
			t.Errorf("%d goroutines are left", n)
		}
		if n := as.peak.Load(); n > 64 {
			t.Errorf("%d lookups at once", n)
		}
		if next.calls() != 0 {
			t.Errorf("next ran %d times", next.calls())
		}
	})
}

func TestR46Optional(t *testing.T) {
	for _, c := range []struct {
		name   string
		header http.Header
		want   string
		token  bool
	}{
		{"no field", http.Header{}, codeOK, false},
		{"nil header", nil, codeOK, false},
		{"no values", http.Header{"Authorization": {}}, codeOK, false},
		{"good token", http.Header{"Authorization": {"Bearer good-token"}}, codeOK, true},
		{"bad token", http.Header{"Authorization": {"Bearer bad-token"}}, code401T, false},
		{"Basic", http.Header{"Authorization": {"Basic Zm9vOmJhcg=="}}, code401N, false},
		{"empty value", http.Header{"Authorization": {""}}, code401N, false},
		{"only spaces", http.Header{"Authorization": {"  "}}, code401N, false},
		{"another key", http.Header{"authorization": {"Basic Zm9vOmJhcg=="}}, code401N, false},
		{"scheme alone", http.Header{"Authorization": {"Bearer"}}, code400R, false},
		{"malformed", http.Header{"Authorization": {"Bearer a b"}}, code400R, false},
		{"two", http.Header{"Authorization": {"Bearer good-token", "Bearer good-token"}}, code400R, false},
		{"outage", http.Header{"Authorization": {"Bearer outage-token"}}, code503A, false},
		{"unusable answer", http.Header{"Authorization": {"Bearer strange-token"}}, code502A, false},
		{"a token elsewhere", http.Header{"Cookie": {"access_token=good-token"}, "Proxy-Authorization": {"Bearer good-token"}}, codeOK, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			jwt := mint("ES256", claims(nil))
			as.introspect = func(w http.ResponseWriter, r *http.Request) {
				switch r.Form.Get("token") {
				case "good-token":
					answerJWT(jwt)(w, r)
				case "bad-token":
					answer(204, "", "")(w, r)
				case "outage-token":
					answer(500, "", "")(w, r)
				default:
					answer(404, "", "")(w, r)
				}
			}
			next := &spy{}
			r := get()
			r.Header = c.header
			rec := serve(as.middleware().Optional(next), r)
			if got := as.outcome(rec, next, 0); got != c.want {
				t.Fatalf("%s, want %s", got, c.want)
			}
			if got := rec.Header()["Vary"]; !slices.Equal(got, []string{"Authorization"}) {
				t.Errorf("Vary %q", got)
			}
			if c.want != codeOK {
				return
			}
			if tok := next.tokens[0]; (tok != nil) != c.token {
				t.Errorf("token %v", tok)
			}
			if _, err := phantom.Claims[map[string]any](next.last().Context()); c.token == errors.Is(err, phantom.ErrNoToken) {
				t.Errorf("claims: %v", err)
			}
			if got := next.last().Header["Authorization"]; !c.token && len(got) > 0 {
				t.Errorf("an anonymous request with Authorization %q", got)
			}
		})
	}
}

// An outer handler may have said what else the answer varies with.
func TestR46OptionalKeepsVary(t *testing.T) {
	as := newAS(t)
	rec := httptest.NewRecorder()
	rec.Header().Set("Vary", "Origin")
	as.middleware().Optional(&spy{}).ServeHTTP(rec, get())
	if got := rec.Header()["Vary"]; !slices.Equal(got, []string{"Origin", "Authorization"}) {
		t.Errorf("Vary %q", got)
	}
}

func TestR46OptionalHidesAnInheritedToken(t *testing.T) {
	as, other := newAS(t), newAS(t)
	tok := must(other.middleware().Verify(t.Context(), "opaque-token"))
	r := get().WithContext(phantom.NewContext(t.Context(), tok))
	next := &spy{}
	if got := as.outcome(serve(as.middleware().Optional(next), r), next, 0); got != codeOK {
		t.Fatalf("%s", got)
	}
	if next.tokens[0] != nil {
		t.Error("an anonymous request has somebody's token")
	}
	if _, ok := phantom.FromContext(r.Context()); !ok {
		t.Error("the caller's request was changed")
	}
}
