package conformance_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// A requestCase is a request that all versions of HTTP can carry.
type requestCase struct {
	name   string
	fields []string // "Name: value", in order
	want   string
	token  string // what the server is asked about; empty: it is not asked
	target string // default: /orders
}

// bearer returns an Authorization field for a requestCase.
func bearer(value string) []string { return []string{"Authorization: " + value} }

var (
	longestToken = strings.Repeat("t", 16<<10)
	jwtLike      = b64([]byte(`{"alg":"none"}`)) + "." +
		b64([]byte(`{"sub":"root","iss":"https://as.test"}`)) + ".c2lnbmF0dXJl"
	jweLike = b64([]byte(`{"alg":"dir","enc":"A128GCM"}`)) + "..aXY.Y2lwaGVydGV4dA.dGFn"
)

// requestCases are what a client can send, one code of the catalogue after the
// other.
var requestCases = []requestCase{
	{name: "no field", want: code401N}, // R1

	{name: "empty value", fields: bearer(""), want: code401N},     // R2
	{name: "only spaces", fields: bearer("    "), want: code401N}, // R2

	{name: "another scheme: Basic", fields: bearer("Basic dXNlcjpwYXNz"), want: code401N},                                 // R3
	{name: "Basic without credentials", fields: bearer("Basic"), want: code401N},                                          // R3
	{name: "another scheme: Digest", fields: bearer(`Digest username="alice", response="dGVzdA"`), want: code401N},        // R3
	{name: "another scheme: DPoP", fields: bearer("DPoP opaque-token"), want: code401N},                                   // R3
	{name: "another scheme: Negotiate", fields: bearer("Negotiate YIIJvwYGKwY="), want: code401N},                         // R3
	{name: "no scheme", fields: bearer("opaque-token"), want: code401N},                                                   // R3
	{name: "scheme that begins with ours", fields: bearer("BearerX opaque-token"), want: code401N},                        // R3
	{name: "scheme and token in one", fields: bearer("Beareropaque-token"), want: code401N},                               // R3
	{name: "scheme in two words", fields: bearer("Bear er opaque-token"), want: code401N},                                 // R3
	{name: "scheme that ends with ours", fields: bearer("XBearer opaque-token"), want: code401N},                          // R3
	{name: "Basic before Bearer in one field", fields: bearer("Basic Zm9vOmJhcg==, Bearer opaque-token"), want: code401N}, // R3

	{name: "scheme alone", fields: bearer("Bearer"), want: code400R},               // R4
	{name: "scheme alone in lower case", fields: bearer("bearer"), want: code400R}, // R4
	{name: "scheme and spaces", fields: bearer("Bearer    "), want: code400R},      // R4

	{name: "scheme in any case", fields: []string{"authorization: bEaReR opaque-token"}, want: codeOK, token: "opaque-token"},             // R5
	{name: "field and scheme in upper case", fields: []string{"AUTHORIZATION: BEARER opaque-token"}, want: codeOK, token: "opaque-token"}, // R5

	{name: "one space", fields: bearer("Bearer opaque-token"), want: codeOK, token: "opaque-token"},      // R6
	{name: "three spaces", fields: bearer("Bearer   opaque-token"), want: codeOK, token: "opaque-token"}, // R6

	{name: "a tab in place of the space", fields: bearer("Bearer\topaque-token"), want: code400R},     // R7
	{name: "a tab behind the space", fields: bearer("Bearer \topaque-token"), want: code400R},         // R7
	{name: "a tab before the space", fields: bearer("Bearer\t opaque-token"), want: code400R},         // R7
	{name: "a no-break space", fields: bearer("Bearer\u00a0opaque-token"), want: code400R},            // R7
	{name: "a colon behind the scheme", fields: bearer("Bearer: opaque-token"), want: code400R},       // R7
	{name: "an equals sign behind the scheme", fields: bearer("Bearer=opaque-token"), want: code400R}, // R7
	{name: "a slash behind the scheme", fields: bearer("Bearer/opaque-token"), want: code400R},        // R7
	{name: "a comma behind the scheme", fields: bearer("Bearer, opaque-token"), want: code400R},       // R7

	{name: "two words", fields: bearer("Bearer aaaaa bbbbb"), want: code400R},                                 // R8
	{name: "the scheme twice", fields: bearer("Bearer Bearer opaque-token"), want: code400R},                  // R8
	{name: "two words with a tab between", fields: bearer("Bearer aaaaa\tbbbbb"), want: code400R},             // R8
	{name: "parameters behind the token", fields: bearer(`Bearer opaque-token, realm="api"`), want: code400R}, // R8

	{name: "two fields with two tokens", fields: []string{"Authorization: Bearer good-token", "Authorization: Bearer good2-token"}, want: code400R}, // R10

	{name: "two fields with one token", fields: []string{"Authorization: Bearer good-token", "Authorization: Bearer good-token"}, want: code400R}, // R11
	{name: "two fields in two cases", fields: []string{"Authorization: Bearer good-token", "aUTHORIZATION: Bearer good-token"}, want: code400R},   // R11
	{name: "an empty field beside it", fields: []string{"Authorization: ", "Authorization: Bearer good-token"}, want: code400R},                   // R11
	{name: "a hundred fields", fields: slices.Repeat([]string{"Authorization: Bearer good-token"}, 100), want: code400R},                          // R11

	{name: "a list", fields: bearer("Bearer good-token, Basic Zm9vOmJhcg=="), want: code400R}, // R12
	{name: "a list of one", fields: bearer("Bearer good-token,"), want: code400R},             // R12

	{name: "Basic, then Bearer", fields: []string{"Authorization: Basic Zm9vOmJhcg==", "Authorization: Bearer good-token"}, want: code400R}, // R13
	{name: "Bearer, then Basic", fields: []string{"Authorization: Bearer good-token", "Authorization: Basic Zm9vOmJhcg=="}, want: code400R}, // R13
	{name: "Basic twice", fields: []string{"Authorization: Basic Zm9vOmJhcg==", "Authorization: Basic Zm9vOmJhcg=="}, want: code400R},       // R13

	{name: "percent sign", fields: bearer("Bearer t%41k"), want: code400R},                          // R14
	{name: "quoted", fields: bearer(`Bearer "opaque-token"`), want: code400R},                       // R14
	{name: "semicolon", fields: bearer("Bearer tok;x"), want: code400R},                             // R14
	{name: "byte 0x80", fields: bearer("Bearer tok\x80"), want: code400R},                           // R14
	{name: "byte 0xFF", fields: bearer("Bearer \xff"), want: code400R},                              // R14
	{name: "UTF-8", fields: bearer("Bearer t\u00f6k"), want: code400R},                              // R14
	{name: "full-width letters", fields: bearer("Bearer \uff54\uff4f\uff4b"), want: code400R},       // R14
	{name: "ampersand", fields: bearer("Bearer tok&token_type_hint=refresh_token"), want: code400R}, // R14
	{name: "angle brackets", fields: bearer("Bearer <token>"), want: code400R},                      // R14
	{name: "backslash", fields: bearer(`Bearer to\k`), want: code400R},                              // R14
	{name: "pipe", fields: bearer("Bearer tok|x"), want: code400R},                                  // R14

	{name: "equals sign inside", fields: bearer("Bearer a=b"), want: code400R},          // R15
	{name: "only equals signs", fields: bearer("Bearer ==="), want: code400R},           // R15
	{name: "equals sign first", fields: bearer("Bearer =abc"), want: code400R},          // R15
	{name: "bytes behind the padding", fields: bearer("Bearer abc==d"), want: code400R}, // R15

	{name: "16384 bytes", fields: bearer("Bearer " + longestToken), want: codeOK, token: longestToken},                                               // R17
	{name: "16385 bytes", fields: bearer("Bearer " + longestToken + "t"), want: code400R},                                                            // R17
	{name: "16384 bytes behind many spaces", fields: bearer("Bearer" + strings.Repeat(" ", 1000) + longestToken), want: codeOK, token: longestToken}, // R17
	{name: "one byte", fields: bearer("Bearer t"), want: codeOK, token: "t"},                                                                         // R17

	{name: "a million bytes", fields: bearer("Bearer " + strings.Repeat("t", 1_000_000)), want: code400R}, // R18

	{name: "token in the query", target: "/orders?access_token=good-token", want: code401N},                                                             // R19
	{name: "token in the query beside another scheme", target: "/orders?access_token=good-token", fields: bearer("Basic Zm9vOmJhcg=="), want: code401N}, // R19
	{name: "token in the query by another name", target: "/orders?token=good-token&bearer_token=good-token", want: code401N},                            // R19

	{name: "token in Proxy-Authorization", fields: []string{"Proxy-Authorization: Bearer good-token"}, want: code401N}, // R25
	{name: "token in other fields", fields: []string{
		"X-Authorization: Bearer good-token", "Authorization2: Bearer good-token", "Authorisation: Bearer good-token",
		"X-Forwarded-Authorization: Bearer good-token", "X-Access-Token: good-token", "X-Api-Key: good-token", "Token: good-token",
	}, want: code401N}, // R25

	{name: "token in a cookie", fields: []string{"Cookie: access_token=good-token"}, want: code401N}, // R26

	{name: "token as a WebSocket protocol", fields: []string{"Sec-WebSocket-Protocol: bearer, good-token"}, want: code401N}, // R27

	{name: "looks like a JWT", fields: bearer("Bearer " + jwtLike), want: codeOK, token: jwtLike}, // R31

	{name: "looks like a JWE", fields: bearer("Bearer " + jweLike), want: codeOK, token: jweLike}, // R32

	{name: "all kinds of characters, padded twice", fields: bearer("Bearer a+b/c=="), want: codeOK, token: "a+b/c=="}, // R33
	{name: "the other kinds, padded once", fields: bearer("Bearer -._~09AZaz="), want: codeOK, token: "-._~09AZaz="},  // R33

	{name: "User-Agent of a health check", fields: []string{"User-Agent: GoogleHC/1.0"}, want: code401N},                                         // R48
	{name: "User-Agent of a probe", fields: []string{"User-Agent: kube-probe/1.30"}, target: "/healthz", want: code401N},                         // R48
	{name: "X-Forwarded-Uri", fields: []string{"X-Forwarded-Uri: /public", "X-Forwarded-Method: OPTIONS"}, want: code401N},                       // R48
	{name: "X-Original-URL", fields: []string{"X-Original-URL: /public", "X-Rewrite-URL: /public"}, want: code401N},                              // R48
	{name: "method override", fields: []string{"X-HTTP-Method-Override: OPTIONS"}, want: code401N},                                               // R48
	{name: "identity fields", fields: []string{"X-Forwarded-User: root", "X-Remote-User: root", "X-Auth-Sub: root"}, want: code401N},             // R48
	{name: "source address", fields: []string{"X-Forwarded-For: 127.0.0.1", "X-Real-Ip: 127.0.0.1", "Forwarded: for=127.0.0.1"}, want: code401N}, // R48
	{name: "encoded slash", target: "/public/..%2fadmin", want: code401N},                                                                        // R48
	{name: "two slashes", target: "//admin", want: code401N},                                                                                     // R48
	{name: "dot segments", target: "/public/../admin", want: code401N},                                                                           // R48
	{name: "path parameter", target: "/admin;/public", want: code401N},                                                                           // R48
	{name: "encoded fragment", target: "/admin%23/public", want: code401N},                                                                       // R48
	{name: "well-known", target: "/.well-known/oauth-protected-resource", want: code401N},                                                        // R48
}

// uri returns the target of the request.
func (c requestCase) uri() string {
	if c.target == "" {
		return "/orders"
	}
	return c.target
}

// header returns the fields as a server would parse them.
func (c requestCase) header() http.Header {
	h := http.Header{}
	for _, field := range c.fields {
		name, value, _ := strings.Cut(field, ": ")
		h.Add(name, value)
	}
	return h
}

// secretsOf registers all that a client sent as credentials.
func (as *fakeAS) secretsOf(values ...string) {
	for _, value := range values {
		words := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(" \t,:=&?", r) })
		for _, word := range words {
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

// The verdict on a request is the same in memory, over HTTP/1.1 and over
// HTTP/2. The server is asked about exactly the token that was sent, or not at
// all.
//
// Catalogue: R43.
func TestRequests(t *testing.T) {
	for _, w := range wires {
		t.Run(w.name, func(t *testing.T) {
			for _, tc := range requestCases {
				t.Run(tc.name, func(t *testing.T) {
					as := newAS(t)
					for _, value := range tc.header()["Authorization"] {
						as.secretsOf(value)
					}
					next := &spy{}
					rec := w.carry(t, as.middleware().Handler(next), tc)
					if got := as.outcome(rec, next, 0); got != tc.want {
						t.Errorf("%s, want %s", got, tc.want)
					}
					var want []string
					if tc.token != "" {
						want = []string{tc.token}
					}
					if got := as.asked(); !slices.Equal(got, want) {
						t.Errorf("the server was asked about %q, want %q", got, want)
					}
					if tc.want != codeOK {
						return
					}
					got := next.last()
					seen := fmt.Sprint(got.Header, got.URL, got.RequestURI)
					if len(tc.token) > 3 && strings.Contains(seen, tc.token) {
						t.Errorf("the opaque token is in the request of the next handler: %v", got.Header)
					}
				})
			}
		})
	}
}

// Some header maps cannot come from a client, but an outer handler or another
// server can leave them behind. They are judged as strictly.
func TestRequestHeaderMaps(t *testing.T) {
	for _, tc := range []struct {
		name   string
		header http.Header
		want   string
	}{
		{"a key that only looks like it", http.Header{"Authorızation": {"Bearer opaque-token"}, "Authorization ": {"Bearer opaque-token"}}, code401N}, // R1

		{"only tabs", http.Header{"Authorization": {"\t\t"}}, code401N}, // R2

		{"other key", http.Header{"authorization": {"Bearer opaque-token"}}, codeOK}, // R5

		{"NUL in place of the space", http.Header{"Authorization": {"Bearer\x00opaque-token"}}, code400R}, // R7

		{"leading space", http.Header{"Authorization": {" Bearer opaque-token"}}, code401N},       // R8
		{"trailing space", http.Header{"Authorization": {"Bearer opaque-token "}}, code400R},      // R8
		{"line feed", http.Header{"Authorization": {"Bearer opaque-token\nX: y"}}, code400R},      // R8
		{"CR LF at the end", http.Header{"Authorization": {"Bearer opaque-token\r\n"}}, code400R}, // R8

		{"two keys with two tokens", http.Header{"Authorization": {"Bearer opaque-token"}, "authorization": {"Bearer other-token"}}, code400R}, // R10

		{"two keys, one value", http.Header{"Authorization": {"Bearer opaque-token"}, "AUTHORIZATION": {"Bearer opaque-token"}}, code400R}, // R11
		{"an empty key beside it", http.Header{"Authorization": {"Bearer opaque-token"}, "authorization": {}}, codeOK},                     // R11

		{"two keys, neither canonical", http.Header{"authorization": {"Basic Zm9vOmJhcg=="}, "AUTHORIZATION": {"Bearer opaque-token"}}, code400R}, // R13

		{"NUL", http.Header{"Authorization": {"Bearer opaque-token\x00"}}, code400R}, // R14
		{"DEL", http.Header{"Authorization": {"Bearer opaque-token\x7f"}}, code400R}, // R14

		{"nil header", nil, code401N},                                                                   // R30
		{"no values", http.Header{"Authorization": {}}, code401N},                                       // R30
		{"nil values", http.Header{"Authorization": nil}, code401N},                                     // R30
		{"no values in another case", http.Header{"authorization": {}, "AUTHORIZATION": nil}, code401N}, // R30
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.secret("opaque-token")
			r := get()
			r.Header = tc.header
			next := &spy{}
			rec := serve(as.middleware().Handler(next), r)
			if got := as.outcome(rec, next, 0); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			if tc.want != codeOK {
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

// Requests that only bytes on a socket can spell get the right verdict too.
func TestRequestBytes(t *testing.T) {
	const start, end = "GET /orders HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n", "\r\n"
	for _, tc := range []struct {
		name, request, want, token string
	}{
		{"scheme and spaces at the end", start + "Authorization: Bearer    \r\n" + end, code400R, ""}, // R4

		{"no space after the colon", start + "Authorization:Bearer good-token\r\n" + end, codeOK, "good-token"},   // R6
		{"spaces at both ends", start + "Authorization:  \tBearer good-token \t\r\n" + end, codeOK, "good-token"}, // R6

		{"folded line", start + "Authorization: Bearer good-token\r\n other-token\r\n" + end, code400R, ""},               // R8
		{"scheme and token on two lines", start + "Authorization: Bearer\r\n good-token\r\n" + end, codeOK, "good-token"}, // R8

		{"1.0 without Host, without a token", "GET /orders HTTP/1.0\r\n\r\n", code401N, ""},                                          // R44
		{"1.0 with Host, without a token", "GET /orders HTTP/1.0\r\nHost: rs.test\r\n\r\n", code401N, ""},                            // R44
		{"1.0 without Host", "GET /orders HTTP/1.0\r\nAuthorization: Bearer good-token\r\n\r\n", codeOK, "good-token"},               // R44
		{"1.0 with Host", "GET /orders HTTP/1.0\r\nHost: rs.test\r\nAuthorization: Bearer good-token\r\n\r\n", codeOK, "good-token"}, // R44
		{"1.0 malformed", "GET /orders HTTP/1.0\r\nAuthorization: Bearer good token\r\n\r\n", code400R, ""},                          // R44

		{"bare LF", start + "Authorization: Bearer good-token\nX: y\r\n" + end, codeOK, "good-token"}, // R45

		{"absolute form", "GET http://public.test/ HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n", code401N, ""}, // R48
		{"asterisk form", "OPTIONS * HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n", code401N, ""},               // R48
		{"preflight", "OPTIONS /orders HTTP/1.1\r\nHost: rs.test\r\nOrigin: https://app.test\r\n" +
			"Access-Control-Request-Method: GET\r\nConnection: close\r\n\r\n", code401N, ""}, // R48
		{"fragment", "GET /admin#/public HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n", code401N, ""}, // R48
		{"unknown method", "BREW /pot HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n", code401N, ""},    // R48
	} {
		t.Run(tc.name, func(t *testing.T) {
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
			must(io.WriteString(conn, tc.request))
			rec := record(t, must(http.ReadResponse(bufio.NewReader(conn), nil)))
			if got := as.outcome(rec, next, 0); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			var want []string
			if tc.token != "" {
				want = []string{tc.token}
			}
			if got := as.asked(); !slices.Equal(got, want) {
				t.Errorf("the server was asked about %q, want %q", got, want)
			}
			if tc.name == "bare LF" && !slices.Equal(next.last().Header["X"], []string{"y"}) {
				t.Errorf("what follows the line feed is no field of its own: %v", next.last().Header)
			}
		})
	}
}

// The cache knows a token however many spaces stand before it.
//
// Catalogue: R6.
func TestSpacesDoNotChangeTheKey(t *testing.T) {
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

// A thousand tokens of a million bytes leave the heap as it was.
//
// Catalogue: R18.
func TestLongTokensLeaveNothingBehind(t *testing.T) {
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

// A trailer is never taken for a credential. The outer handler reads the body
// first, so the trailer is there when the request is judged.
//
// Catalogue: R28.
func TestAuthorizationInATrailerIsNoCredential(t *testing.T) {
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
