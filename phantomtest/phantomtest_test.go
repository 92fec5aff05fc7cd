package phantomtest_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// dialects are the ways to hand out a JWT that the server knows.
var dialects = map[string][]phantomtest.Option{
	"curity":        nil,
	"phantom_token": {phantomtest.WithJSONResponse("phantom_token")},
	"other member":  {phantomtest.WithJSONResponse("token_string")},
	"keycloak":      {phantomtest.WithKeycloak()},
}

// A spy is a handler that remembers what reached it.
type spy struct {
	calls         int
	authorization string
	token         *phantom.Token
}

func (s *spy) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	s.calls++
	s.authorization = r.Header.Get("Authorization")
	s.token, _ = phantom.FromContext(r.Context())
}

// protect returns a spy, and the spy behind a middleware.
func protect(t *testing.T, opts []phantom.Option) (*spy, http.Handler) {
	t.Helper()
	m, err := phantom.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	s := new(spy)
	return s, m.Handler(s)
}

// get returns the status of a request with the given token.
func get(h http.Handler, token string) int {
	r := httptest.NewRequest(http.MethodGet, "https://rs.test/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func wantStatus(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: status %d, want %d", what, got, want)
	}
}

func TestThroughMiddleware(t *testing.T) {
	for name, opts := range dialects {
		t.Run(name, func(t *testing.T) {
			for name, more := range map[string][]phantomtest.Option{
				"defaults": nil,
				"configured": {
					phantomtest.WithIssuer("https://login.example.com/realms/one"),
					phantomtest.WithAudience("https://api.example.com/v1"),
					phantomtest.WithClient("a:b", "p%w+d é"),
					phantomtest.WithClient("another", "secret"),
				},
				"issuer with slash": {phantomtest.WithIssuer("https://login.example.com/realms/one/")},
			} {
				t.Run(name, func(t *testing.T) {
					as := phantomtest.New(slices.Concat(opts, more)...)
					next, h := protect(t, as.Options())
					token := as.Issue(nil)

					wantStatus(t, "first request", get(h, token), 200)
					if next.calls != 1 || next.token == nil {
						t.Fatalf("handler called %d times with token %v", next.calls, next.token)
					}
					if next.authorization != "Bearer "+next.token.JWT() || strings.Contains(next.authorization, token) {
						t.Errorf("Authorization is not the JWT")
					}
					if next.token.Subject() != "alice" || next.token.ClientID() != "app" || !next.token.HasScope("write") {
						t.Errorf("subject %q, client %q, scopes %q", next.token.Subject(), next.token.ClientID(), next.token.Scopes())
					}
					wantStatus(t, "second request", get(h, token), 200)
					if n := as.Introspections(); n != 1 {
						t.Errorf("%d introspections, want 1", n)
					}
					wantStatus(t, "unknown token", get(h, "unknown"), 401)
					wantStatus(t, "refresh token", get(h, as.Issue(map[string]any{"token_use": "refresh_token"})), 401)
					expired := as.Issue(map[string]any{"exp": time.Now().Add(-time.Second).Unix()})
					wantStatus(t, "expired token", get(h, expired), 401)
					if next.calls != 2 {
						t.Errorf("handler called %d times, want 2", next.calls)
					}
				})
			}
		})
	}
}

// Without a verdict of the server no request passes.
func TestNoVerdictInEachDialect(t *testing.T) {
	for name, opts := range dialects {
		t.Run(name, func(t *testing.T) {
			as := phantomtest.New(opts...)
			next, h := protect(t, as.Options())
			as.Fail(500, 1)
			wantStatus(t, "server down", get(h, as.Issue(nil)), 503)
			wrong := phantom.WithClientAuth(phantom.ClientSecretBasic("gateway", "wrong"))
			other, h := protect(t, append(as.Options(), wrong))
			wantStatus(t, "wrong secret", get(h, as.Issue(nil)), 502)
			if next.calls+other.calls != 0 {
				t.Error("the handler was called")
			}
		})
	}
}

func TestOptionsReachNobodyElse(t *testing.T) {
	as := phantomtest.New()
	_, h := protect(t, append(as.Options(), phantom.WithIntrospectionEndpoint("https://other.test/introspect")))
	wantStatus(t, "another server", get(h, as.Issue(nil)), 503)
	if n := as.Introspections(); n != 0 {
		t.Errorf("%d introspections, want 0", n)
	}
}

func TestRevoke(t *testing.T) {
	for name, opts := range dialects {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := phantomtest.New(opts...)
				_, h := protect(t, append(as.Options(), phantom.WithMaxTTL(30*time.Second), phantom.WithRefreshAhead(0)))
				token, other := as.Issue(nil), as.Issue(nil)
				wantStatus(t, "before", get(h, token), 200)
				as.Revoke(token)
				wantStatus(t, "within the TTL", get(h, token), 200)
				time.Sleep(31 * time.Second)
				wantStatus(t, "past the TTL", get(h, token), 401)
				wantStatus(t, "another token", get(h, other), 200)
			})
		})
	}
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := phantomtest.New()
		_, h := protect(t, append(as.Options(), phantom.WithMaxTTL(0)))
		token := as.Issue(nil)
		short := as.Issue(map[string]any{"exp": float64(time.Now().Add(90 * time.Second).Unix())})
		time.Sleep(89 * time.Second)
		wantStatus(t, "short-lived token in time", get(h, short), 200)
		time.Sleep(time.Second)
		wantStatus(t, "short-lived token", get(h, short), 401)
		time.Sleep(10*time.Minute - 91*time.Second)
		wantStatus(t, "token in time", get(h, token), 200)
		time.Sleep(time.Second)
		wantStatus(t, "token", get(h, token), 401)
	})
}

func TestRotateKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := phantomtest.New()
		_, h := protect(t, as.Options())
		wantStatus(t, "old key", get(h, as.Issue(nil)), 200)
		old := keyID(t, as)

		as.RotateKeys()
		if keyID(t, as) == old {
			t.Error("the key ID is the old one")
		}
		time.Sleep(time.Minute)
		wantStatus(t, "new key", get(h, as.Issue(nil)), 200)
	})
}

// keyID returns the ID of the only key that as publishes.
func keyID(t *testing.T, as http.Handler) string {
	t.Helper()
	w := request(as, "GET", "/jwks", nil, "")
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("key set %s: %v", w.Body, err)
	}
	return set.Keys[0].ID
}

func TestFail(t *testing.T) {
	as := phantomtest.New()
	_, h := protect(t, as.Options())
	token := as.Issue(nil)
	as.Fail(500, 7)
	as.Fail(502, 2) // instead of the 7
	wantStatus(t, "first failure", get(h, token), 503)
	wantStatus(t, "second failure", get(h, token), 503)
	wantStatus(t, "afterwards", get(h, token), 200)
	as.Fail(400, 1)
	wantStatus(t, "a failure of another kind", get(h, as.Issue(nil)), 502)
	if n := as.Introspections(); n != 4 {
		t.Errorf("%d introspections, want 4", n)
	}
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := phantomtest.New()
		_, h := protect(t, append(as.Options(), phantom.WithTimeout(2*time.Second)))
		took := func(token string, status int) time.Duration {
			start := time.Now()
			wantStatus(t, "delayed request", get(h, token), status)
			return time.Since(start)
		}

		as.Delay(1900 * time.Millisecond)
		if d := took(as.Issue(nil), 200); d != 1900*time.Millisecond {
			t.Errorf("lookup took %v", d)
		}
		as.Delay(time.Hour)
		if d := took(as.Issue(nil), 503); d != 2*time.Second {
			t.Errorf("failed lookup took %v", d)
		}
		as.Delay(0)
		if d := took(as.Issue(nil), 200); d != 0 {
			t.Errorf("undelayed lookup took %v", d)
		}
	})
}

// A delayed answer does not outlive its request.
func TestDelayCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := phantomtest.New()
		as.Delay(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		r := httptest.NewRequestWithContext(ctx, "POST", "/introspect", nil)
		as.ServeHTTP(httptest.NewRecorder(), r)
		if d := time.Since(start); d != time.Second {
			t.Errorf("answered after %v, want 1s", d)
		}
	})
}

// The metadata of a server on a listener are enough to find everything.
func TestDiscovery(t *testing.T) {
	for _, path := range []string{"", "/realms/one"} {
		t.Run("issuer path "+path, func(t *testing.T) {
			var as *phantomtest.AuthorizationServer
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { as.ServeHTTP(w, r) }))
			defer srv.Close()
			as = phantomtest.New(phantomtest.WithIssuer(srv.URL+path), phantomtest.WithClient("me", "secret"))
			next, h := protect(t, []phantom.Option{
				phantom.WithIssuer(srv.URL + path),
				phantom.WithAudience("https://rs.test"),
				phantom.WithClientAuth(phantom.ClientSecretPost("me", "secret")),
			})
			wantStatus(t, "request", get(h, as.Issue(nil)), 200)
			if got := next.token.Issuer(); got != srv.URL+path {
				t.Errorf("issuer %q", got)
			}
		})
	}
}

func TestToken(t *testing.T) {
	for _, test := range []struct {
		name   string
		claims map[string]any
	}{
		{"defaults", nil},
		{"changed", map[string]any{
			"iss": "https://login.example.com", "aud": []string{"x", "y"}, "sub": "bob",
			"client_id": "web", "scope": "orders:read", "tenant": "acme",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			tok := phantomtest.Token(t, test.claims)
			want := map[string]any{
				"iss": "https://as.test", "aud": []string{"https://rs.test"}, "sub": "alice",
				"client_id": "app", "scope": "read write", "tenant": nil,
			}
			maps.Copy(want, test.claims)
			var custom struct{ Tenant any }
			if err := tok.Decode(&custom); err != nil {
				t.Fatal(err)
			}
			got := map[string]any{
				"iss": tok.Issuer(), "aud": tok.Audience(), "sub": tok.Subject(),
				"client_id": tok.ClientID(), "scope": strings.Join(tok.Scopes(), " "), "tenant": custom.Tenant,
			}
			gotJSON, _ := json.Marshal(got)
			wantJSON, _ := json.Marshal(want)
			if string(gotJSON) != string(wantJSON) {
				t.Errorf("claims\n%s, want\n%s", gotJSON, wantJSON)
			}
		})
	}

	t.Run("in a bubble", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tok := phantomtest.Token(t, nil)
			if got := tok.IssuedAt(); !got.Equal(time.Now()) {
				t.Errorf("issued at %v, want %v", got, time.Now())
			}
		})
	})

	t.Run("refused claims", func(t *testing.T) {
		for _, claims := range []map[string]any{
			{"exp": 1},
			{"sub": nil},
			{"token_use": "refresh_token"},
			{"cnf": map[string]any{"jkt": "x"}},
		} {
			tb := &failing{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				phantomtest.Token(tb, claims)
			}()
			<-done
			if !tb.failed {
				t.Errorf("a token with %v did not fail the test", claims)
			}
		}
	})
}

// failing is a test that is expected to fail, on a goroutine of its own.
type failing struct {
	testing.TB

	failed bool
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(string, ...any) {
	f.failed = true
	runtime.Goexit()
}

func TestConcurrentUse(t *testing.T) {
	as := phantomtest.New()
	m, err := phantom.New(as.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	h := m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				token := as.Issue(nil)
				if status := get(h, token); status != 200 {
					t.Errorf("status %d", status)
				}
				as.Revoke(token)
				as.Delay(0)
				as.Fail(500, 0)
				as.Introspections()
			}
		})
	}
	wg.Wait()
	as.RotateKeys()
	if n := as.Introspections(); n != 160 {
		t.Errorf("%d introspections, want 160", n)
	}
}

func TestNewPanics(t *testing.T) {
	for name, opt := range map[string]phantomtest.Option{
		"relative issuer":    phantomtest.WithIssuer("as.test"),
		"issuer with query":  phantomtest.WithIssuer("https://as.test?x=y"),
		"malformed issuer":   phantomtest.WithIssuer("https://as.test:port"),
		"no member":          phantomtest.WithJSONResponse(""),
		"client without ID":  phantomtest.WithClient("", "secret"),
		"client sans secret": phantomtest.WithClient("id", ""),
		"no function":        phantomtest.WithAnswer(nil),
		"no minter":          phantomtest.WithMinter(nil),
		"signed JWTs":        phantomtest.WithSignedResponse(),
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			phantomtest.New(opt)
		})
	}
}

// A member for the JWT and no JWT exclude each other, in either order.
func TestNewPanicsAtAMemberWithoutJWT(t *testing.T) {
	member := phantomtest.WithJSONResponse("phantom_token")
	for _, mode := range []phantomtest.Option{
		phantomtest.WithoutJWT(), phantomtest.WithTokenExchange(nil), phantomtest.WithMinter(&minter{}),
	} {
		for _, opts := range [][]phantomtest.Option{{member, mode}, {mode, member}} {
			func() {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				phantomtest.New(opts...)
			}()
		}
	}
}
