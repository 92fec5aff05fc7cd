package phantomtest_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// logOut sends a logout token as an authorization server does.
func logOut(auth *phantom.Middleware, token string) int {
	form := url.Values{"logout_token": {token}}
	r := httptest.NewRequest(http.MethodPost, "/logout", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	auth.BackchannelLogout().ServeHTTP(w, r)
	return w.Code
}

// A logout token ends the session that it names, in each mode of the server.
func TestLogoutToken(t *testing.T) {
	for name, opts := range map[string][]phantomtest.Option{
		"default":  nil,
		"keycloak": {phantomtest.WithKeycloak()},
		"claims":   {phantomtest.WithoutJWT()},
		"signed":   {phantomtest.WithoutJWT(), phantomtest.WithSignedResponse()},
		"exchange": {phantomtest.WithTokenExchange(nil)},
		"clients":  {phantomtest.WithClient("first", "secret one"), phantomtest.WithClient("second", "secret two")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := phantomtest.New(opts...)
				auth, err := phantom.New(append(as.Options(), phantom.WithLogger(slog.New(slog.DiscardHandler)))...)
				if err != nil {
					t.Fatal(err)
				}
				token := as.Issue(map[string]any{"sid": "s1", "sub": "bob"})
				lookedUp := func() bool {
					before := as.Introspections()
					if _, err := auth.Verify(t.Context(), token); err != nil {
						t.Fatal(err)
					}
					return as.Introspections() > before
				}
				if !lookedUp() || lookedUp() {
					t.Error("the token is not remembered")
				}
				for _, claims := range []map[string]any{{"sid": "s1"}, {"sub": "bob"}, {"sid": "s1", "sub": "bob"}} {
					as.RotateKeys()
					time.Sleep(time.Minute) // keys are not fetched at each turn
					lookedUp()
					if status := logOut(auth, as.LogoutToken(claims)); status != http.StatusOK || !lookedUp() {
						t.Errorf("%v: status %d, or the token is still remembered", claims, status)
					}
				}
				for what, claims := range map[string]map[string]any{
					"another session": {"sid": "s2"}, "another subject": {"sub": "carol"},
				} {
					if status := logOut(auth, as.LogoutToken(claims)); status != http.StatusOK || lookedUp() {
						t.Errorf("%s: status %d, or the token is forgotten", what, status)
					}
				}
				for what, claims := range map[string]map[string]any{
					"nobody": nil, "no audience": {"sid": "s1", "aud": nil}, "another issuer": {"sid": "s1", "iss": "https://other.test"},
					"no event": {"sid": "s1", "events": nil}, "no jti": {"sid": "s1", "jti": nil},
				} {
					if status := logOut(auth, as.LogoutToken(claims)); status != http.StatusBadRequest || lookedUp() {
						t.Errorf("%s: status %d, or the token is forgotten", what, status)
					}
				}
			})
		})
	}
}

// A service under test that takes logout tokens.
func ExampleAuthorizationServer_LogoutToken() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		fmt.Println(err)
		return
	}
	service := http.NewServeMux()
	service.Handle("POST /logout", auth.BackchannelLogout())

	form := url.Values{"logout_token": {as.LogoutToken(map[string]any{"sid": "session-7"})}}
	r := httptest.NewRequest(http.MethodPost, "/logout", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	service.ServeHTTP(w, r)
	fmt.Println(w.Code)

	// Output: 200
}
