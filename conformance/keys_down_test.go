package conformance_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// While it is known that there are no keys, the server is not asked about
// tokens: no answer could be verified. Each second, one attempt to get the keys
// takes one lookup along.
//
// Catalogue: Y3.
func TestServerIsNotAskedWithoutKeys(t *testing.T) {
	good := answer(200, "application/json", metadataOf(issuer, nil))
	given := phantom.WithIntrospectionEndpoint(issuer + endpointPath)
	for _, tc := range []struct {
		name     string
		metadata http.HandlerFunc
		jwks     http.HandlerFunc
		want     string
		recovers time.Duration
	}{
		{"key set fails", good, answer(500, "", ""), code503A, time.Second},
		{"key set missing", good, http.NotFound, code503A, time.Second},
		{"key set without keys", good, answer(200, "application/json", `{"keys":[]}`), code503A, time.Second},
		{"metadata fail", answer(500, "", ""), nil, code503A, time.Second},
		{"metadata missing", http.NotFound, nil, code502A, time.Second},
		{"metadata of another issuer", answer(200, "application/json", metadataOf("https://evil.test", nil)), nil, code502A, time.Second},
		{"metadata without jwks_uri", answer(200, "application/json", metadataOf(issuer, map[string]any{"jwks_uri": nil})), nil, code502A, 65 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = newToken
				as.metadata, as.jwks = tc.metadata, tc.jwks
				m := as.discoverer(given)
				for range 1000 { // 10 s
					if got := as.tries(m, 1); got != tc.want {
						t.Fatal(got)
					}
					time.Sleep(10 * time.Millisecond)
				}
				if n := as.calls.Load(); n > 10 {
					t.Errorf("asked %d times", n)
				}
				as.metadata, as.jwks = good, nil
				time.Sleep(tc.recovers)
				if got := as.tries(m, 3); got != codeOK {
					t.Errorf("recovered: %s", got)
				}
			})
		})
	}
}

// Keys that were there once, and are too old now, are no reason to ask either.
// What is remembered serves to its end.
//
// Catalogue: Y3.
func TestServerIsNotAskedWhenTheKeysAreTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(mint("EdDSA", claims(map[string]any{"exp": time.Now().Unix() + 3*3600})))
		m := as.middleware(phantom.WithMaxTTL(2*time.Hour), phantom.WithRefreshAhead(0.5))
		if err := m.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := as.try(m, "cached"); got != codeOK {
			t.Fatal(got)
		}
		as.jwks = answer(503, "", "")
		time.Sleep(64 * time.Minute)
		if got := as.tries(m, 1); got != code503A {
			t.Errorf("with the keys too old: %s", got)
		}
		calls := as.calls.Load()
		for range 90 {
			if got := as.tries(m, 1); got != code503A {
				t.Fatal(got)
			}
			if got := as.try(m, "cached"); got != codeOK { // due for a refresh, which cannot be verified
				t.Fatalf("the cached token: %s", got)
			}
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
		}
		if n := as.calls.Load(); n != calls {
			t.Errorf("asked %d times", n-calls)
		}
	})
}

// A set of keys that never changes is always there.
//
// Catalogue: Y3.
func TestServerIsAskedWithKeysOfTheCaller(t *testing.T) {
	as := newAS(t)
	m := must(phantom.New(as.withKeys(phantom.StaticKeys(p256Key().Public()))...))
	if got := as.tries(m, 3); got != codeOK || as.calls.Load() != 3 || as.fetches.Load() != 0 {
		t.Errorf("%s, asked %d times, %d fetches", got, as.calls.Load(), as.fetches.Load())
	}
}

// The host of the key set or of the metadata says when to come again. Nobody
// comes earlier, and clients are told what is left of the time.
//
// Catalogue: Y3.
func TestKeysAreNotFetchedBeforeTheTimeThatTheirHostNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, status := range []int{429, 503, 500} {
			for _, wait := range []struct {
				value string
				want  time.Duration
			}{
				{"7", 7 * time.Second},
				{"30", 30 * time.Second},
				{"3600", 30 * time.Second},
				{"a date", 7 * time.Second},
				{"0", time.Second},
				{"abc", time.Second},
				{"", time.Second},
			} {
				for _, at := range []string{jwksPath, oauthPath} {
					name := fmt.Sprintf("%s, status %d, Retry-After %q", at, status, wait.value)
					as := newAS(t)
					as.introspect = newToken
					value := wait.value
					if value == "a date" {
						value = time.Now().Add(wait.want).UTC().Format(http.TimeFormat)
					}
					asked := 0
					busy := func(w http.ResponseWriter, _ *http.Request) {
						asked++
						w.Header().Set("Retry-After", value)
						w.WriteHeader(status)
					}
					as.metadata = answer(200, "application/json", metadataOf(issuer, nil))
					urls := 1
					if as.jwks = busy; at == oauthPath {
						as.metadata, as.jwks, urls = busy, nil, 2
					}
					m := as.discoverer(phantom.WithIntrospectionEndpoint(issuer + endpointPath))
					token := freshTokens()
					if e := rejectedFor(m, token()); e == nil || e.RetryAfter != wait.want {
						t.Errorf("%s: %v", name, e)
					}
					time.Sleep(wait.want / 2)
					if e := rejectedFor(m, token()); e == nil || e.RetryAfter != max(wait.want/2, time.Second) {
						t.Errorf("%s: half of the time later: %v", name, e)
					}
					time.Sleep(wait.want/2 - time.Millisecond)
					if e := rejectedFor(m, token()); e == nil || e.RetryAfter != time.Second {
						t.Errorf("%s: at the end: %v", name, e)
					}
					if asked != urls || as.calls.Load() != 1 {
						t.Errorf("%s: %d requests for it and %d lookups too early", name, asked-urls, as.calls.Load()-1)
					}
					as.metadata, as.jwks = answer(200, "application/json", metadataOf(issuer, nil)), nil
					time.Sleep(time.Millisecond)
					if got := as.tries(m, 1); got != codeOK {
						t.Errorf("%s: then: %s", name, got)
					}
				}
			}
		}
	})
}

// The same holds for the renewal of keys that are in use. It holds up nobody
// but a JWT of an unknown key.
//
// Catalogue: Y3.
func TestKeysInUseAreNotRenewedBeforeTheTimeThatTheirHostNames(t *testing.T) {
	for _, wait := range []struct {
		value string
		want  time.Duration
	}{{"25", 25 * time.Second}, {"3600", 30 * time.Second}, {"2", 10 * time.Second}, {"", 10 * time.Second}} {
		t.Run("Retry-After "+wait.value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = signedAs
				book := as.logBook()
				m := as.middleware(booked(book))
				if err := m.Warm(t.Context()); err != nil {
					t.Fatal(err)
				}
				as.jwks = func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Retry-After", wait.value)
					w.WriteHeader(503)
				}
				time.Sleep(5*time.Minute + time.Second)
				token := freshTokens()
				if got := as.try(m, "k-EdDSA"+token()); got != code503A { // a kid that nobody knows
					t.Error(got)
				}
				fetched := time.Now()
				book.take()
				time.Sleep(wait.want/2 + time.Millisecond)
				if e := rejectedFor(m, "unknown-"+token()); e == nil || e.RetryAfter != wait.want-time.Since(fetched) {
					t.Errorf("%v", e)
				}
				as.introspect = newToken
				time.Sleep(time.Until(fetched.Add(wait.want - time.Millisecond)))
				if got := as.tries(m, 10); got != codeOK || as.fetches.Load() != 2 {
					t.Errorf("%s, %d fetches", got, as.fetches.Load())
				}
				time.Sleep(time.Millisecond)
				if got := as.tries(m, 10); got != codeOK {
					t.Error(got)
				}
				synctest.Wait()
				if n := as.fetches.Load(); n != 3 {
					t.Errorf("%d fetches", n)
				}
				for _, line := range aboveDebug(book.take()) {
					if line.level > slog.LevelWarn && line.attrs["reason"] != "keys_unavailable" {
						t.Errorf("logged %v", line)
					}
				}
			})
		})
	}
}

// A key set that hangs is what the log and the reason name, not the
// introspection endpoint, which has answered.
//
// Catalogue: O17.
func TestAKeySetThatHangsIsNoSilenceOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.jwks = wait(time.Hour, nil)
		m := as.middleware()
		for i := range 40 {
			_, err := m.Verify(t.Context(), fmt.Sprint("token-", i))
			if !errors.Is(err, phantom.ErrUnavailable) || reasonOf(err) != phantom.ReasonKeysUnavailable {
				t.Fatalf("%d: %v", i, err)
			}
			expect(t, "request", as.try(m, fmt.Sprint("tok-", i)), code503A)
			time.Sleep(300 * time.Millisecond)
		}
		if log := as.logs.String(); strings.Contains(log, "endpoint=introspection") || !strings.Contains(log, "keys_unavailable") {
			t.Error(log)
		}
	})
}

func reasonOf(err error) phantom.Reason {
	var e *phantom.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}
