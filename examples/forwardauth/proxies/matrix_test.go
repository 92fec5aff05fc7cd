package proxies

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	noToken   = `Bearer realm="api"`
	invalid   = `Bearer realm="api", error="invalid_token"`
	malformed = `Bearer realm="api", error="invalid_request", error_description="The bearer token is malformed or sent more than once."`
	forbidden = `Bearer realm="api", error="insufficient_scope", scope="orders:read"`
)

// each runs the test with each proxy, between an API and the real service.
func each(t *testing.T, test func(t *testing.T, g *gate)) {
	for name := range proxies {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			test(t, s.start(t, name, s.startService(t, "127.0.0.1:0")))
		})
	}
}

func TestGoodTokenBecomesAJWT(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		for _, scheme := range []string{"Bearer ", "bearer ", "BEARER ", "bEaReR    "} {
			g.send(t, "GET /x?a=b;c", []string{"authorization: " + scheme + g.issue(nil)}, "").served(t)
			if r := g.upstream.one(t); r.RequestURI != "/x?a=b;c" {
				t.Errorf("the API was asked for %q", r.RequestURI)
			}
		}
		body := strings.Repeat("0123456789abcdef", 64<<10)
		g.send(t, "POST /x", []string{"Authorization: Bearer " + g.issue(nil)}, body).served(t)
		g.upstream.one(t)
		if got := g.upstream.lastBody(); got != body {
			t.Errorf("body of %d bytes", len(got))
		}
		// A JWT of 30 KiB.
		g.get(t, "/x", g.issue(map[string]any{"large": strings.Repeat("x", 22_800)})).served(t)
		if n := len(g.upstream.one(t).Header.Get("Authorization")); n < 30<<10 {
			t.Errorf("JWT of %d bytes", n)
		}
	})
}

func TestVerdictReachesTheClient(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		token := g.issue(map[string]any{"scope": "profile"})
		g.get(t, "/x", token).served(t)
		jwt := strings.TrimPrefix(g.upstream.one(t).Header.Get("Authorization"), "Bearer ")
		for _, tc := range []struct {
			name, line string
			fields     []string
			status     int
			challenge  string
		}{
			{"no token", "GET /x", nil, 401, noToken},
			{"another scheme", "GET /x", []string{"Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}, 401, noToken},
			{"an empty field", "GET /x", []string{"Authorization:"}, 401, noToken},
			{"junk", "GET /x", []string{"Authorization: Bearer junk"}, 401, invalid},
			{"a JWT from outside", "GET /x", []string{"Authorization: Bearer " + jwt}, 401, invalid},
			{"malformed", "GET /x", []string{"Authorization: Bearer a b"}, 400, malformed},
			{"scope missing", "GET /orders/1", []string{"Authorization: Bearer " + token}, 403, forbidden},
			{"scope missing, no slash", "GET /orders", []string{"Authorization: Bearer " + token}, 403, forbidden},
			{"scope missing, POST", "POST /orders/1", []string{"Authorization: Bearer " + token}, 403, forbidden},
			{"preflight", "OPTIONS /x", []string{"Origin: https://app.example", "Access-Control-Request-Method: GET"}, 401, noToken},
			{"HEAD", "HEAD /x", nil, 401, noToken},
		} {
			t.Run(tc.name, func(t *testing.T) {
				a := g.send(t, tc.line, tc.fields, "")
				a.refused(t, tc.status, tc.challenge)
				if got := a.header.Values("Cache-Control"); len(got) != 1 || got[0] != "no-store" {
					t.Errorf("Cache-Control %q", got)
				}
				g.upstream.untouched(t)
			})
		}
		g.get(t, "/orders/1", g.issue(map[string]any{"scope": "orders:read"})).served(t)
		g.upstream.one(t)
	})
}

// Two fields are refused by the service or before it is asked.
func TestTwoTokensAreRefused(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		good := "Authorization: Bearer " + g.issue(nil)
		for _, fields := range [][]string{{good, good}, {good, "authorization: Bearer junk"}, {"Authorization: Basic eA==", good}} {
			if a := g.send(t, "GET /x", fields, ""); a.status != http.StatusBadRequest {
				t.Errorf("status %d", a.status)
			}
			g.upstream.untouched(t)
		}
	})
}

func TestNoVerdictIsNoAdmission(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		g.as.Fail(http.StatusServiceUnavailable, 100)
		a := g.get(t, "/x", g.issue(nil))
		a.refused(t, http.StatusServiceUnavailable, "")
		if got := a.header.Values("Retry-After"); len(got) != 1 || got[0] == "" {
			t.Errorf("Retry-After %q", got)
		}
		g.upstream.untouched(t)
	})
	each(t, func(t *testing.T, g *gate) {
		g.as.Fail(http.StatusBadRequest, 100) // no answer that can be used
		g.get(t, "/x", g.issue(nil)).refused(t, http.StatusBadGateway, "")
		g.upstream.untouched(t)
	})
}

// What the API answers is not taken for the service's answer.
func TestAnswersOfTheAPIAreUntouched(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		token := g.issue(nil)
		for _, status := range []int{400, 401, 403, 404, 500, 502, 503, 504} {
			g.upstream.be(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", "Custom")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, "the API's own words")
			})
			a := g.get(t, "/x", token)
			a.refused(t, status, "Custom")
			if a.body != "the API's own words" {
				t.Errorf("%d: body %q", status, a.body)
			}
			g.upstream.one(t)
		}
	})
}

// A client may name any field as one of the connection's. Caddy takes it off
// before it asks; no proxy lets the opaque token or no token through.
func TestConnectionFieldOpensNothing(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		token := g.issue(nil)
		for _, connection := range []string{"close, authorization", "close, Authorization, X-Forwarded-For"} {
			a := g.send(t, "GET /x", []string{"Connection: " + connection, "Authorization: Bearer " + token}, "")
			if g.name == "caddy" {
				a.refused(t, http.StatusUnauthorized, noToken)
				g.upstream.untouched(t)
				continue
			}
			a.served(t)
			g.upstream.one(t)
		}
	})
}

// forgeable are fields with which a client could make up who it is, or another
// route. G6 among them.
var forgeable = []string{
	"Client-Cert", "Client-Cert-Chain", "DPoP", "Forwarded", "Proxy", "Proxy-Authorization", "Remote-User", "True-Client-IP",
	"X-Auth-Request-Access-Token", "X-Auth-Request-Email", "X-Auth-Request-User", "X-Client-IP", "X-Forwarded-Access-Token",
	"X-Forwarded-Authorization", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Prefix", "X-Forwarded-Uri",
	"X-Forwarded-User", "X-Original-URL", "X-Original-Uri", "X-Phantom-Jwt", "X-Real-IP", "X-Remote-User", "X-Rewrite-URL",
	"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
}

func TestForgedFieldsDoNotReachTheAPI(t *testing.T) {
	const forged = "forged-by-the-client"
	each(t, func(t *testing.T, g *gate) {
		token := g.issue(nil)
		for _, name := range forgeable {
			for _, spelling := range []string{
				name, strings.ToLower(name), strings.ToUpper(name), strings.ReplaceAll(name, "-", "_"), strings.Replace(name, "-", "_", 1),
			} {
				g.send(t, "GET /x", []string{"Authorization: Bearer " + token, spelling + ": " + forged}, "").served(t)
				for field, values := range g.upstream.one(t).Header {
					if strings.Contains(strings.Join(values, ","), forged) {
						t.Errorf("%s came as %s", spelling, field)
					}
				}
			}
		}
		// In place of Authorization, or beside it.
		for _, name := range []string{"Authorization_", "_Authorization", "X_Authorization"} {
			a := g.send(t, "GET /x", []string{name + ": Bearer " + token}, "")
			if a.status != http.StatusUnauthorized && a.status != http.StatusBadRequest {
				t.Errorf("%s: status %d", name, a.status)
			}
			g.upstream.untouched(t)
		}
	})
}

// The route is the one that the API serves, not one that a field names.
func TestFieldsDoNotChooseTheRoute(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		token := g.issue(nil)
		for _, field := range []string{
			"X-Forwarded-Uri: /x", "X-Original-URL: /x", "X-Original-URI: /x", "X-Rewrite-URL: /x", "X-Forwarded-Prefix: /x",
			"X-Forwarded-Method: OPTIONS", "X-HTTP-Method-Override: OPTIONS", "X_Forwarded_Uri: /x", "Forwarded: path=/x",
		} {
			a := g.send(t, "GET /orders/1", []string{"Authorization: Bearer " + token, field}, "")
			a.refused(t, http.StatusForbidden, forbidden)
			g.upstream.untouched(t)
		}
	})
}

// However the path is written, what the API may take for /orders needs the
// scope.
func TestSpellingOfThePathOpensNothing(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		token := g.issue(nil)
		for _, target := range []string{
			"/orders", "/orders/", "/orders/1", "//orders/1", "/./orders/1", "/x/../orders/1", "/x/..//orders/1", "/%6frders/1", "/%6Frders",
			"/orders%2f1", "/orders%2F1", "/%2forders/1", "/%2e/orders/1", "/x/%2e%2e/orders/1", "/x/..%2forders/1", "/orders/./1",
			"/orders?x", "/orders%3fx", "/orders;x/1", "/orders%3bx/1", "/orders/../orders/1", "http://api.test/orders/1",
			"/orders/1#x", "http://other.test//orders/1", "*", "orders/1", "/x/../../orders", "/orders%00", "/\\orders",
		} {
			g.send(t, "GET "+target, []string{"Authorization: Bearer " + token}, "")
			for _, r := range g.upstream.take() {
				checkJWT(t, r)
				decoded, err := url.PathUnescape(r.URL.Path)
				if cleaned := path.Clean("/" + decoded); err != nil || cleaned == "/orders" || strings.HasPrefix(cleaned, "/orders/") {
					t.Errorf("%s came to the API as %s without the scope", target, r.RequestURI)
				}
			}
		}
	})
}

// With TRACE, an API shows the JWT to the client.
func TestTraceAndConnectDoNotReachTheAPI(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		token := g.issue(nil)
		for _, line := range []string{"TRACE /x", "CONNECT api.test:80"} {
			if a := g.send(t, line, []string{"Authorization: Bearer " + token}, ""); a.status < 400 {
				t.Errorf("%s: status %d", line, a.status)
			}
			g.upstream.untouched(t)
		}
	})
}

// The location that asks is nginx's own.
func TestQuestionIsOutOfReachOfClients(t *testing.T) {
	s := newSite(t)
	g := s.start(t, "nginx", s.startService(t, "127.0.0.1:0"))
	token := g.issue(nil)
	for _, target := range []string{"/_phantom/", "/_phantom/orders:read", "/%5fphantom/", "/x/../_phantom/", "//_phantom/"} {
		g.get(t, target, token).refused(t, http.StatusNotFound, "")
		g.upstream.untouched(t)
	}
}

// Whatever answers in the service's place, only a 200 with a JWT opens the way,
// and no answer at all never does.
func TestBrokenServiceAdmitsNobody(t *testing.T) {
	const jwtLike = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2ln"
	write := func(status int, name, value string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if name != "" {
				w.Header().Set(name, value)
			}
			w.WriteHeader(status)
		}
	}
	raw := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, text)
				conn.Close()
			}
		}
	}
	for name := range proxies {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			token := s.issue(map[string]any{"scope": "orders:read"})
			stop := make(chan struct{})
			answers := map[string]http.HandlerFunc{
				"200 without a JWT":            write(200, "", ""),
				"204":                          write(204, "", ""),
				"200 with the opaque token":    write(200, "Authorization", "Bearer "+token),
				"200 with another scheme":      write(200, "Authorization", "Basic "+jwtLike),
				"200 with an empty field":      write(200, "Authorization", ""),
				"302":                          write(302, "Location", "/"),
				"302 with a JWT":               write(302, "Authorization", "Bearer "+jwtLike),
				"404":                          write(404, "", ""),
				"404 with a JWT":               write(404, "Authorization", "Bearer "+jwtLike),
				"500":                          write(500, "", ""),
				"no answer":                    raw(""),
				"no HTTP":                      raw("Authorization: Bearer " + jwtLike + "\r\n\r\n"),
				"half a header":                raw("HTTP/1.1 200 OK\r\nAuthorization: Bearer " + jwtLike + "\r\n"),
				"an answer that does not come": func(_ http.ResponseWriter, r *http.Request) { <-stop },
			}
			var answer atomic.Pointer[http.HandlerFunc]
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*answer.Load())(w, r) }))
			t.Cleanup(server.Close)
			t.Cleanup(func() { close(stop) })
			// Only the slow one waits: for one second in place of ten.
			g := s.start(t, name, server.Listener.Addr().String(), "10s", "1s", "10000", "1000")
			for what, behaviour := range answers {
				t.Run(what, func(t *testing.T) {
					answer.Store(&behaviour)
					for _, target := range []string{"/x", "/orders/1"} {
						if a := g.get(t, target, token); a.status < 300 || a.body == "the API's" {
							t.Errorf("status %d", a.status)
						}
						g.upstream.untouched(t)
					}
				})
			}
		})
	}
}

// HAProxy goes on after an error in Lua; the rule behind the call refuses. The
// error stands in place of each line that decides.
func TestErrorInLuaAdmitsNobody(t *testing.T) {
	for _, tc := range []struct {
		place     string
		admission bool // that of a good token does not come there
	}{
		{"local values = {}\n", false},
		{"txn:set_var(\"txn.phantom_ok\", true)\n", false},
		{"txn:done(reply)\n", true},
	} {
		s := newSite(t)
		g := s.start(t, "haproxy", s.startService(t, "127.0.0.1:0"), tc.place, "error('broken')\n")
		tokens := []string{"", "junk"}
		if !tc.admission {
			tokens = append(tokens, g.issue(map[string]any{"scope": "orders:read"}))
		}
		for _, token := range tokens {
			for _, target := range []string{"/x", "/orders/1"} {
				if a := g.get(t, target, token); a.status < 400 {
					t.Errorf("%s: status %d", tc.place, a.status)
				}
				g.upstream.untouched(t)
			}
		}
	}
}

// Catalogue: G7.
func TestServiceThatIsGoneAdmitsNobody(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		token := g.issue(nil)
		g.get(t, "/x", token).served(t)
		g.upstream.one(t)
		address := g.service.logged(t, "serving")["address"].(string)
		g.service.kill()
		want := http.StatusBadGateway
		if g.name == "haproxy" {
			want = http.StatusServiceUnavailable
		}
		g.get(t, "/x", token).refused(t, want, "") // HAProxy tries for some seconds
		g.get(t, "/orders/1", "").refused(t, want, "")
		g.upstream.untouched(t)
		g.startService(t, address)
		var a answer
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			if a = g.get(t, "/x", token); a.status == http.StatusOK {
				break
			}
		}
		a.served(t)
		g.upstream.one(t)
	})
}

// Catalogue: G12.
func TestManyRequestsAreOneLookup(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		token, other := g.issue(nil), g.issue(nil)
		client := &http.Client{Timeout: patience}
		subjects := map[string]bool{}
		for i := range 1000 {
			r, _ := http.NewRequest(http.MethodGet, fmt.Sprintf("http://%s/x", g.address), nil)
			r.Header.Set("Authorization", "Bearer "+token)
			if i%100 == 99 { // no client gets what another one asked for
				r.Header.Set("Authorization", "Bearer "+other)
			}
			response, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Fatalf("status %d", response.StatusCode)
			}
			subjects[g.upstream.one(t).Header.Get("Authorization")] = true
		}
		// Warm asks once, about a token of its own.
		if n := g.as.Introspections(); n != 3 || len(subjects) != 2 {
			t.Errorf("%d lookups and %d JWTs for two tokens and Warm", n, len(subjects))
		}
	})
}
