package conformance_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// Junk at the logout endpoint, which anybody can send, does not keep the keys
// of access tokens from being renewed, and has no more fetched than one set in
// ten seconds.
//
// Catalogue: H51.
func TestForgedLogoutTokensHoldUpNoKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		oldKey, newKey := jwk("k-ES256", "ES256", p256Key().Public()), jwk("k-EdDSA", "EdDSA", edKey().Public())
		as.jwks = answer(200, "application/json", jwks(oldKey))
		as.introspect = signedBy
		m := as.middleware()
		expect(t, "before", as.try(m, "ES256-0"), codeOK)
		forged := mintHeader("ES384", `{"alg":"ES384","kid":"k-ES384","typ":"logout+jwt"}`, logoutClaims(nil))
		before := as.fetches.Load()
		for range 1200 {
			if code := logOut(m, forged).Code; code != 400 && code != 503 {
				t.Fatal(code)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := as.fetches.Load() - before; n > 2+12+4 {
			t.Errorf("%d fetches in two minutes", n)
		}
		as.jwks = answer(200, "application/json", jwks(oldKey, newKey))
		logOut(m, forged)
		expect(t, "an access token by a new key", as.try(m, "EdDSA-0"), codeOK)
	})
}

// A logout token is judged by every rule of its specification.
//
// Catalogue: H52.
func TestLogoutTokensToTheLetter(t *testing.T) {
	event := func(v any) map[string]any { return map[string]any{"events": map[string]any{logoutEvent: v}} }
	header := func(h string) string { return mintHeader("ES256", h, logoutClaims(nil)) }
	raw := func(before string) string { // members in front of the good ones
		good := string(must(json.Marshal(logoutClaims(map[string]any{"scope": "", "client_id": ""}))))
		return compact("ES256", p256Key(), `{"alg":"ES256","kid":"k-ES256"}`, "{"+before+","+good[1:])
	}
	for _, tc := range []struct {
		name  string
		token func() string
		want  int
	}{
		{"good", func() string { return logoutToken(nil) }, 200},
		{"an event with members", func() string { return logoutToken(event(map[string]any{"a": 1})) }, 200},
		{"another event beside it", func() string {
			return logoutToken(map[string]any{"events": map[string]any{logoutEvent: map[string]any{}, "urn:x": map[string]any{}}})
		}, 200},
		{"an event in an array", func() string { return logoutToken(event([]any{})) }, 400},
		{"an event that is null", func() string { return logoutToken(event(null)) }, 400},
		{"an event that is text", func() string { return logoutToken(event("{}")) }, 400},
		{"events in an array", func() string { return logoutToken(map[string]any{"events": []any{logoutEvent}}) }, 400},
		{"events that is text", func() string { return logoutToken(map[string]any{"events": logoutEvent}) }, 400},
		{"several audiences", func() string { return logoutToken(map[string]any{"aud": []string{"x", clientID}}) }, 200},
		{"no audience of several", func() string { return logoutToken(map[string]any{"aud": []string{}}) }, 400},
		{"an empty audience", func() string { return logoutToken(map[string]any{"aud": ""}) }, 400},
		{"an audience that is an object", func() string { return logoutToken(map[string]any{"aud": map[string]any{clientID: 1}}) }, 400},
		{"the resource as audience", func() string { return logoutToken(map[string]any{"aud": audience}) }, 200},
		{"an issuer with a slash", func() string { return logoutToken(map[string]any{"iss": issuer + "/"}) }, 400},
		{"iat in text", func() string { return logoutToken(map[string]any{"iat": fmt.Sprint(time.Now().Unix())}) }, 400},
		{"iat of 1970", func() string { return logoutToken(map[string]any{"iat": 0}) }, 400},
		{"iat beyond all time", func() string { return logoutToken(map[string]any{"iat": 1e300}) }, 400},
		{"exp in text", func() string { return logoutToken(map[string]any{"exp": "x"}) }, 400},
		{"a sub that is null", func() string { return logoutToken(map[string]any{"sub": null}) }, 200},
		{"a sub in an array", func() string { return logoutToken(map[string]any{"sub": []string{"alice"}}) }, 400},
		{"an empty sub", func() string { return logoutToken(map[string]any{"sub": ""}) }, 400},
		{"an empty jti", func() string { return logoutToken(map[string]any{"jti": ""}) }, 400},
		{"a jti that is a number", func() string { return logoutToken(map[string]any{"jti": 1}) }, 400},
		{"a nonce that is empty", func() string { return logoutToken(map[string]any{"nonce": ""}) }, 400},
		{"Nonce", func() string { return logoutToken(map[string]any{"Nonce": "n"}) }, 400},
		{"a member twice", func() string { return raw(`"sid":"session-2"`) }, 400},
		{"a member twice in events", func() string {
			return logoutToken(map[string]any{"events": json.RawMessage(`{"a":{},"\u0061":{},"` + logoutEvent + `":{}}`)})
		}, 400},
		{"no type", func() string { return header(`{"alg":"ES256","kid":"k-ES256"}`) }, 200},
		{"JWT", func() string { return header(`{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`) }, 200},
		{"application/Logout+JWT", func() string { return header(`{"alg":"ES256","kid":"k-ES256","typ":"application/Logout+JWT"}`) }, 200},
		{"an empty type", func() string { return header(`{"alg":"ES256","kid":"k-ES256","typ":""}`) }, 400},
		{"a type that is null", func() string { return header(`{"alg":"ES256","kid":"k-ES256","typ":null}`) }, 400},
		{"the type of a security event", func() string { return header(`{"alg":"ES256","kid":"k-ES256","typ":"secevent+jwt"}`) }, 400},
		{"the type of an access token", func() string { return header(`{"alg":"ES256","kid":"k-ES256","typ":"at+jwt"}`) }, 400},
		{"crit", func() string { return header(`{"alg":"ES256","kid":"k-ES256","crit":["x"],"x":1}`) }, 400},
		{"HS256", func() string { return header(`{"alg":"HS256","kid":"k-ES256"}`) }, 400},
		{"none", func() string { return header(`{"alg":"none","kid":"k-ES256"}`) }, 400},
		{"another algorithm than the key's", func() string { return header(`{"alg":"ES384","kid":"k-ES256"}`) }, 400},
		{"encrypted", func() string { return logoutToken(nil) + ".a.b" }, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.users()
			m := as.middleware()
			expect(t, "before", as.try(m, "alice/session-1"), codeOK)
			rec := logOut(m, as.secret(tc.token()))
			expect(t, "status", rec.Code, tc.want)
			expect(t, "Cache-Control", rec.Header().Get("Cache-Control"), "no-store")
			var said struct{ Error string }
			if tc.want != 200 {
				expect(t, "Content-Type", rec.Header().Get("Content-Type"), "application/json")
				if err := json.Unmarshal(rec.Body.Bytes(), &said); err != nil || said.Error != "invalid_request" {
					t.Errorf("%q, %v", rec.Body, err)
				}
			} else if rec.Body.Len() > 0 {
				t.Errorf("%q", rec.Body)
			}
			expect(t, "after", as.try(m, "alice/session-1"), codeOK)
			expect(t, "asked again", as.calls.Load() > 1, tc.want == 200)
		})
	}
}

// A logout token comes in the form of a POST request, once.
//
// Catalogue: H53.
func TestLogoutTokensComeInAForm(t *testing.T) {
	const form = "application/x-www-form-urlencoded"
	for _, tc := range []struct {
		name, method, contentType string
		body                      func(token string) string
		want                      int
	}{
		{"good", "POST", form + "; charset=utf-8", func(tok string) string { return "logout_token=" + tok }, 200},
		{"with other parameters", "POST", form, func(tok string) string { return "a=b&logout_token=" + tok }, 200},
		{"twice", "POST", form, func(tok string) string { return "logout_token=" + tok + "&logout_token=" + tok }, 400},
		{"JSON", "POST", "application/json", func(tok string) string { return `{"logout_token":"` + tok + `"}` }, 400},
		{"no type", "POST", "", func(tok string) string { return "logout_token=" + tok }, 400},
		{"a part of several", "POST", "multipart/form-data; boundary=b", func(tok string) string {
			return "--b\r\nContent-Disposition: form-data; name=\"logout_token\"\r\n\r\n" + tok + "\r\n--b--\r\n"
		}, 400},
		{"more than 64 KiB", "POST", form, func(tok string) string {
			return "logout_token=" + tok + "&a=" + strings.Repeat("b", 64<<10)
		}, 400},
		{"a bad escape", "POST", form, func(tok string) string { return "logout_token=" + tok + "&a=%zz" }, 400},
		{"PUT", "PUT", form, func(tok string) string { return "logout_token=" + tok }, 405},
		{"DELETE", "DELETE", form, func(tok string) string { return "logout_token=" + tok }, 405},
		{"HEAD", "HEAD", form, func(tok string) string { return "logout_token=" + tok }, 405},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.users()
			book := as.logBook()
			m := as.middleware(booked(book))
			expect(t, "before", as.try(m, "alice/session-1"), codeOK)
			book.take()
			r := httptest.NewRequest(tc.method, "/logout", strings.NewReader(tc.body(as.secret(logoutToken(nil)))))
			if tc.contentType != "" {
				r.Header.Set("Content-Type", tc.contentType)
			}
			rec := serve(m.BackchannelLogout(), r)
			expect(t, "status", rec.Code, tc.want)
			expect(t, "Cache-Control", rec.Header().Get("Cache-Control"), "no-store")
			for _, line := range book.take() { // which says what would be right
				expect(t, "detail", strings.HasPrefix(line.attrs["detail"], "logout: no form"), true)
			}
			expect(t, "after", as.try(m, "alice/session-1"), codeOK)
			expect(t, "asked again", as.calls.Load() > 1, tc.want == 200)
		})
	}
}

// A logout token is no access token, also where a client id is an audience.
//
// Catalogue: H54.
func TestALogoutTokenIsNoAccessToken(t *testing.T) {
	as := newAS(t)
	m := as.direct(phantom.WithAudience(clientID))
	for _, header := range []string{`{"alg":"ES256","kid":"k-ES256"}`, `{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`} {
		good := mintHeader("ES256", header, claims(map[string]any{"aud": clientID}))
		expect(t, "an access token", as.try(m, as.secret(good)), codeOK)
		logout := mintHeader("ES256", header, logoutClaims(nil))
		expect(t, "a logout token", as.try(m, as.secret(logout)), code401T)
	}
}

// The sid is found wherever the token's claims come from.
//
// Catalogue: H55.
func TestSessionsEndWhereverTheClaimsComeFrom(t *testing.T) {
	user := func(respond func(changes map[string]any) http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			sub, sid, _ := strings.Cut(r.Form.Get("token"), "/")
			respond(map[string]any{"sub": sub, "sid": sid})(w, r)
		}
	}
	signedAnswer := func(changes map[string]any) http.HandlerFunc {
		return answer(200, "application/token-introspection+jwt", mintHeader("ES256",
			`{"alg":"ES256","kid":"k-ES256","typ":"token-introspection+jwt"}`, map[string]any{
				"iss": issuer, "aud": clientID, "iat": time.Now().Unix(), "token_introspection": members(changes),
			}))
	}
	for _, tc := range []struct {
		name    string
		respond func(changes map[string]any) http.HandlerFunc
		make    func(as *fakeAS, shared phantom.Option) *phantom.Middleware
	}{
		{"a JWT", func(c map[string]any) http.HandlerFunc { return answerJWT(mint("ES256", claims(c))) },
			func(as *fakeAS, shared phantom.Option) *phantom.Middleware { return as.middleware(shared) }},
		{"no JWT", answerMembers, func(as *fakeAS, shared phantom.Option) *phantom.Middleware { return as.claimsOnly(shared) }},
		{"a minted JWT without sid", answerMembers, func(as *fakeAS, shared phantom.Option) *phantom.Middleware {
			return as.minting(newMinter(), shared)
		}},
		{"a minted JWT with another sid", answerMembers, func(as *fakeAS, shared phantom.Option) *phantom.Middleware {
			minter := newMinter()
			minter.changes = map[string]any{"sid": "session-2"}
			return as.minting(minter, shared)
		}},
		{"a signed answer", signedAnswer, func(as *fakeAS, shared phantom.Option) *phantom.Middleware {
			return as.middleware(phantom.WithoutJWT(), phantom.WithSignedResponse(clientID), shared)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				as.introspect = user(tc.respond)
				shared := phantom.WithStore(store, fleetSecret)
				a, b := tc.make(as, shared), tc.make(as, shared)
				tokens := []string{"alice/session-1", "alice/session-2"}
				as.lookedUp(t, a, tokens...)
				as.lookedUp(t, b, tokens...)
				time.Sleep(2 * time.Second)
				if err := a.ForgetSession("session-1"); err != nil {
					t.Error(err)
				}
				time.Sleep(2 * time.Second)
				expect(t, "B", as.lookedUp(t, b, tokens...), "alice/session-1")
			})
		})
	}
}

// A logout token with sid and sub waits for a Store that hangs no longer than
// one with either.
//
// Catalogue: H58.
func TestLogoutWaitsForTheStoreOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		m := as.replica(store)
		as.admits(t, "keys", m, codeOK)
		store.Delay(time.Hour)
		start := time.Now()
		expect(t, "status", logOut(m, logoutToken(nil)).Code, 503)
		expect(t, "time", time.Since(start), time.Second)
	})
}

// A user whose sessions end faster than a lookup takes holds up a request for no
// longer than two lookups may take, and no other user.
//
// Catalogue: H63.
func TestForgetWithoutEndHoldsNoRequestForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			jwt := mint("ES256", claims(map[string]any{"sub": r.Form.Get("token")}))
			wait(50*time.Millisecond, answerJWT(jwt))(w, r)
		}
		m := as.middleware(phantom.WithTimeout(time.Second))
		expect(t, "keys", as.try(m, "bob"), codeOK)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 60 * 50 {
				time.Sleep(20 * time.Millisecond)
				_ = m.ForgetSubject("alice")
			}
		}()
		start := time.Now()
		expect(t, "meanwhile", as.try(m, "alice"), code503A)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		expect(t, "another user", as.try(m, "carol"), codeOK)
		<-done
		expect(t, "afterwards", as.try(m, "alice"), codeOK)
	})
}

// Whether a logout token was there before is known for as long as it could come
// again, and no longer, however many there are.
//
// Catalogue: H64.
func TestLogoutTokensAreForgottenInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware()
		h := m.BackchannelLogout()
		send := func(id string) int {
			body := "logout_token=" + logoutToken(map[string]any{"jti": id})
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			return serve(h, r).Code
		}
		first := time.Now()
		expect(t, "first", send("a"), 200)
		for i := range 130 {
			time.Sleep(time.Second)
			expect(t, "another", send(fmt.Sprint(i)), 200)
			expect(t, "again", send(fmt.Sprint(i)), 400)
			expect(t, "the first again", send("a"), 400)
		}
		const most = 7 * time.Minute // its age and the greatest leeway
		time.Sleep(most - time.Since(first) - time.Second)
		expect(t, "the first to the end", send("a"), 400)
		time.Sleep(2 * time.Second)
		expect(t, "the name is free", send("a"), 200)
		expect(t, "once", send("a"), 400)
	})
}
