package conformance_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// keylessSets are documents that are good JSON and have no key that verifies
// anything.
func keylessSets() []struct{ name, document string } {
	good := jwk("k-EdDSA", "EdDSA", edKey().Public())
	return []struct{ name, document string }{
		{"no keys", `{"keys":[]}`},
		{"no keys, other members", `{"keys":[],"next":"https://as.test/more"}`},
		{"for encryption", jwks(with(good, member{"use": "enc"}))},
		{"for signing only", jwks(with(good, member{"key_ops": []string{"sign"}}))},
		{"of an unknown kind", jwks(member{"kty": "AKP", "alg": "ML-DSA-65", "pub": "AAAA"})},
		{"symmetric", jwks(member{"kty": "oct", "k": "AAAA"})},
		{"private", jwks(with(good, member{"d": "AAAA"}))},
		{"broken, twice", jwks(with(good, member{"x": "AA"}), with(good, member{"x": nil}))},
		{"no objects", `{"keys":["k-EdDSA",null,{}]}`},
	}
}

// A key set in which no key can be used is none. At the start there are no keys
// then, Warm says so, and no JWT is refused for that.
//
// Catalogue: Y1.
func TestKeySetWithoutUsableKeysAtTheStart(t *testing.T) {
	for _, tc := range keylessSets() {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = newToken
				book := as.logBook()
				as.jwks = answer(200, "application/json", tc.document)
				m := as.middleware(booked(book))
				var e *phantom.Error
				if err := m.Warm(t.Context()); !errors.As(err, &e) || e.Reason != phantom.ReasonKeysUnavailable {
					t.Errorf("Warm: %v", err)
				}
				book.take() // why each key is not used
				if got := as.tries(m, 3); got != code503A || as.fetches.Load() != 1 {
					t.Errorf("%s, %d fetches", got, as.fetches.Load())
				}
				lines := aboveDebug(book.take())
				checkLine(t, lines, code503A, "")
				if len(lines) == 1 && lines[0].attrs["detail"] != "key set: no usable key in it" {
					t.Errorf("logged %v", lines)
				}
				as.jwks = nil
				time.Sleep(time.Second)
				if got := as.tries(m, 3); got != codeOK {
					t.Errorf("recovered: %s", got)
				}
			})
		})
	}
}

// At a refresh, a key set in which no key can be used leaves the old one in
// use, with all that was verified with it.
//
// Catalogue: Y1.
func TestKeySetWithoutUsableKeysAtARefresh(t *testing.T) {
	for _, tc := range keylessSets() {
		t.Run(tc.name, func(t *testing.T) {
			tryFailedRefresh(t, answer(200, "application/json", tc.document))
		})
	}
	t.Run("for good", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			as.introspect = newToken
			m := as.middleware()
			if err := m.Warm(t.Context()); err != nil {
				t.Fatal(err)
			}
			as.jwks = answer(200, "application/json", `{"keys":[]}`)
			time.Sleep(65*time.Minute - time.Second)
			if got := as.tries(m, 3); got != codeOK {
				t.Errorf("an hour past the freshness, less a second: %s", got)
			}
			synctest.Wait()
			time.Sleep(time.Second)
			if got := as.tries(m, 3); got != code503A {
				t.Errorf("an hour past the freshness: %s", got)
			}
		})
	})
}

// rejectedFor returns the rejection of a token that was not seen before.
func rejectedFor(m *phantom.Middleware, token string) *phantom.Error {
	var e *phantom.Error
	_, err := m.Verify(context.Background(), token)
	errors.As(err, &e)
	return e
}

// signedAs answers with a JWT of the Ed25519 key under the kid that the token
// begins with; without one if it begins with a dash.
func signedAs(w http.ResponseWriter, r *http.Request) {
	kid, _, _ := strings.Cut(r.Form.Get("token"), "-")
	header := fmt.Sprintf(`{"alg":"EdDSA","kid":%q}`, kid)
	if kid == "" {
		header = `{"alg":"EdDSA"}`
	}
	answerJWT(mintHeader("EdDSA", header, claims(nil)))(w, r)
}

// While the key set may not be fetched again, a JWT of an unknown key is
// neither good nor bad. It is refused only by a key set that was asked for
// later than the JWT came. The pauses grow from one second to ten.
//
// Catalogue: Y2.
func TestUnknownKeyWaitsForTheNextFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = signedAs
		as.jwks = answer(200, "application/json", jwks(jwk("old", "EdDSA", edKey().Public())))
		m := as.middleware()
		token := freshTokens()
		if got := as.try(m, "old-"+token()); got != codeOK {
			t.Fatal(got)
		}
		for i, pause := range []time.Duration{1, 2, 4, 8, 10, 10} {
			pause *= time.Second
			fetched := time.Now()
			if e := rejectedFor(m, "new-"+token()); e == nil || e.Reason != phantom.ReasonJWTRejected || e.Detail != "kid" {
				t.Errorf("%d: right after the fetch: %v", i, e)
			}
			for _, after := range []time.Duration{0, pause / 4, pause/2 + time.Millisecond, pause - time.Millisecond} {
				time.Sleep(time.Until(fetched.Add(after)))
				e := rejectedFor(m, "new-"+token())
				if e == nil || e.Reason != phantom.ReasonKeysUnavailable || e.RetryAfter != max(pause-after, time.Second) {
					t.Errorf("%d: %v after the fetch: %v", i, after, e)
				}
				if got := as.try(m, "old-"+token()); got != codeOK {
					t.Errorf("%d: a token of a known key: %s", i, got)
				}
			}
			if n := as.fetches.Load(); n != int64(i+2) {
				t.Errorf("%d fetches, want %d", n, i+2)
			}
			time.Sleep(time.Millisecond)
		}
		// The key that all wait for makes the pauses short again.
		old, fresh := jwk("old", "EdDSA", edKey().Public()), jwk("new", "EdDSA", edKey().Public())
		as.jwks = answer(200, "application/json", jwks(old, fresh))
		if got := as.try(m, "new-"+token()); got != codeOK {
			t.Errorf("the key is there: %s", got)
		}
		if e := rejectedFor(m, "newer-"+token()); e == nil || e.RetryAfter != time.Second {
			t.Errorf("another key: %v", e)
		}
		time.Sleep(time.Second)
		if e := rejectedFor(m, "newer-"+token()); e == nil || e.Reason != phantom.ReasonJWTRejected {
			t.Errorf("a second later: %v", e)
		}
	})
}

// A key set that changes each time is not fetched more than once a second.
//
// Catalogue: Y2.
func TestRestlessKeySetIsFetchedAtIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = signedAs
		as.jwks = func(w http.ResponseWriter, r *http.Request) {
			kid := fmt.Sprint("k", as.fetches.Load())
			answer(200, "application/json", jwks(jwk(kid, "EdDSA", edKey().Public())))(w, r)
		}
		m := as.middleware()
		token := freshTokens()
		for range 1000 { // 10 s
			if e := rejectedFor(m, "unknown-"+token()); e == nil {
				t.Fatal("OK")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := as.fetches.Load(); n > 12 {
			t.Errorf("%d fetches", n)
		}
	})
}

// What a JWT says of its key decides whether it is refused during a pause.
//
// Catalogue: Y2.
func TestVerdictDuringThePause(t *testing.T) {
	_, otherKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		header string
		during string
		reason string // of the verdict behind the pause
	}{
		{"unknown kid", `{"alg":"EdDSA","kid":"unknown"}`, code503A, "kid"},
		{"kid of another case", `{"alg":"EdDSA","kid":"K-EdDSA"}`, code503A, "kid"},
		{"no kid, and no key fits", `{"alg":"EdDSA"}`, code503A, "signature"},
		{"known kid, wrong signature", `{"alg":"EdDSA","kid":"k-EdDSA"}`, code401T, "signature"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = signedAs
				m := as.middleware()
				token := freshTokens()
				if err := m.Warm(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := as.try(m, "unknown-"+token()); got != code401T { // begins the pause
					t.Fatal(got)
				}
				as.introspect = answerJWT(compact("EdDSA", otherKey, tc.header, goodPayload()))
				if got := as.try(m, token()); got != tc.during || as.fetches.Load() != 2 {
					t.Errorf("during the pause: %s, want %s, %d fetches", got, tc.during, as.fetches.Load())
				}
				time.Sleep(time.Second)
				e := rejectedFor(m, token())
				if e == nil || e.Reason != phantom.ReasonJWTRejected || e.Detail != tc.reason || as.fetches.Load() != 3 {
					t.Errorf("behind it: %v, %d fetches", e, as.fetches.Load())
				}
			})
		})
	}
}
