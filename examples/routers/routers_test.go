package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

func newAuth(t *testing.T) (*phantomtest.AuthorizationServer, *phantom.Middleware) {
	t.Helper()
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	return as, auth
}

func get(h http.Handler, path, authorization string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Each router answers each request alike, and a handler that a request may not
// reach does not run: the body of a rejection is the problem alone.
func TestRoutes(t *testing.T) {
	const (
		noToken   = `Bearer realm="api"`
		invalid   = `Bearer realm="api", error="invalid_token"`
		notTheirs = `Bearer realm="api", error="insufficient_scope"`
		noScope   = `Bearer realm="api", error="insufficient_scope", scope="orders:read"`
	)
	for name, newRouter := range routers {
		t.Run(name, func(t *testing.T) {
			as, auth := newAuth(t)
			router := newRouter(auth)
			plain := "Bearer " + as.Issue(nil)
			read := "Bearer " + as.Issue(map[string]any{"sub": "bob", "scope": "orders:read"})
			for _, tc := range []struct {
				path, authorization string
				status              int
				body, challenge     string
			}{
				{"/menu", "", 200, "espresso", ""},
				{"/menu", "Bearer bad", 200, "espresso", ""},
				{"/profile", "", 401, "", noToken},
				{"/profile", "Bearer bad", 401, "", invalid},
				{"/profile", plain, 200, "alice", ""},
				{"/orders/latte", "", 401, "", noToken},
				{"/orders/latte", plain, 403, "", noScope},
				{"/orders/latte", read, 200, "latte for bob", ""},
				{"/customers/bob", "", 401, "", noToken},
				{"/customers/bob", plain, 403, "", notTheirs},
				{"/customers/bob", read, 200, "customer bob", ""},
				{"/nowhere", plain, 404, "", ""},
			} {
				w := get(router, tc.path, tc.authorization)
				if challenge := w.Header().Get("WWW-Authenticate"); w.Code != tc.status || challenge != tc.challenge {
					t.Errorf("%s with %.10q: %d, challenge %s", tc.path, tc.authorization, w.Code, challenge)
				}
				body := w.Body.String()
				if tc.challenge != "" && (!strings.HasPrefix(body, `{"type":`) || !strings.HasSuffix(body, "}")) {
					t.Errorf("%s: body %s", tc.path, body)
				}
				if tc.body != "" && body != tc.body {
					t.Errorf("%s: body %s, want %s", tc.path, body, tc.body)
				}
			}
			if n := as.Introspections(); n != 3 {
				t.Errorf("%d lookups for 3 tokens", n)
			}
		})
	}
}

// No spelling of a path gets around what its route needs.
func TestNoWayAround(t *testing.T) {
	for name, newRouter := range routers {
		_, auth := newAuth(t)
		router := newRouter(auth)
		for _, path := range []string{"//profile", "/./profile", "/menu/../profile", "/menu/..%2fprofile", "/profile/"} {
			if w := get(router, path, "Bearer bad"); w.Code == http.StatusOK {
				t.Errorf("%s: GET %s: %d %s", name, path, w.Code, w.Body)
			}
		}
	}
}

// A handler behind a rejection does not run, wherever in gin's chain it is.
func TestGinAborts(t *testing.T) {
	_, auth := newAuth(t)
	r := gin.New()
	r.Use(ginMiddleware(auth.Handler))
	r.GET("/", func(*gin.Context) { t.Error("called") }, func(*gin.Context) { t.Error("called") })
	if w := get(r, "/", ""); w.Code != http.StatusUnauthorized {
		t.Errorf("status %d", w.Code)
	}
}

// The whole router behind the middleware: no adaptor, and no public route.
func TestWholeRouter(t *testing.T) {
	for name, newRouter := range routers {
		as, auth := newAuth(t)
		h := auth.Handler(newRouter(auth))
		for authorization, want := range map[string]int{"": 401, "Bearer " + as.Issue(nil): 200} {
			for _, path := range []string{"/menu", "/profile"} {
				if w := get(h, path, authorization); w.Code != want {
					t.Errorf("%s: GET %s: %d, want %d", name, path, w.Code, want)
				}
			}
		}
		if n := as.Introspections(); n != 1 {
			t.Errorf("%s: %d lookups", name, n)
		}
	}
}
