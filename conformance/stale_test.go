package conformance_test

import (
	"context"
	"encoding/json"
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

// page makes a handler that answers with a page of that size.
func page(status, size int, encoding string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if encoding != "" {
			w.Header().Set("Content-Encoding", encoding)
		}
		answer(status, "text/html; charset=utf-8", strings.Repeat("x", size))(w, r)
	}
}

// A stale entry bridges an outage up to its limit and up to exp, with a
// warning in the log. Other failures, and an option left off, bridge
// nothing.
//
// Catalogue: C231.
func TestStaleIfErrorIsBounded(t *testing.T) {
	stale := phantom.WithStaleIfError(30 * time.Second)
	for _, tc := range []struct {
		name    string
		life    time.Duration // of the JWT
		said    time.Duration // the answer's own exp; 0: none
		answer  http.HandlerFunc
		extra   []phantom.Option
		served  time.Duration // at least that long
		refused time.Duration // from then on
		want    string        // then
	}{
		{"bounded by its limit", 300 * time.Second, 0, reply(500, ""), []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code503A},
		{"bounded by exp", 70 * time.Second, 0, reply(500, ""), []phantom.Option{stale}, 70 * time.Second, 70 * time.Second, code503A},
		{"bounded by the answer's exp", 300 * time.Second, 70 * time.Second, reply(500, ""), []phantom.Option{stale}, 70 * time.Second, 70 * time.Second, code503A},
		{"a connection that fails", 300 * time.Second, 0, nil, []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code503A},
		{"an hour, bounded by exp", 300 * time.Second, 0, reply(503, ""), []phantom.Option{phantom.WithStaleIfError(time.Hour)}, 300 * time.Second, 300 * time.Second, code503A},
		{"not found, as during a redeploy", 300 * time.Second, 0, reply(404, ""), []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code502A},                  // X9
		{"method not allowed", 300 * time.Second, 0, reply(405, ""), []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code502A},                               // X9
		{"request time-out", 300 * time.Second, 0, reply(408, ""), []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code503A},                                 // X9
		{"a router's page", 300 * time.Second, 0, reply(200, "<html>", "Content-Type: text/html"), []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code502A}, // X9
		{"a large page", 300 * time.Second, 0, page(404, 100<<10, ""), []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code502A},                             // X9
		{"a large page, as a success", 300 * time.Second, 0, page(200, 100<<10, ""), []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code502A},               // X9
		{"a compressed page", 300 * time.Second, 0, page(404, 10, "gzip"), []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code502A},                         // X9
		{"forbidden, by a large page", 300 * time.Second, 0, page(403, 100<<10, ""), []phantom.Option{stale}, 52 * time.Second, 60 * time.Second, code502A},               // X9
		{"a large answer", 300 * time.Second, 0, answerJSON(strings.Repeat(" ", 100<<10)), []phantom.Option{stale}, 52 * time.Second, 60 * time.Second, code502A},
		{"a redirect", 300 * time.Second, 0, reply(302, "", "Location: /login"), []phantom.Option{stale}, 82 * time.Second, 90 * time.Second, code502A},                    // X9
		{"bad request", 300 * time.Second, 0, reply(400, ""), []phantom.Option{stale}, 52 * time.Second, 60 * time.Second, code502A},                                       // X9
		{"our credentials refused", 300 * time.Second, 0, reply(401, ""), []phantom.Option{stale}, 52 * time.Second, 60 * time.Second, code502A},                           // X9
		{"forbidden", 300 * time.Second, 0, reply(403, ""), []phantom.Option{stale}, 52 * time.Second, 60 * time.Second, code502A},                                         // X9
		{"too many requests", 300 * time.Second, 0, reply(429, ""), []phantom.Option{stale}, 52 * time.Second, 60 * time.Second, code503A},                                 // X8
		{"too many requests, with a wait", 300 * time.Second, 0, reply(429, "", "Retry-After: 30"), []phantom.Option{stale}, 52 * time.Second, 60 * time.Second, code503A}, // X8
		{"not implemented", 300 * time.Second, 0, reply(501, ""), []phantom.Option{stale}, 52 * time.Second, 60 * time.Second, code503A},                                   // X8
		{"off", 300 * time.Second, 0, reply(500, ""), nil, 52 * time.Second, 60 * time.Second, code503A},
		{"zero", 300 * time.Second, 0, reply(500, ""), []phantom.Option{phantom.WithStaleIfError(0)}, 52 * time.Second, 60 * time.Second, code503A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				jwt := mint("ES256", claims(map[string]any{"exp": time.Now().Add(tc.life).Unix()}))
				as.introspect = answerJWT(jwt)
				if tc.said > 0 {
					as.introspect = answerJSON(answerOf(jwt, map[string]any{"exp": time.Now().Add(tc.said).Unix()}))
				}
				down := false
				m := as.middleware(append(tc.extra, phantom.WithHTTPClient(&http.Client{
					Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
						if down && tc.answer == nil {
							return nil, errors.New("no route")
						}
						return as.RoundTrip(r)
					}),
				}))...)
				start := time.Now()
				if got := as.try(m, "tok"); got != codeOK {
					t.Fatal(got)
				}
				as.introspect, down = tc.answer, true
				for time.Since(start) < tc.refused+15*time.Second {
					time.Sleep(200 * time.Millisecond)
					switch got, at := as.try(m, "tok"), time.Since(start); {
					case at < tc.served && got != codeOK, at >= tc.refused && got != tc.want:
						t.Fatalf("%s at %v", got, at)
					}
				}
				warnings := strings.Count(as.logs.String(), "level=WARN")
				bridged := tc.served > 60*time.Second
				if bridged && warnings == 0 || !bridged && warnings > 0 || warnings > int(tc.refused/(10*time.Second)) {
					t.Errorf("%d warnings", warnings)
				}
				as.introspect, down = nil, false
				time.Sleep(time.Second)
				if got := as.try(m, "tok"); got != codeOK {
					t.Errorf("when the server is back: %s", got)
				}
			})
		})
	}
}

// A stale entry is never served once the server has called its token
// inactive.
//
// Catalogue: C231.
func TestStaleEntryEndsWhenTheServerCallsItInactive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware(phantom.WithStaleIfError(30*time.Second), phantom.WithRefreshAhead(0))
		if got := as.try(m, "tok"); got != codeOK {
			t.Fatal(got)
		}
		time.Sleep(61 * time.Second)
		as.introspect = reply(204, "")
		if got := as.try(m, "tok"); got != code401T {
			t.Errorf("revoked: %s", got)
		}
		as.introspect = reply(500, "")
		if got := as.try(m, "tok"); got != code401T {
			t.Errorf("an outage after that: %s", got)
		}
		time.Sleep(5 * time.Second)
		if got := as.try(m, "tok"); got != code503A {
			t.Errorf("the outage alone: %s", got)
		}
	})
}

// A stale entry is not served after Forget.
//
// Catalogue: C231.
func TestStaleEntryEndsWithForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware(phantom.WithStaleIfError(30 * time.Second))
		if got := as.try(m, "tok"); got != codeOK {
			t.Fatal(got)
		}
		as.introspect = reply(500, "")
		time.Sleep(61 * time.Second)
		if got := as.try(m, "tok"); got != codeOK {
			t.Errorf("stale: %s", got)
		}
		m.Forget("tok")
		if got := as.try(m, "tok"); got != code503A {
			t.Errorf("forgotten: %s", got)
		}
	})
}

// A client that leaves before the outage is known gets no stale entry.
//
// Catalogue: C231.
func TestStaleEntryIsNotForThoseWhoLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware(phantom.WithStaleIfError(30 * time.Second))
		if got := as.try(m, "tok"); got != codeOK {
			t.Fatal(got)
		}
		as.introspect = wait(time.Hour, nil)
		time.Sleep(61 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Verify(ctx, "tok"); !errors.Is(err, phantom.ErrUnavailable) {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
	})
}

// Keys that cannot be had are no outage of the introspection endpoint: a revoked
// token is not kept alive while that is not asked.
//
// Catalogue: X8, Y3.
func TestMissingKeysAreNotBridged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		down := false
		as.metadata = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			document := map[string]any{"issuer": issuer, "jwks_uri": issuer + jwksPath}
			answer(200, "application/json", string(must(json.Marshal(document))))(w, r)
		}
		as.jwks = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			answer(200, "application/jwk-set+json", allKeys())(w, r)
		}
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			answerJWT(mint("ES256", claims(map[string]any{"exp": time.Now().Add(3 * time.Hour).Unix()})))(w, r)
		}
		transport := roundTripper(func(r *http.Request) (*http.Response, error) {
			if down && r.URL.Path != endpointPath {
				return nil, errors.New("no route")
			}
			return as.RoundTrip(r)
		})
		m := must(phantom.New(
			phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithClientAuth(phantom.NoClientAuth()),
			phantom.WithIntrospectionEndpoint(issuer+endpointPath), phantom.WithTimeout(2*time.Second),
			phantom.WithRefreshAhead(0), phantom.WithStaleIfError(10*time.Minute),
			phantom.WithHTTPClient(&http.Client{Transport: transport}),
		))
		if got := as.try(m, "tok"); got != codeOK {
			t.Fatal(got)
		}
		down = true
		time.Sleep(60*time.Minute + 30*time.Second)
		if got := as.try(m, "tok"); got != codeOK {
			t.Fatal(got)
		}
		time.Sleep(61 * time.Second) // the keys are over, and what was remembered
		active := as.introspect
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			if r.Form.Get("token") == "tok" {
				reply(204, "")(w, r)
				return
			}
			active(w, r)
		}
		for range 8 {
			as.try(m, "other") // fails for the keys
			if got := as.try(m, "tok"); got == codeOK {
				t.Error("a revoked token was served")
			}
			time.Sleep(1500 * time.Millisecond)
		}
	})
}

// In an outage that stale entries bridge, only the first lookups of a token and
// then the probes hold up requests, also those of a token that is in constant
// use.
//
// Catalogue: X14.
func TestAProbeHoldsUpNoOtherRequestOfItsToken(t *testing.T) {
	for _, tokens := range []int{1, 5, 30} {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(mint("ES256", claims(map[string]any{"exp": time.Now().Add(time.Hour).Unix()})))
			m := as.middleware(phantom.WithStaleIfError(time.Hour), phantom.WithRefreshAhead(0))
			for i := range tokens {
				expect(t, "before", as.try(m, fmt.Sprint("tok-", i)), codeOK)
			}
			synctest.Wait()
			as.introspect = wait(time.Hour, nil)
			time.Sleep(61 * time.Second)
			var slow atomic.Int64
			var all sync.WaitGroup
			try := func(token int) {
				start := time.Now()
				expect(t, "bridged", as.try(m, fmt.Sprint("tok-", token)), codeOK)
				if time.Since(start) > 0 && token == 0 {
					slow.Add(1)
				}
			}
			for i := range 1200 { // two minutes
				all.Go(func() { try(0) })
				if i%10 == 0 && tokens > 1 {
					all.Go(func() { try(1 + i/10%(tokens-1)) })
				}
				time.Sleep(100 * time.Millisecond)
			}
			all.Wait()
			const first, probes = 10 * 20, 50 // of 2 s each; one in three seconds
			if n := slow.Load(); n > first+probes {
				t.Errorf("%d tokens: %d of 1200 requests waited", tokens, n)
			}
			synctest.Wait()
			as.introspect = answer(204, "", "")
			time.Sleep(5 * time.Second)
			as.try(m, "tok-0")
			synctest.Wait()
			expect(t, "revoked", as.try(m, "tok-0"), code401T)
		})
	}
}
