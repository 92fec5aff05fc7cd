package conformance_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// signedBy answers with a JWT of the algorithm that the token begins with.
func signedBy(w http.ResponseWriter, r *http.Request) {
	alg, _, _ := strings.Cut(r.Form.Get("token"), "-")
	answerJWT(mint(alg, claims(nil)))(w, r)
}

// A thousand requests with a key that is new start one fetch of the key set.
// Those with a known key do not wait for it.
//
// Catalogue: K192.
func TestNewKeyIsFetchedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		oldKey := jwk("k-ES256", "ES256", p256Key().Public())
		newKey := jwk("k-EdDSA", "EdDSA", edKey().Public())
		as.jwks = answer(200, "application/json", jwks(oldKey))
		as.introspect = signedBy
		m := as.middleware()
		h := m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		status := func(token string) int { return serve(h, get("Bearer "+token)).Code }
		if got := status("ES256-0"); got != 200 {
			t.Fatal(got)
		}
		as.jwks = wait(50*time.Millisecond, answer(200, "application/json", jwks(oldKey, newKey)))
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 1000 {
			wg.Go(func() {
				if got := status(fmt.Sprint("EdDSA-", i)); got != 200 {
					t.Errorf("new key: %d", got)
				}
			})
			if i%10 == 0 {
				wg.Go(func() {
					if got := status(fmt.Sprint("ES256-", i+1)); got != 200 || !time.Now().Equal(start) {
						t.Errorf("old key: %d after %v", got, time.Since(start))
					}
				})
			}
		}
		wg.Wait()
		if n := as.fetches.Load(); n != 2 {
			t.Errorf("%d fetches, want one to start with and one for the new kid", n)
		}
	})
}

// A key that appears while the key set is on its way is looked for again: the
// set that arrives is older than the JWT.
//
// Catalogue: K192.
func TestKeyThatAppearsDuringAFetchIsFound(t *testing.T) {
	oldKey, newKey := jwk("k-ES256", "ES256", p256Key().Public()), jwk("k-EdDSA", "EdDSA", edKey().Public())
	for _, tc := range []struct {
		name string
		warm bool
	}{{"first fetch", false}, {"refresh", true}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				var rotated atomic.Bool
				as.jwks = func(w http.ResponseWriter, r *http.Request) {
					was := jwks(oldKey)
					if rotated.Load() {
						was = jwks(oldKey, newKey)
					}
					time.Sleep(500 * time.Millisecond)
					answer(200, "application/json", was)(w, r)
				}
				as.introspect = signedBy
				m := as.middleware()
				fetches := int64(2)
				if tc.warm {
					if got := as.try(m, "ES256-first"); got != codeOK {
						t.Fatal(got)
					}
					time.Sleep(6 * time.Minute)
					fetches++
				}
				go func() { _, _ = m.Verify(t.Context(), "ES256-0") }() // starts the fetch
				time.Sleep(200 * time.Millisecond)
				rotated.Store(true)
				if got := as.try(m, "EdDSA-0"); got != codeOK {
					t.Error(got)
				}
				if n := as.fetches.Load(); n != fetches {
					t.Errorf("%d fetches, want %d", n, fetches)
				}
				synctest.Wait()
			})
		})
	}
}

// Ten thousand unknown kids in a minute start ten fetches at most, the pauses
// between which grow from one second to ten, and known keys work on all the
// while.
//
// Catalogue: K193.
func TestUnknownKidsAreFetchedAtIntervals(t *testing.T) {
	for _, tc := range []struct {
		name    string
		jwks    http.HandlerFunc
		refused int // the others wait for the next fetch
		fetches int64
	}{
		{"healthy", nil, 9, 10},
		{"key set fails", answer(500, "", ""), 0, 7},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				payload := goodPayload()
				as.introspect = func(w http.ResponseWriter, r *http.Request) {
					token := r.Form.Get("token")
					if strings.HasPrefix(token, "good") {
						newToken(w, r)
						return
					}
					header := fmt.Appendf(nil, `{"alg":"EdDSA","kid":%q}`, token)
					answerJWT(b64(header)+"."+b64([]byte(payload))+"."+b64(make([]byte, 64)))(w, r)
				}
				m := as.middleware()
				if err := m.Warm(t.Context()); err != nil {
					t.Fatal(err)
				}
				as.jwks = tc.jwks
				refused := 0
				for i := range 10_000 {
					tok, err := m.Verify(t.Context(), fmt.Sprint("kid-", i))
					switch {
					case errors.Is(err, phantom.ErrInvalidToken):
						refused++
					case tok != nil || !errors.Is(err, phantom.ErrUnavailable):
						t.Fatalf("%v, %v", tok, err)
					}
					if i%100 == 0 {
						if _, err := m.Verify(t.Context(), fmt.Sprint("good-", i)); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(6 * time.Millisecond)
				}
				if n := as.fetches.Load(); n != tc.fetches || refused != tc.refused {
					t.Errorf("%d fetches, %d refused, want %d and %d", n, refused, tc.fetches, tc.refused)
				}
			})
		})
	}
}

// A key that leaves the key set takes along all that it signed, the cached
// verdicts too.
//
// Catalogue: J178.
func TestRetiredKeyEndsCachedVerdicts(t *testing.T) {
	old, fresh := jwk("old", "ES256", p256Key().Public()), jwk("new", "EdDSA", edKey().Public())
	signedWith := func(kid string) string {
		if kid == "old" {
			return mintHeader("ES256", `{"alg":"ES256","kid":"old","typ":"at+jwt"}`, claims(nil))
		}
		return mintHeader("EdDSA", `{"alg":"EdDSA","kid":"new","typ":"at+jwt"}`, claims(nil))
	}
	for _, tc := range []struct{ name, before string }{
		{"listed once", jwks(old)},
		{"listed twice", jwks(old, old)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				document := tc.before
				as.jwks = func(w http.ResponseWriter, r *http.Request) {
					answer(200, "application/json", document)(w, r)
				}
				as.introspect = func(w http.ResponseWriter, r *http.Request) {
					answerJWT(signedWith(r.Form.Get("token")[:3]))(w, r)
				}
				m := as.middleware(phantom.WithMaxTTL(time.Hour), phantom.WithRefreshAhead(0))
				for range 2 {
					if got := as.try(m, "old-1"); got != codeOK || as.calls.Load() != 1 {
						t.Fatalf("%s, %d introspections", got, as.calls.Load())
					}
				}
				document = jwks(fresh)
				if got := as.try(m, "old-1"); got != codeOK || as.calls.Load() != 1 {
					t.Errorf("before the refresh: %s, %d introspections", got, as.calls.Load())
				}
				if got := as.try(m, "new-1"); got != codeOK || as.fetches.Load() != 2 { // refreshes
					t.Errorf("new key: %s, %d fetches", got, as.fetches.Load())
				}
				calls := as.calls.Load()
				if got := as.try(m, "old-1"); got != code503A || as.calls.Load() != calls+1 {
					t.Errorf("cached verdict after the refresh: %s, %d more introspections", got, as.calls.Load()-calls)
				}
				time.Sleep(time.Second) // then the key set is fetched again
				if got := as.try(m, "old-2"); got != code401T {
					t.Errorf("uncached token of the retired key: %s", got)
				}
				if got := as.try(m, "new-1"); got != codeOK {
					t.Errorf("token of the new key: %s", got)
				}
			})
		})
	}
}

// A key that stays in the key set keeps its cached verdicts, until a refresh
// finds it gone.
//
// Catalogue: J178.
func TestKeyThatStaysKeepsCachedVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		stays := jwk("k-ES256", "ES256", p256Key().Public())
		document := jwks(stays, stays)
		as.jwks = func(w http.ResponseWriter, r *http.Request) { answer(200, "application/json", document)(w, r) }
		m := as.middleware(phantom.WithMaxTTL(2*time.Minute), phantom.WithRefreshAhead(0))
		if got := as.try(m, "opaque"); got != codeOK {
			t.Fatal(got)
		}
		document = jwks(jwk("more", "EdDSA", edKey().Public()), stays)
		as.introspect = answerJWT(mintHeader("EdDSA", `{"alg":"EdDSA","kid":"more"}`, claims(nil)))
		if got := as.try(m, "other"); got != codeOK || as.fetches.Load() != 2 {
			t.Fatalf("%s, %d fetches", got, as.fetches.Load())
		}
		if got := as.try(m, "opaque"); got != codeOK || as.calls.Load() != 2 {
			t.Errorf("a verdict by a key that stayed: %s, %d introspections", got, as.calls.Load())
		}
		// It leaves at last, by the refresh of its age.
		document = jwks(jwk("more", "EdDSA", edKey().Public()))
		time.Sleep(5*time.Minute + time.Second)
		as.introspect = nil
		if got := as.try(m, "opaque"); got != codeOK { // old keys, while the refresh runs
			t.Errorf("during the refresh: %s", got)
		}
		synctest.Wait()
		if got := as.try(m, "opaque"); got != code401T {
			t.Errorf("after the refresh: %s", got)
		}
	})
}
