package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// A handler by itself: the token that the middleware would have put into the
// context is made by phantomtest.
func TestProfile(t *testing.T) {
	tok := phantomtest.Token(t, map[string]any{"sub": "bob", "name": "Bob", "roles": []string{"regular"}})
	r := httptest.NewRequest(http.MethodGet, "/profile", nil)
	r = r.WithContext(phantom.NewContext(r.Context(), tok))
	w := httptest.NewRecorder()
	profile(w, r)
	if want := `{"id":"bob","name":"Bob","roles":["regular"]}` + "\n"; w.Code != http.StatusOK || w.Body.String() != want {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Without a token in the context there is no profile of nobody, and neither is
// there with claims of another type.
func TestProfileWithoutClaims(t *testing.T) {
	for name, tok := range map[string]*phantom.Token{
		"no token":   nil,
		"other type": phantomtest.Token(t, map[string]any{"roles": "regular"}),
	} {
		r := httptest.NewRequest(http.MethodGet, "/profile", nil)
		r = r.WithContext(phantom.NewContext(r.Context(), tok))
		w := httptest.NewRecorder()
		profile(w, r)
		if w.Code != http.StatusInternalServerError {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// service returns the whole API, wired to an authorization server in memory.
func service(t *testing.T) (*phantomtest.AuthorizationServer, http.Handler) {
	t.Helper()
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	return as, newAPI(auth).routes()
}

func send(h http.Handler, method, path, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Each route with each kind of token.
func TestRoutes(t *testing.T) {
	as, api := service(t)
	tokens := map[string]string{
		"none":  "",
		"bad":   "revoked-long-ago",
		"plain": as.Issue(map[string]any{"scope": "profile"}),
		"read":  as.Issue(map[string]any{"scope": "orders:read"}),
		"write": as.Issue(map[string]any{"scope": "orders:write"}),
	}
	for _, test := range []struct {
		method, path                  string
		none, bad, plain, read, write int // the status
	}{
		{"GET", "/menu", 200, 200, 200, 200, 200},
		{"GET", "/greeting", 200, 401, 200, 200, 200},
		{"GET", "/profile", 401, 401, 200, 200, 200},
		{"GET", "/orders", 401, 401, 403, 200, 403},
		{"POST", "/orders/latte", 401, 401, 403, 403, 201},
		{"POST", "/logout", 204, 204, 204, 204, 204},
	} {
		for kind, want := range map[string]int{
			"none": test.none, "bad": test.bad, "plain": test.plain, "read": test.read, "write": test.write,
		} {
			if w := send(api, test.method, test.path, tokens[kind]); w.Code != want {
				t.Errorf("%s %s with token %s: %d, want %d", test.method, test.path, kind, w.Code, want)
			}
		}
	}

	const want = `Bearer realm="api", error="insufficient_scope", scope="orders:read"`
	if got := send(api, "GET", "/orders", tokens["plain"]).Header().Get("WWW-Authenticate"); got != want {
		t.Errorf("challenge %s, want %s", got, want)
	}
}

// No spelling of a path gets around what its route needs.
func TestNoWayAround(t *testing.T) {
	_, api := service(t)
	for _, path := range []string{"//profile", "/./profile", "/menu/../profile", "/menu/..%2fprofile", "/PROFILE", "/profile/"} {
		for _, token := range []string{"", "bad"} {
			if w := send(api, "GET", path, token); w.Code == http.StatusOK {
				t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
			}
		}
	}
}

func TestGreeting(t *testing.T) {
	as, api := service(t)
	for token, want := range map[string]string{
		"":                                     `"hello, stranger"`,
		as.Issue(map[string]any{"sub": "bob"}): `"hello, bob"`,
	} {
		w := send(api, "GET", "/greeting", token)
		if w.Body.String() != want+"\n" || w.Header().Get("Vary") != "Authorization" {
			t.Errorf("%s, Vary %q; want %s", w.Body, w.Header().Get("Vary"), want)
		}
	}
}

func TestOrdersAreOfTheirCustomer(t *testing.T) {
	as, api := service(t)
	token := func(sub string) string {
		return as.Issue(map[string]any{"sub": sub, "scope": "orders:read orders:write"})
	}
	send(api, "POST", "/orders/latte", token("bob"))
	send(api, "POST", "/orders/espresso", token("bob"))
	for sub, want := range map[string]string{"bob": `["latte","espresso"]`, "eve": `[]`} {
		if w := send(api, "GET", "/orders", token(sub)); w.Body.String() != want+"\n" {
			t.Errorf("%s sees %s, want %s", sub, w.Body, want)
		}
	}
}

func TestLogout(t *testing.T) {
	as, api := service(t)
	token := as.Issue(nil)
	for _, step := range []struct {
		name         string
		do           func()
		method, path string
		want         int
	}{
		{"valid", func() {}, "GET", "/profile", 200},
		{"revoked, but remembered", func() { as.Revoke(token) }, "GET", "/profile", 200},
		{"logout", func() {}, "POST", "/logout", 204},
		{"forgotten", func() {}, "GET", "/profile", 401},
	} {
		step.do()
		if w := send(api, step.method, step.path, token); w.Code != step.want {
			t.Errorf("%s: %d, want %d", step.name, w.Code, step.want)
		}
	}
}
