package stepup_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
	"github.com/phantom-token/phantom/stepup"
)

func show(h http.Handler, token string) {
	r := httptest.NewRequest(http.MethodPost, "/transfers", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code == http.StatusUnauthorized {
		fmt.Println(w.Code, w.Header().Get("WWW-Authenticate"))
		return
	}
	fmt.Println(w.Code)
}

// A transfer of money needs a second factor.
func ExampleACR() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}
	transfer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })
	h := auth.Require(stepup.ACR("mfa", "hardware-key"))(transfer)

	show(h, as.Issue(map[string]any{"acr": "hardware-key"}))
	show(h, as.Issue(map[string]any{"acr": "password"}))
	// Output:
	// 201
	// 401 Bearer realm="api", error="insufficient_user_authentication", acr_values="mfa hardware-key"
}

// A transfer of money needs a login of the last five minutes.
func ExampleMaxAge() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}
	transfer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })
	h := auth.Require(stepup.MaxAge(5 * time.Minute))(transfer)

	show(h, as.Issue(map[string]any{"auth_time": time.Now().Add(-time.Minute).Unix()}))
	show(h, as.Issue(map[string]any{"auth_time": time.Now().Add(-time.Hour).Unix()}))
	// Output:
	// 201
	// 401 Bearer realm="api", error="insufficient_user_authentication", max_age="300"
}
