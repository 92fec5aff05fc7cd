package forwardauth_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/forwardauth"
	"github.com/phantom-token/phantom/phantomtest"
)

// A proxy asks about a request whose route requires the scope orders:write.
func ExampleHandler() {
	as := phantomtest.New()
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}
	h := forwardauth.Handler(auth)

	ask := func(scope string) {
		r := httptest.NewRequest(http.MethodGet, "/orders:write", nil)
		r.Header.Set("Authorization", "Bearer "+as.Issue(map[string]any{"scope": scope}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Println(w.Code, "with a JWT:", strings.HasPrefix(w.Header().Get("Authorization"), "Bearer eyJ"))
		if w.Code == http.StatusForbidden {
			fmt.Println(w.Header().Get("WWW-Authenticate"))
		}
	}
	ask("orders:read orders:write")
	ask("orders:read")
	// Output:
	// 200 with a JWT: true
	// 403 with a JWT: false
	// Bearer realm="api", error="insufficient_scope", scope="orders:write"
}
