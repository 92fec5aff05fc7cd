package forwardauth_test

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/forwardauth"
	"github.com/phantom-token/phantom/phantomtest"
)

// A service is the handler beside what it stands on.
type service struct {
	as      *phantomtest.AuthorizationServer
	handler http.Handler
	log     bytes.Buffer
}

func newService(t *testing.T, serverOptions []phantomtest.Option, opts ...phantom.Option) *service {
	t.Helper()
	s := &service{as: phantomtest.New(serverOptions...)}
	logger := slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	m, err := phantom.New(append(append(s.as.Options(), phantom.WithLogger(logger)), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	s.handler = forwardauth.Handler(m)
	return s
}

// ask puts a question with these fields, two texts each.
func (s *service) ask(method, target string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/", nil)
	u, err := url.Parse(target)
	if err != nil {
		panic(err)
	}
	r.URL = u
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

// bearer returns the Authorization field with the token.
func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

func checkAdmitted(t *testing.T, w *httptest.ResponseRecorder, opaque string) {
	t.Helper()
	if w.Code != http.StatusOK || w.Body.Len() != 0 {
		t.Errorf("status %d, body %q", w.Code, w.Body)
	}
	if len(w.Header()) != 2 || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("fields %q", slices.Collect(mapKeys(w.Header())))
	}
	got := w.Header().Values("Authorization")
	if len(got) != 1 || !strings.HasPrefix(got[0], "Bearer eyJ") || strings.Count(got[0], ".") != 2 || strings.Contains(got[0], opaque) {
		t.Errorf("%d values of Authorization, not one JWT", len(got))
	}
}

func checkRefused(t *testing.T, w *httptest.ResponseRecorder, status int, challenge string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d", w.Code, status)
	}
	if got := w.Header().Get("WWW-Authenticate"); got != challenge {
		t.Errorf("challenge %q, want %q", got, challenge)
	}
	if w.Header().Values("Authorization") != nil || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("fields %q", slices.Collect(mapKeys(w.Header())))
	}
}

func mapKeys(h http.Header) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range h {
			if !yield(name) {
				return
			}
		}
	}
}

// Catalogue: G5.
func TestAdmissionIsTheJWTAndNothingElse(t *testing.T) {
	s := newService(t, nil)
	token := s.as.Issue(nil)
	for _, target := range []string{"/", "/?scope=admin", "/#x"} {
		checkAdmitted(t, s.ask(http.MethodGet, target, bearer(token)...), token)
	}
}

// Catalogue: G2.
func TestPathNamesTheScopes(t *testing.T) {
	s := newService(t, nil)
	only := func(scope string) string { return s.as.Issue(map[string]any{"scope": scope}) }
	for _, tc := range []struct {
		name, target, scope string
		missing             string // of a 403; empty: admitted
	}{
		{"one", "/a", "a", ""},
		{"one of more", "/a", "b a c", ""},
		{"all", "/a,b", "b a", ""},
		{"one missing", "/a,b", "a", "a b"}, // G2
		{"none there", "/a,b", "", "a b"},
		{"a longer name", "/orders", "orders:read", "orders"},
		{"another case", "/a", "A", "a"},
		{"encoded comma", "/a%2Cb", "a", "a b"},
		{"encoded colon", "/orders%3Aread", "orders:read", ""},
		{"decoded once", "/a%252Cb", "a%2Cb", ""},
		{"decoded once, refused", "/a%252Cb", "a b", "a%2Cb"},
		{"dots are a scope", "/..", "a", ".."},
		{"query", "/a?b", "a", ""},
		{"named twice", "/a,a", "b", "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token := only(tc.scope)
			w := s.ask(http.MethodGet, tc.target, bearer(token)...)
			if tc.missing == "" {
				checkAdmitted(t, w, token)
				return
			}
			checkRefused(t, w, http.StatusForbidden, `Bearer realm="api", error="insufficient_scope", scope="`+tc.missing+`"`)
		})
	}
}

// A requirement of every token is in the challenge too, so that the client
// comes back once.
func TestRequirementsOfTheMiddlewareHold(t *testing.T) {
	s := newService(t, nil, phantom.WithRequirements(phantom.AllScopes("api")))
	checkRefused(t, s.ask(http.MethodGet, "/", bearer(s.as.Issue(map[string]any{"scope": "a"}))...),
		http.StatusForbidden, `Bearer realm="api", error="insufficient_scope", scope="api"`)
	checkRefused(t, s.ask(http.MethodGet, "/a", bearer(s.as.Issue(nil))...),
		http.StatusForbidden, `Bearer realm="api", error="insufficient_scope", scope="api a"`)
	token := s.as.Issue(map[string]any{"scope": "a api"})
	checkAdmitted(t, s.ask(http.MethodGet, "/a", bearer(token)...), token)
}

// A path that is no list of scopes is the proxy's mistake, or the client's own
// path: it admits nobody, and the operator hears of it.
func TestPathThatIsNoListOfScopesAdmitsNobody(t *testing.T) {
	for _, target := range []string{
		"", "*", "a", "//", "//a", "/a/", "/a/b", "/a//b", "/./", "/../a/", "/,", "/a,", "/,a", "/a,,b", "/a%2Fb", "/%2F", "/%2Fa",
		"/a%20b", "/%20", "/a%22", "/a%5C", "/%00", "/a%0Ab", "/%C3%A9", "/%E2%80%8B", "/a,%20b", "/%FF",
	} {
		t.Run(url.QueryEscape(target), func(t *testing.T) {
			s := newService(t, nil)
			token := s.as.Issue(map[string]any{"scope": "a b"})
			checkRefused(t, s.ask(http.MethodGet, target, bearer(token)...), http.StatusInternalServerError, "")
			line := s.log.String()
			if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, `detail="forwardauth: the path is no list of scopes"`) ||
				!strings.Contains(line, "status=500") || strings.Contains(line, token) || strings.Count(line, "\n") != 1 {
				t.Errorf("log %q", line)
			}
			if n := s.as.Introspections(); n != 0 {
				t.Errorf("%d introspections", n)
			}
		})
	}
}

// Catalogue: G4.
func TestMethodDoesNotCount(t *testing.T) {
	s := newService(t, nil)
	token := s.as.Issue(map[string]any{"scope": "a"})
	for _, method := range []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace,
		http.MethodConnect, "PROPFIND",
	} {
		t.Run(method, func(t *testing.T) {
			checkAdmitted(t, s.ask(method, "/a", bearer(token)...), token)
			checkRefused(t, s.ask(method, "/a"), http.StatusUnauthorized, `Bearer realm="api"`)
			checkRefused(t, s.ask(method, "/b", bearer(token)...),
				http.StatusForbidden, `Bearer realm="api", error="insufficient_scope", scope="b"`)
			preflight := s.ask(method, "/a", "Origin", "https://app.example", "Access-Control-Request-Method", "POST")
			checkRefused(t, preflight, http.StatusUnauthorized, `Bearer realm="api"`)
		})
	}
}

// Catalogue: G6.
func TestNothingButAuthorizationIsRead(t *testing.T) {
	s := newService(t, nil)
	token := s.as.Issue(map[string]any{"scope": "a"})
	jwt := s.ask(http.MethodGet, "/a", bearer(token)...).Header().Get("Authorization")
	for _, name := range []string{
		"X-Phantom-Jwt", "X-Forwarded-Authorization", "Proxy-Authorization", "X-Authorization", "X_Authorization", "Authorization_",
		"X-Original-Authorization", "X-Auth-Request-Access-Token", "Cookie",
	} {
		t.Run(name, func(t *testing.T) {
			checkRefused(t, s.ask(http.MethodGet, "/a", name, "Bearer "+token), http.StatusUnauthorized, `Bearer realm="api"`)
			checkRefused(t, s.ask(http.MethodGet, "/a", name, jwt), http.StatusUnauthorized, `Bearer realm="api"`)
		})
	}
	for _, name := range []string{
		"X-Forwarded-Uri", "X-Original-Url", "X-Original-Uri", "X-Rewrite-Url", "X-Forwarded-Prefix", "X-Forwarded-Path",
		"X-Http-Method-Override", "X-Forwarded-Method", "X-Original-Method", "Forwarded",
	} {
		t.Run(name, func(t *testing.T) {
			for _, value := range []string{"/", "/a", "OPTIONS", "for=127.0.0.1"} {
				checkRefused(t, s.ask(http.MethodGet, "/b", "Authorization", "Bearer "+token, name, value),
					http.StatusForbidden, `Bearer realm="api", error="insufficient_scope", scope="b"`)
			}
		})
	}
}

func TestVerdictsAreTheMiddlewares(t *testing.T) {
	s := newService(t, nil)
	token := s.as.Issue(nil)
	jwt := strings.TrimPrefix(s.ask(http.MethodGet, "/", bearer(token)...).Header().Get("Authorization"), "Bearer ")
	const (
		noToken   = `Bearer realm="api"`
		invalid   = `Bearer realm="api", error="invalid_token"`
		malformed = `Bearer realm="api", error="invalid_request", error_description="The bearer token is malformed or sent more than once."`
	)
	for _, tc := range []struct {
		name      string
		fields    []string
		status    int
		challenge string
	}{
		{"no token", nil, 401, noToken},
		{"another scheme", []string{"Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}, 401, noToken},
		{"junk", bearer("junk"), 401, invalid},
		{"a JWT from outside", bearer(jwt), 401, invalid},
		{"malformed", bearer("a b"), 400, malformed},
		{"two fields", append(bearer(token), bearer(token)...), 400, malformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkRefused(t, s.ask(http.MethodGet, "/", tc.fields...), tc.status, tc.challenge)
		})
	}
	for status, want := range map[int]int{503: 503, 400: 502} {
		s := newService(t, nil)
		s.as.Fail(status, 100)
		w := s.ask(http.MethodGet, "/", bearer(s.as.Issue(nil))...)
		checkRefused(t, w, want, "")
		if got := w.Header().Get("Retry-After"); (got != "") != (want == 503) {
			t.Errorf("%d: Retry-After %q", want, got)
		}
	}
}

// The challenge of a 401 tells clients that follow the metadata what to ask
// for, as that of a route does.
func TestChallengeNamesTheScopesBesideTheMetadata(t *testing.T) {
	s := newService(t, nil, phantom.WithResourceMetadataURL("https://rs.test/.well-known/oauth-protected-resource"))
	const metadata = `resource_metadata="https://rs.test/.well-known/oauth-protected-resource"`
	checkRefused(t, s.ask(http.MethodGet, "/a,b"), 401, `Bearer realm="api", scope="a b", `+metadata)
	checkRefused(t, s.ask(http.MethodGet, "/"), 401, `Bearer realm="api", `+metadata)
}

// An answer without a JWT would leave the opaque token where it is.
func TestWithoutAJWTNobodyIsAdmitted(t *testing.T) {
	s := newService(t, []phantomtest.Option{phantomtest.WithoutJWT()})
	for _, target := range []string{"/", "/a"} {
		s.log.Reset()
		token := s.as.Issue(map[string]any{"scope": "a"})
		checkRefused(t, s.ask(http.MethodGet, target, bearer(token)...), http.StatusInternalServerError, "")
		if line := s.log.String(); !strings.Contains(line, "level=ERROR") && target == "/" || strings.Contains(line, token) {
			t.Errorf("log %q", line)
		}
	}
}

func TestMiddlewareThatProtectsNothingIsRefused(t *testing.T) {
	for _, m := range []*phantom.Middleware{nil, {}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			forwardauth.Handler(m)
		}()
	}
}

// A proxy that hands the length of the client's body on, but not the body, has
// its answer at once: one that admits as one that refuses.
func TestTheAnswerDoesNotWaitForTheBody(t *testing.T) {
	s := newService(t, nil)
	server := httptest.NewServer(s.handler)
	defer server.Close()
	for token, status := range map[string]int{s.as.Issue(nil): http.StatusOK, "junk": http.StatusUnauthorized} {
		for _, body := range []string{"Content-Length: 100\r\n\r\n", "Content-Length: 100\r\n\r\ndrip", "Transfer-Encoding: chunked\r\n\r\n"} {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // only a failing test waits so long
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: phantom\r\nAuthorization: Bearer "+token+"\r\n"+body)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("%q: %v", body, err)
			} else if resp.StatusCode != status || !resp.Close || resp.ContentLength < 0 {
				t.Errorf("%q: status %d, closes %v, length %d", body, resp.StatusCode, resp.Close, resp.ContentLength)
			}
			_ = conn.Close()
		}
	}
}
