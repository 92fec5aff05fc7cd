package conformance_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// logoutClaims are those of a good logout token, with changes.
func logoutClaims(changes map[string]any) map[string]any {
	now := time.Now().Unix()
	all := map[string]any{
		"scope": nil, "client_id": nil, "aud": clientID, "iat": now, "exp": now + 120, "jti": "logout-1", "sid": "session-1",
		"events": map[string]any{logoutEvent: map[string]any{}},
	}
	for name, value := range changes {
		all[name] = value
	}
	return claims(all)
}

// logOut sends a logout token.
func logOut(m *phantom.Middleware, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "https://rs.test/logout",
		strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return serve(m.BackchannelLogout(), r)
}

func logoutToken(changes map[string]any) string {
	return mintHeader("ES256", `{"alg":"ES256","kid":"k-ES256","typ":"logout+jwt"}`, logoutClaims(changes))
}

// users is an authorization server whose tokens are named "user/session"; with
// no session, they have no sid.
func (as *fakeAS) users() {
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		sub, sid, _ := strings.Cut(r.Form.Get("token"), "/")
		changes := map[string]any{"sub": sub, "sid": sid}
		if sid == "" {
			changes["sid"] = nil
		}
		answerJWT(mint("ES256", claims(changes)))(w, r)
	}
}

// lookedUp returns which of the tokens the server is asked about, for a Middleware
// that has not forgotten the others.
func (as *fakeAS) lookedUp(t *testing.T, m *phantom.Middleware, tokens ...string) string {
	t.Helper()
	var asked []string
	for _, token := range tokens {
		before := as.calls.Load()
		expect(t, token, as.try(m, token), codeOK)
		synctest.Wait()
		if as.calls.Load() > before {
			asked = append(asked, token)
		}
	}
	return strings.Join(asked, " ")
}

// A logout ends the tokens that it names, at all replicas, and no others.
//
// Catalogue: H33, H34.
func TestLogoutEndsWhatItNames(t *testing.T) {
	tokens := []string{"alice/session-1", "alice/session-2", "alice", "bob/session-3", "bob"}
	for _, tc := range []struct {
		name string
		end  func(t *testing.T, m *phantom.Middleware) error
		want string
	}{
		{"ForgetSession", func(_ *testing.T, m *phantom.Middleware) error { return m.ForgetSession("session-1") }, "alice/session-1"},
		{"ForgetSubject", func(_ *testing.T, m *phantom.Middleware) error { return m.ForgetSubject("alice") },
			"alice/session-1 alice/session-2 alice"},
		{"another session", func(_ *testing.T, m *phantom.Middleware) error { return m.ForgetSession("alice") }, ""},
		{"another subject", func(_ *testing.T, m *phantom.Middleware) error { return m.ForgetSubject("session-1") }, ""},
		{"a logout token with both", logsOut(nil), "alice/session-1 alice"},
		{"a logout token with a sid", logsOut(map[string]any{"sub": nil}), "alice/session-1"},
		{"a logout token with a sub", logsOut(map[string]any{"sid": nil}), "alice/session-1 alice/session-2 alice"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				as.users()
				alone := as.middleware()
				a, b := as.replica(store), as.replica(store)
				for _, m := range []*phantom.Middleware{alone, a, b} {
					as.lookedUp(t, m, tokens...)
					expect(t, "remembered", as.lookedUp(t, m, tokens...), "")
				}
				time.Sleep(2 * time.Second)
				for _, m := range []*phantom.Middleware{alone, a} {
					if err := tc.end(t, m); err != nil {
						t.Error(err)
					}
				}
				synctest.Wait()
				expect(t, "alone", as.lookedUp(t, alone, tokens...), tc.want)
				time.Sleep(2 * time.Second) // what is asked sooner may look older than the logout
				expect(t, "B", as.lookedUp(t, b, tokens...), tc.want)
				expect(t, "A, which was asleep", as.lookedUp(t, a, tokens...), "") // it takes what B has stored
			})
		})
	}
}

func logsOut(changes map[string]any) func(*testing.T, *phantom.Middleware) error {
	return func(t *testing.T, m *phantom.Middleware) error {
		rec := logOut(m, logoutToken(changes))
		if rec.Code != 200 || rec.Body.Len() > 0 || rec.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%d %v %q", rec.Code, rec.Header(), rec.Body)
		}
		return nil
	}
}

// A logout token that does not pass a check ends nothing.
//
// Catalogue: H35.
func TestUnfitLogoutTokensEndNothing(t *testing.T) {
	now := time.Now().Unix()
	for _, tc := range []struct {
		name  string
		token string
	}{
		{"another issuer", logoutToken(map[string]any{"iss": "https://other.test"})},
		{"another audience", logoutToken(map[string]any{"aud": "another_client"})},
		{"no audience", logoutToken(map[string]any{"aud": nil})},
		{"older than two minutes", logoutToken(map[string]any{"iat": now - 121})},
		{"of the future", logoutToken(map[string]any{"iat": now + 60})},
		{"without iat", logoutToken(map[string]any{"iat": nil})},
		{"expired", logoutToken(map[string]any{"exp": now - 60})},
		{"without events", logoutToken(map[string]any{"events": nil})},
		{"another event", logoutToken(map[string]any{"events": map[string]any{"https://other.test": map[string]any{}}})},
		{"an event that is no object", logoutToken(map[string]any{"events": map[string]any{logoutEvent: true}})},
		{"a nonce", logoutToken(map[string]any{"nonce": "n"})},
		{"a nonce that is null", logoutToken(map[string]any{"nonce": null})},
		{"without jti", logoutToken(map[string]any{"jti": nil})},
		{"neither sub nor sid", logoutToken(map[string]any{"sub": nil, "sid": nil})},
		{"an empty sid", logoutToken(map[string]any{"sid": ""})},
		{"a sid that is a number", logoutToken(map[string]any{"sid": 1})},
		{"two names that differ in case", logoutToken(map[string]any{"Sid": "session-2"})},
		{"an access token", mint("ES256", logoutClaims(nil))},
		{"an ID token", mintHeader("ES256", `{"alg":"ES256","kid":"k-ES256"}`, claims(map[string]any{"aud": clientID}))},
		{"another key", compact("ES256", keyFor("ES384"), `{"alg":"ES384","kid":"k-ES256","typ":"logout+jwt"}`, "{}")},
		{"unsigned", b64([]byte(`{"alg":"none"}`)) + "." + strings.Split(logoutToken(nil), ".")[1] + "."},
		{"a bad signature", logoutToken(nil)[:len(logoutToken(nil))-4] + "AAAA"},
		{"text", "text"},
		{"nothing", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.users()
			if len(tc.token) > 10 {
				as.secret(tc.token)
			}
			m := as.middleware()
			expect(t, "before", as.try(m, "alice/session-1"), codeOK)
			rec := logOut(m, tc.token)
			if rec.Code != 400 || !strings.Contains(rec.Body.String(), `"error":"invalid_request"`) ||
				rec.Header().Get("Cache-Control") != "no-store" || len(as.leaks(rec.Body.String())) > 0 {
				t.Errorf("%d %v %q", rec.Code, rec.Header(), rec.Body)
			}
			expect(t, "after", as.try(m, "alice/session-1"), codeOK)
			expect(t, "lookups", as.calls.Load(), 1)
		})
	}
}

// A logout token counts once. One that could not be verified, or of which the
// others could not be told, may come again.
//
// Catalogue: H36, H37.
func TestLogoutTokensCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		as.users()
		m := as.replica(store)
		as.jwks = answer(500, "", "")
		token := logoutToken(nil)
		rec := logOut(m, token)
		if rec.Code != 503 || rec.Header().Get("Retry-After") == "" {
			t.Errorf("without keys: %d %v", rec.Code, rec.Header())
		}
		as.jwks = nil
		time.Sleep(30 * time.Second)
		as.try(m, "alice/session-1")
		synctest.Wait()
		store.Fail(-1)
		expect(t, "the others cannot be told", logOut(m, token).Code, 503)
		store.Fail(0)
		h := m.BackchannelLogout()
		for i, want := range []int{200, 400, 400} {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("logout_token="+token))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			expect(t, fmt.Sprint("time ", i+1), serve(h, r).Code, want)
		}
		r := httptest.NewRequest(http.MethodGet, "/?logout_token="+token, nil)
		rec = serve(h, r)
		if rec.Code != 405 || rec.Header().Get("Allow") != "POST" {
			t.Errorf("GET: %d %v", rec.Code, rec.Header())
		}
		r = httptest.NewRequest(http.MethodPost, "/?logout_token="+token, nil)
		expect(t, "in the query", serve(h, r).Code, 400)
		r = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("a=b&", 1<<20)))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		expect(t, "4 MiB", serve(h, r).Code, 400)
	})
}

// A lookup under way brings back nothing that a logout ended, and a request
// that comes later is not served by it.
//
// Catalogue: H38.
func TestLogoutEndsLookupsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{}
		o.ask = func(_ context.Context, token string) (*phantom.Introspection, error) {
			n := o.calls.Load()
			time.Sleep(500 * time.Millisecond)
			return unsigned(map[string]any{"jti": fmt.Sprint(n), "sid": token}), nil
		}
		m := o.middleware(t)
		ended := later(func() string { return idOf(m, "session-1") })
		time.Sleep(time.Millisecond)
		other := later(func() string { return idOf(m, "session-2") })
		time.Sleep(250 * time.Millisecond)
		if err := m.ForgetSession("session-1"); err != nil {
			t.Error(err)
		}
		late := later(func() string { return idOf(m, "session-1") })
		expect(t, "the other session", other(), "2")
		expect(t, "who came later", late(), "3")
		expect(t, "who came before", ended(), "3")
		expect(t, "lookups", o.calls.Load(), 3)
	})
}

// One ForgetSubject ends hundreds of sessions.
//
// Catalogue: H39.
func TestForgetSubjectEndsAllSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, store := &oracle{}, newTap()
		o.ask = func(_ context.Context, token string) (*phantom.Introspection, error) {
			return unsigned(map[string]any{"sid": token}), nil
		}
		shared := phantom.WithStore(store, fleetSecret)
		a, b := o.middleware(t, shared), o.middleware(t, shared)
		all := func(m *phantom.Middleware) {
			for i := range 501 {
				idOf(m, fmt.Sprint("session-", i))
			}
			synctest.Wait()
		}
		all(a)
		all(b)
		expect(t, "lookups", o.calls.Load(), 501)
		if err := a.ForgetSubject("alice"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		all(b)
		expect(t, "lookups", o.calls.Load(), 2*501)
		for _, err := range []error{a.ForgetSubject(""), a.ForgetSession("")} {
			if err == nil {
				t.Error("an empty name")
			}
		}
	})
}

// The server's keys verify a logout token also where they verify nothing else.
//
// Catalogue: H40.
func TestLogoutWithoutJWT(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJSON(`{"active":true,"sub":"alice","sid":"session-1","aud":"https://rs.test","token_type":"Bearer"}`)
	as.metadata = answerJSON(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuer, issuer+jwksPath))
	m := must(phantom.New(as.withoutKeys(phantom.WithoutJWT())...))
	expect(t, "before", as.try(m, opaqueToken), codeOK)
	expect(t, "metadata", len(as.recorded("/.well-known/oauth-authorization-server")), 0)
	expect(t, "logout", logOut(m, logoutToken(nil)).Code, 200)
	expect(t, "after", as.try(m, opaqueToken), codeOK)
	expect(t, "lookups", as.calls.Load(), 2)
}

// What a Store does to a hit is nothing.
//
// Catalogue: H32.
func TestHitAllocatesTheSameWithAStore(t *testing.T) {
	if scale > 1 {
		t.Skip("the race detector allocates")
	}
	var allocs [2]float64
	for i := range allocs {
		as := newAS(t)
		m := as.middleware()
		if i > 0 {
			m = as.replica(newTap())
		}
		h := m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		r, rec := get("Bearer "+opaqueToken), httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		allocs[i] = testing.AllocsPerRun(1000, func() { h.ServeHTTP(rec, r) })
	}
	if allocs[0] != allocs[1] {
		t.Errorf("%v allocations without a Store, %v with one", allocs[0], allocs[1])
	}
}

// Many sessions that end at once are looked for together.
//
// Catalogue: H65.
func TestManyLogoutsLookThroughTheMemoryTogether(t *testing.T) {
	const remembered, ended = 5000, 300
	o := &oracle{}
	o.ask = func(_ context.Context, token string) (*phantom.Introspection, error) {
		return unsigned(map[string]any{"sid": token}), nil
	}
	m := o.middleware(t)
	for i := range remembered {
		idOf(m, fmt.Sprint("session-", i))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range ended {
		all.Go(func() {
			<-start
			if err := m.ForgetSession(fmt.Sprint("session-", i)); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	all.Wait()
	runtime.ReadMemStats(&after)
	// Whoever looks through the memory alone takes a list of all that is there.
	if n := after.TotalAlloc - before.TotalAlloc; n > ended*remembered*8/4 {
		t.Errorf("%d bytes", n)
	}
	asked := o.calls.Load()
	for i := range ended + 1 {
		idOf(m, fmt.Sprint("session-", i))
	}
	expect(t, "asked again", o.calls.Load()-asked, ended)
}
