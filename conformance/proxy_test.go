package conformance_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// An upstream is a server behind a reverse proxy that records what it gets.
type upstream struct {
	*httptest.Server
	mu       sync.Mutex
	dumps    []string      // requests as they came, without their bodies
	headers  []http.Header // of each request
	announce []http.Header // trailers announced by each request
	trailers []http.Header // trailers when the body has been read
	bodies   []string
	serve    http.HandlerFunc // what else it does
}

// newUpstream starts an upstream on a socket.
func newUpstream(t *testing.T) *upstream {
	u := &upstream{}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

// ServeHTTP records the request, and its body unless the connection is to be
// upgraded.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	dump := string(must(httputil.DumpRequest(r, false)))
	announced := r.Trailer.Clone()
	var body []byte
	if r.Header.Get("Upgrade") == "" {
		body = must(io.ReadAll(r.Body))
	}
	u.mu.Lock()
	u.dumps, u.headers = append(u.dumps, dump), append(u.headers, r.Header)
	u.announce, u.trailers = append(u.announce, announced), append(u.trailers, r.Trailer.Clone())
	u.bodies = append(u.bodies, string(body))
	u.mu.Unlock()
	if u.serve != nil {
		u.serve(w, r)
	}
}

// A proxy is a reverse proxy in front of an upstream.
type proxy struct {
	name string
	http.Handler
}

// proxies are both ways to make one. A reverse proxy removes hop-by-hop fields
// after Director and before Rewrite.
func (u *upstream) proxies() []proxy {
	target := must(url.Parse(u.URL))
	return []proxy{
		{"Director", &httputil.ReverseProxy{
			Director: func(r *http.Request) { r.URL.Scheme, r.URL.Host = target.Scheme, target.Host },
		}},
		{"Rewrite", &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		}},
	}
}

// A client lists Authorization in Connection to make a reverse proxy drop it.
// The upstream gets the JWT all the same, and no hop-by-hop field.
//
// Catalogue: P53.
func TestConnectionCannotDropAuthorization(t *testing.T) {
	for _, tc := range []struct{ name, fields string }{
		{"without", "Connection: close\r\n"},
		{"lower case", "Connection: close, authorization\r\n"},
		{"canonical", "Connection: Authorization, close\r\n"},
		{"upper case", "Connection: AUTHORIZATION,close\r\n"},
		{"alone", "Connection: authorization\r\n"},
		{"twice", "Connection: authorization, close, Authorization\r\n"},
		{"spaces and empty elements", "Connection: \t ,, authorization \t,, close,\r\n"},
		{"two lines", "Connection: close\r\nConnection: authorization\r\n"},
		{"two lines, both lists", "Connection: authorization, close\r\nConnection: X-Hop, authorization\r\n"},
		{"beside other fields", "Connection: X-Hop, authorization, close\r\n"},
		{"Keep-Alive", "Connection: keep-alive, authorization, close\r\nKeep-Alive: timeout=5\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := newUpstream(t)
			for _, proxy := range up.proxies() {
				as := newAS(t)
				jwt := mint("ES256", claims(nil))
				as.introspect = answerJWT(jwt)
				m := as.middleware()
				twice := func(next http.Handler) http.Handler { return m.Handler(m.RequireScopes("read")(next)) }
				for _, mounting := range append(mountings(m), mounting{"twice", twice}) {
					up.headers = nil
					rec := exchange(t, mounting.wrap(proxy), "GET /orders HTTP/1.1\r\nHost: rs.test\r\n"+
						"Authorization: Bearer "+as.secret("opaque-token")+"\r\nX-Hop: 1\r\n"+
						"Proxy-Authorization: Basic Zm9v\r\nTe: gzip\r\nX-Kept: 1\r\n"+tc.fields+"\r\n")
					how := proxy.name + ", " + mounting.name
					if rec.Code != http.StatusOK || len(up.headers) != 1 {
						t.Fatalf("%s: status %d, %d requests upstream", how, rec.Code, len(up.headers))
					}
					got := up.headers[0]
					if !slices.Equal(got["Authorization"], []string{"Bearer " + jwt}) {
						t.Errorf("%s: upstream got Authorization %q", how, got["Authorization"])
					}
					for _, hop := range []string{"Connection", "Proxy-Authorization", "Keep-Alive", "Te"} {
						if got[hop] != nil {
							t.Errorf("%s: upstream got %s %q", how, hop, got[hop])
						}
					}
					named := strings.Contains(tc.fields, "X-Hop")
					if named == (got["X-Hop"] != nil) || got.Get("X-Kept") != "1" {
						t.Errorf("%s: upstream got %v", how, got)
					}
				}
			}
		})
	}
}

// echo is a WebSocket of a kind: it switches protocols and answers each line in
// upper case.
func echo(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Accept: yes\r\n\r\n")
		rw.Flush()
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprint(rw, strings.ToUpper(line))
			rw.Flush()
		}
	}
}

// A WebSocket handshake carries the JWT upstream, and bytes flow both ways.
//
// Catalogue: P55.
func TestWebSocket(t *testing.T) {
	for _, connection := range []string{
		"Upgrade, Authorization", "authorization,upgrade", "keep-alive, Upgrade, authorization",
	} {
		up := newUpstream(t)
		up.serve = echo(t)
		for _, proxy := range up.proxies() {
			t.Run(proxy.name+" "+connection, func(t *testing.T) {
				as := newAS(t)
				jwt := mint("ES256", claims(nil))
				as.introspect = answerJWT(jwt)
				conn, in := dial(t, as.middleware().Handler(proxy))
				must(fmt.Fprintf(conn, "GET /socket HTTP/1.1\r\nHost: rs.test\r\n"+
					"Connection: %s\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
					"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer %s\r\n\r\n",
					connection, as.secret("opaque-token")))
				resp := must(http.ReadResponse(in, nil))
				accepted := resp.Header.Get("Sec-WebSocket-Accept") == "yes"
				if resp.StatusCode != http.StatusSwitchingProtocols || !accepted {
					t.Fatalf("handshake: %s %v", resp.Status, resp.Header)
				}
				for _, word := range []string{"ping", "pong"} {
					must(fmt.Fprintln(conn, word))
					if got := must(in.ReadString('\n')); got != strings.ToUpper(word)+"\n" {
						t.Errorf("%q came back as %q", word, got)
					}
				}
				got := up.headers[len(up.headers)-1]
				if !slices.Equal(got["Authorization"], []string{"Bearer " + jwt}) ||
					!slices.Equal(got["Connection"], []string{"Upgrade"}) ||
					!slices.Equal(got["Upgrade"], []string{"websocket"}) {
					t.Errorf("upstream got %v", got)
				}
			})
		}
	}
}

// Without a good token no handshake reaches the upstream.
//
// Catalogue: P55.
func TestWebSocketRejected(t *testing.T) {
	up := newUpstream(t)
	for _, proxy := range up.proxies() {
		as := newAS(t)
		as.introspect = answer(204, "", "")
		rec := exchange(t, as.middleware().Handler(proxy), "GET /socket HTTP/1.1\r\nHost: rs.test\r\n"+
			"Connection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer opaque-token\r\n\r\n")
		delete(rec.Header(), "Date")
		checkRejection(t, rec, code401T, false)
		if len(up.dumps) != 0 {
			t.Errorf("%s: upstream got %q", proxy.name, up.dumps)
		}
	}
}

// A client hides Authorization in a trailer. The upstream sees neither the
// trailer nor its announcement.
//
// Catalogue: P56.
func TestAuthorizationInATrailerIsDropped(t *testing.T) {
	for _, tc := range []struct {
		name, announced, trailer string
		want                     []string // announced upstream
	}{
		{"announced", "Authorization", "Authorization: Bearer evil-token\r\n", nil},
		{"in lower case", "authorization", "authorization: Bearer evil-token\r\n", nil},
		{"beside another", "X-Sum, Authorization", "X-Sum: 1\r\nAuthorization: Bearer evil-token\r\n", []string{"X-Sum"}},
		{"not announced", "", "Authorization: Bearer evil-token\r\n", nil},
		{"not announced beside another", "X-Sum", "X-Sum: 1\r\nAuthorization: Bearer evil-token\r\n", []string{"X-Sum"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := newUpstream(t)
			for _, proxy := range up.proxies() {
				as := newAS(t)
				jwt := mint("ES256", claims(nil))
				as.introspect = answerJWT(jwt)
				announced := ""
				if tc.announced != "" {
					announced = "Trailer: " + tc.announced + "\r\n"
				}
				up.headers, up.announce, up.trailers, up.bodies = nil, nil, nil, nil
				rec := exchange(t, as.middleware().Optional(proxy), "POST /orders HTTP/1.1\r\nHost: rs.test\r\n"+
					"Connection: close\r\nAuthorization: Bearer "+as.secret("opaque-token")+"\r\nTransfer-Encoding: chunked\r\n"+announced+
					"\r\n4\r\nbody\r\n0\r\n"+tc.trailer+"\r\n")
				if rec.Code != http.StatusOK || len(up.headers) != 1 {
					t.Fatalf("%s: status %d, %d requests upstream", proxy.name, rec.Code, len(up.headers))
				}
				if got := up.headers[0]["Authorization"]; !slices.Equal(got, []string{"Bearer " + jwt}) {
					t.Errorf("%s: upstream got Authorization %q", proxy.name, got)
				}
				if got := slices.Sorted(maps.Keys(up.announce[0])); !slices.Equal(got, tc.want) {
					t.Errorf("%s: trailers announced upstream: %q", proxy.name, got)
				}
				if got := up.trailers[0]["Authorization"]; got != nil || up.bodies[0] != "body" {
					t.Errorf("%s: upstream got the trailer %q, body %q", proxy.name, got, up.bodies[0])
				}
			}
		})
	}
}

// A JWT of 30 KiB reaches the upstream whole.
//
// Catalogue: P71.
func TestLargeJWT(t *testing.T) {
	jwt := ""
	for n := 20 << 10; len(jwt) < 30<<10; n += 64 {
		jwt = mint("ES256", claims(map[string]any{"filler": strings.Repeat("x", n)}))
	}
	if len(jwt) > 32<<10 {
		t.Fatalf("a JWT of %d bytes", len(jwt))
	}
	up := newUpstream(t)
	for _, proxy := range up.proxies() {
		as := newAS(t)
		as.introspect = answerJWT(jwt)
		rec := exchange(t, as.middleware().Handler(proxy),
			"GET / HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\nAuthorization: Bearer "+as.secret("opaque-token")+"\r\n\r\n")
		if rec.Code != http.StatusOK {
			t.Fatalf("%s: status %d", proxy.name, rec.Code)
		}
		if got := up.headers[len(up.headers)-1]["Authorization"]; !slices.Equal(got, []string{"Bearer " + jwt}) {
			t.Errorf("%s: upstream got %d values", proxy.name, len(got))
		}
	}
}
