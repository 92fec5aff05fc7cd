package conformance_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/phantom-token/phantom"
)

// Optional lets a request without any Authorization pass as anonymous. A
// request that has the field is never anonymous, and each answer says that it
// varies.
//
// Catalogue: R46.
func TestOptional(t *testing.T) {
	for _, tc := range []struct {
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
		t.Run(tc.name, func(t *testing.T) {
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
			r.Header = tc.header
			rec := serve(as.middleware().Optional(next), r)
			if got := as.outcome(rec, next, 0); got != tc.want {
				t.Fatalf("%s, want %s", got, tc.want)
			}
			if got := rec.Header()["Vary"]; !slices.Equal(got, []string{"Authorization"}) {
				t.Errorf("Vary %q", got)
			}
			if tc.want != codeOK {
				return
			}
			if tok := next.tokens[0]; (tok != nil) != tc.token {
				t.Errorf("token %v", tok)
			}
			_, err := phantom.Claims[map[string]any](next.last().Context())
			if tc.token == errors.Is(err, phantom.ErrNoToken) {
				t.Errorf("claims: %v", err)
			}
			if got := next.last().Header["Authorization"]; !tc.token && len(got) > 0 {
				t.Errorf("an anonymous request with Authorization %q", got)
			}
		})
	}
}

// Optional adds to the Vary that an outer handler has set.
//
// Catalogue: R46.
func TestOptionalKeepsVary(t *testing.T) {
	as := newAS(t)
	rec := httptest.NewRecorder()
	rec.Header().Set("Vary", "Origin")
	as.middleware().Optional(&spy{}).ServeHTTP(rec, get())
	if got := rec.Header()["Vary"]; !slices.Equal(got, []string{"Origin", "Authorization"}) {
		t.Errorf("Vary %q", got)
	}
}

// An anonymous request does not inherit a token from the context it was made
// with.
//
// Catalogue: R46.
func TestOptionalHidesAnInheritedToken(t *testing.T) {
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
