package conformance_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A keyHost is the server's transport with a key set that a test can make
// behave as it likes, below what a handler can do.
type keyHost struct {
	*fakeAS
	keys func(*http.Request) (*http.Response, error) // nil: the server's handler
}

func (h *keyHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == jwksPath && h.keys != nil {
		h.fetches.Add(1)
		return h.keys(r)
	}
	return h.fakeAS.RoundTrip(r)
}

func (h *keyHost) client() phantom.Option {
	return phantom.WithHTTPClient(&http.Client{Transport: h})
}

func response(r *http.Request, header http.Header, body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: 200, Header: header, Body: body, ContentLength: -1, Request: r}
}

// A countedBody counts what is read of it.
type countedBody struct {
	io.Reader
	read, closed atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read.Add(int64(n))
	return n, err
}

func (b *countedBody) Close() error {
	b.closed.Add(1)
	return nil
}

// A drip is a body that gives a byte each second and never ends.
type drip struct{ ctx context.Context }

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		p[0] = ' '
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (drip) Close() error { return nil }

// newToken answers every lookup with a JWT of its own, signed with Ed25519,
// which is fast.
func newToken(w http.ResponseWriter, r *http.Request) {
	answerJWT(mint("EdDSA", claims(nil)))(w, r)
}

// tries sends n tokens that were not seen before and returns their outcomes.
func (as *fakeAS) tries(m *phantom.Middleware, n int) string {
	as.tb.Helper()
	outcomes := map[string]bool{}
	for range n {
		outcomes[as.try(m, rand.Text())] = true
	}
	var all []string
	for code := range outcomes {
		all = append(all, code)
	}
	return strings.Join(all, ",")
}

// aboveDebug leaves out the lines about requests that were let through.
func aboveDebug(lines []logLine) (said []logLine) {
	for _, line := range lines {
		if line.level > slog.LevelDebug {
			said = append(said, line)
		}
	}
	return said
}

func booked(b *logBook) phantom.Option { return phantom.WithLogger(slog.New(b)) }

// Without a key set to begin with, requests are refused with 503, and the log
// says so at intervals. Three seconds after the key set is back, all is well.
//
// Catalogue: K180.
func TestColdStartWithoutKeysRecovers(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, tc := range []struct {
		name   string
		broken http.HandlerFunc
		detail string
		slow   bool // each attempt takes the time limit
	}{
		{"status 500", answer(500, "text/plain", "broken"), "key set: status 500", false},
		{"status 503", answer(503, "", ""), "key set: status 503", false},
		{"status 429", answer(429, "", ""), "key set: status 429", false},
		{"status 404", http.NotFound, "key set: status 404", false},
		{"status 401", answer(401, "application/json", "{}"), "key set: status 401", false},
		{"status 204", answer(204, "", ""), "key set: status 204", false},
		{"HTML", answer(200, "text/html", "<html>"), "key set: malformed: not a JSON object", false},
		{"empty", answer(200, "application/json", ""), "key set: malformed: not a JSON object", false},
		{"hanging", hang, "timeout", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				book := as.logBook()
				as.jwks, as.introspect = tc.broken, newToken
				m := as.middleware(booked(book))
				start := time.Now()
				if got := as.tries(m, 1); got != code503A {
					t.Fatalf("first request: %s", got)
				}
				if lines := book.take(); !tc.slow { // a time-out is the lookup's as much as the keys'
					checkLine(t, lines, code503A, "")
					for range 200 {
						if got := as.tries(m, 1); got != code503A {
							t.Fatal(got)
						}
						time.Sleep(5 * time.Millisecond)
					}
					if n := as.fetches.Load(); n > 2 {
						t.Errorf("%d fetches in a second", n)
					}
					if lines := book.take(); len(lines) != 0 {
						t.Errorf("not rate-limited: %v", lines)
					}
				}
				synctest.Wait()
				as.jwks = nil
				recovered := time.Now()
				for as.tries(m, 1) != codeOK {
					if time.Since(recovered) > 3*time.Second {
						t.Fatal("no recovery within 3 s")
					}
					time.Sleep(100 * time.Millisecond)
				}
				if tc.slow && recovered.Sub(start) != 2*time.Second {
					t.Errorf("503 after %v", recovered.Sub(start))
				}
			})
		})
		t.Run("what is logged: "+tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				book := as.logBook()
				as.jwks = tc.broken
				m := as.middleware(booked(book))
				if got := as.tries(m, 1); got != code503A {
					t.Fatal(got)
				}
				if lines := book.take(); len(lines) != 1 || !strings.HasSuffix(lines[0].attrs["detail"], tc.detail) {
					t.Errorf("%v, want %q", lines, tc.detail)
				}
			})
		})
	}
}

// A hundred requests that find no key set share one fetch of it.
func TestFirstFetchOfTheKeysIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		as.jwks = wait(100*time.Millisecond, answer(200, "application/json", allKeys()))
		m := as.middleware()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got := as.tries(m, 1); got != codeOK {
					t.Error(got)
				}
			})
		}
		wg.Wait()
		if n := as.fetches.Load(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

// A fetch goes on after the caller who began it has left, and its keys are
// there for the next one.
func TestKeyFetchOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		as.jwks = wait(time.Second, answer(200, "application/json", allKeys()))
		m := as.middleware()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := m.Warm(ctx); !errors.Is(err, phantom.ErrUnavailable) || time.Since(start) != 100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		time.Sleep(time.Second)
		if got := as.tries(m, 1); got != codeOK || as.fetches.Load() != 1 {
			t.Errorf("%s, %d fetches", got, as.fetches.Load())
		}
	})
}

// tryFailedRefresh has a refresh of the key set fail, and checks that the old
// keys stay in use, that unknown keys cannot be judged, that one line warns,
// and that the next refresh sets all right.
func tryFailedRefresh(t *testing.T, broken http.HandlerFunc) {
	t.Helper()
	good := jwk("k-EdDSA", "EdDSA", edKey().Public())
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		book := as.logBook()
		as.introspect = answerJWT(mint("EdDSA", claims(map[string]any{"exp": time.Now().Unix() + 3*3600})))
		as.jwks = answer(200, "application/json", jwks(good))
		m := as.middleware(booked(book), phantom.WithMaxTTL(3*time.Hour), phantom.WithRefreshAhead(0))
		if got := as.try(m, "cached"); got != codeOK {
			t.Fatal(got)
		}
		as.introspect = newToken
		as.jwks = broken
		time.Sleep(5*time.Minute + time.Second)
		book.take()
		if got := as.tries(m, 1); got != codeOK { // begins the refresh
			t.Errorf("during the refresh: %s", got)
		}
		synctest.Wait()
		said := slices.DeleteFunc(aboveDebug(book.take()), func(line logLine) bool {
			return line.msg == "phantom: a key of the issuer is not used"
		})
		if len(said) != 1 || said[0].level != slog.LevelWarn ||
			said[0].msg != "phantom: cannot renew the key set of the authorization server" ||
			!strings.HasPrefix(said[0].attrs["detail"], "key set: ") {
			t.Errorf("logged %v", said)
		}
		if got := as.tries(m, 10); got != codeOK || as.fetches.Load() != 2 {
			t.Errorf("with the old keys: %s, %d fetches", got, as.fetches.Load())
		}
		// It may be signed by a key of the set that is not to be had.
		as.introspect = answerJWT(mintHeader("RS256", `{"alg":"RS256","kid":"evil"}`, claims(nil)))
		if got := as.tries(m, 1); got != code503A {
			t.Errorf("unknown key: %s", got)
		}
		as.introspect = newToken
		time.Sleep(30 * time.Minute)
		if got := as.tries(m, 3); got != codeOK {
			t.Errorf("half an hour later: %s", got)
		}
		synctest.Wait()
		as.jwks = nil
		time.Sleep(11 * time.Second)
		if got := as.tries(m, 1); got != codeOK {
			t.Errorf("at recovery: %s", got)
		}
		calls := as.calls.Load()
		if got := as.try(m, "cached"); got != codeOK || as.calls.Load() != calls {
			t.Errorf("the cached token: %s, %d more introspections", got, as.calls.Load()-calls)
		}
		as.onlyAsked(t, endpointPath, jwksPath)
	})
}

// evilKeys is a key set of the attacker's.
func evilKeys() string { return jwks(jwk("evil", "RS256", otherRSA().Public())) }

// A refresh that brings no key set leaves the old keys in use.
//
// Catalogue: K182.
func TestFailedRefreshKeepsTheOldKeys(t *testing.T) {
	document := evilKeys()
	for _, tc := range []struct {
		name   string
		broken http.HandlerFunc
	}{
		{"an HTML page", answer(200, "text/html", "<html>")},
		{"invalid JSON", answer(200, "application/json", `{"keys":[`)},
		{"an array", answer(200, "application/json", `[]`)},
		{"bytes after the JSON", answer(200, "application/json", document+"x")},
		{"two documents", answer(200, "application/json", document+document)},
		{"keys null", answer(200, "application/json", `{"keys":null}`)},
		{"keys an object", answer(200, "application/json", `{"keys":{}}`)},
		{"no keys", answer(200, "application/json", `{}`)},
		{"KEYS in upper case", answer(200, "application/json", strings.Replace(document, `"keys"`, `"KEYS"`, 1))},
		{"byte order mark", answer(200, "application/json", "\ufeff"+document)},
		{"not UTF-8", answer(200, "application/json", strings.Replace(document, "evil", "ev\xffl", 1))},
		{"empty", answer(200, "application/json", "")},
		{"status 500", answer(500, "application/json", document)},
		{"status 404", answer(404, "application/json", document)},
		{"status 203", answer(203, "application/json", document)},
	} {
		t.Run(tc.name, func(t *testing.T) { tryFailedRefresh(t, tc.broken) })
	}
}

// A document that names a member twice is no key set.
//
// Catalogue: K189.
func TestAmbiguousKeySetKeepsTheOldKeys(t *testing.T) {
	document := evilKeys()
	for _, tc := range []struct {
		name   string
		broken http.HandlerFunc
	}{
		{"keys twice", answer(200, "application/json", `{"keys":[],`+document[1:])},
		{"kid twice in a key", answer(200, "application/json", strings.Replace(document, `"kid"`, `"kid":"x","kid"`, 1))},
	} {
		t.Run(tc.name, func(t *testing.T) { tryFailedRefresh(t, tc.broken) })
	}
}

// redirect sends every caller to a key set of the attacker's, and to a path at
// which the server would count a request.
func redirect(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://evil.test/elsewhere")
		answer(status, "application/json", allKeys())(w, nil)
	}
}

// A redirect of the key set leads nowhere. At the start there are no keys then;
// at a refresh the old ones stay.
//
// Catalogue: K194.
func TestRedirectOfTheKeysIsNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint("at the start ", status), func(t *testing.T) {
			as := newAS(t)
			as.jwks = redirect(status)
			if got := as.try(as.middleware(), "opaque"); got != code503A {
				t.Error(got)
			}
			as.onlyAsked(t, endpointPath, jwksPath)
		})
		t.Run(fmt.Sprint("at a refresh ", status), func(t *testing.T) { tryFailedRefresh(t, redirect(status)) })
	}
}

// With keys at hand nothing waits for a refresh that hangs: by the clock of
// the bubble each verification takes no time at all.
func TestHangingRefreshKeepsNoRequestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			if r.Form.Get("token") == "unknown" {
				answerJWT(mintHeader("EdDSA", `{"alg":"EdDSA","kid":"unknown"}`, claims(nil)))(w, r)
				return
			}
			newToken(w, r)
		}
		book := as.logBook()
		m := as.middleware(booked(book))
		if err := m.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
		as.jwks = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		time.Sleep(5*time.Minute + time.Second)
		for range 300 { // 30 s: several refreshes hang and fail
			start := time.Now()
			if got := as.tries(m, 1); got != codeOK || time.Since(start) != 0 {
				t.Fatalf("%s after %v", got, time.Since(start))
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := as.fetches.Load(); n != 4 { // at 0 s, and 10 s after each time-out of 2 s
			t.Errorf("%d fetches", n)
		}
		// What cannot be judged without the new keys waits, no longer than a
		// lookup may take, and holds up no other request.
		time.Sleep(10 * time.Second)
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := as.try(m, "unknown"); got != code503A || time.Since(start) != 2*time.Second {
				t.Errorf("unknown kid: %s after %v", got, time.Since(start))
			}
		})
		synctest.Wait()
		if got := as.tries(m, 10); got != codeOK || time.Since(start) != 0 {
			t.Errorf("beside it: %s after %v", got, time.Since(start))
		}
		wg.Wait()
	})
}

// A refresh that panics is logged, and not tried again by each request. The old
// keys stay in use.
func TestPanickingRefreshKeepsTheOldKeys(t *testing.T) {
	for _, tc := range []struct {
		name  string
		value any
	}{
		{"a string", "secret-of-the-panic"},
		{"an error", errors.New("secret-of-the-panic")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.secret("secret-of-the-panic")
				as.introspect = newToken
				book := as.logBook()
				host := &keyHost{fakeAS: as}
				m := as.middleware(booked(book), host.client())
				host.keys = func(*http.Request) (*http.Response, error) { panic(tc.value) }
				if got := as.tries(m, 1); got != code500I {
					t.Errorf("cold: %s", got)
				}
				checkLine(t, book.take(), code500I, "")
				host.keys = nil
				if got := as.tries(m, 1); got != codeOK {
					t.Errorf("cold, the next request: %s", got)
				}
				host.keys = func(*http.Request) (*http.Response, error) { panic(tc.value) }
				time.Sleep(5*time.Minute + time.Second)
				before := as.fetches.Load()
				book.take()
				for range 90 { // 9 s
					if got := as.tries(m, 1); got != codeOK {
						t.Fatal(got)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if n := as.fetches.Load() - before; n != 1 {
					t.Errorf("%d attempts", n)
				}
				said := aboveDebug(book.take())
				if len(said) != 1 || said[0].level != slog.LevelWarn || said[0].attrs["stack"] == "" ||
					said[0].attrs["panic"] != "panic in a hook" {
					t.Errorf("logged %v", said)
				}
			})
		})
	}
}

// A key set is refreshed when its max-age says so, but not more often than each
// minute and not less often than each hour. Without a max-age it is five
// minutes.
//
// Catalogue: K196.
func TestRefreshFollowsMaxAgeWithinBounds(t *testing.T) {
	for _, tc := range []struct {
		name    string
		header  http.Header
		refresh time.Duration
	}{
		{"max-age=0", http.Header{"Cache-Control": {"max-age=0"}}, time.Minute},
		{"max-age=59", http.Header{"Cache-Control": {"max-age=59"}}, time.Minute},
		{"max-age=61", http.Header{"Cache-Control": {"max-age=61"}}, 61 * time.Second},
		{"max-age=31536000", http.Header{"Cache-Control": {"public, max-age=31536000"}}, time.Hour},
		{"max-age=99999999999999999999", http.Header{"Cache-Control": {"max-age=99999999999999999999"}}, time.Hour},
		{"max-age=-1", http.Header{"Cache-Control": {"max-age=-1"}}, time.Minute},
		{"max-age=3601", http.Header{"Cache-Control": {"max-age=3601"}}, time.Hour},
		{"max-age=1800 with Age", http.Header{"Cache-Control": {"max-age=1800"}, "Age": {"600"}}, 20 * time.Minute},
		{"no header", nil, 5 * time.Minute},
		{"no-store", http.Header{"Cache-Control": {"no-store"}}, 5 * time.Minute},
		{"no-cache, max-age=0", http.Header{"Cache-Control": {"no-cache, max-age=0"}}, 5 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = newToken
				as.jwks = func(w http.ResponseWriter, r *http.Request) {
					for name, values := range tc.header {
						w.Header()[name] = values
					}
					answer(200, "application/json", allKeys())(w, r)
				}
				m := as.middleware()
				for round := range int64(3) {
					if got := as.tries(m, 1); got != codeOK || as.fetches.Load() != round+1 {
						t.Fatalf("round %d: %s, %d fetches", round, got, as.fetches.Load())
					}
					time.Sleep(tc.refresh - time.Second)
					if got := as.tries(m, 5); got != codeOK || as.fetches.Load() != round+1 {
						t.Errorf("a second before: %s, %d fetches", got, as.fetches.Load())
					}
					time.Sleep(time.Second)
					if got := as.tries(m, 1); got != codeOK { // begins the refresh, waits for nothing
						t.Error(got)
					}
					synctest.Wait()
				}
			})
		})
	}
}

// Keys that cannot be refreshed are used for an hour past their freshness. Then
// new verdicts are 503, and cached ones go on.
//
// Catalogue: K197.
func TestStaleKeysEndAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		book := as.logBook()
		m := as.middleware(booked(book), phantom.WithMaxTTL(3*time.Hour), phantom.WithRefreshAhead(0))
		if err := m.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
		as.jwks = answer(500, "", "")
		start := time.Now()
		until := func(d time.Duration) { time.Sleep(time.Until(start.Add(d))) }
		as.introspect = answerJWT(mint("EdDSA", claims(map[string]any{"exp": start.Unix() + 3*3600})))
		if got := as.try(m, "cached"); got != codeOK {
			t.Fatal(got)
		}
		as.introspect = newToken
		until(5*time.Minute + time.Second)
		for range 60 { // a minute of failing refreshes
			if got := as.tries(m, 1); got != codeOK {
				t.Fatal(got)
			}
			time.Sleep(time.Second)
		}
		warned := 0
		for _, line := range book.take() {
			if line.level == slog.LevelWarn && line.attrs["detail"] == "key set: status 500" {
				warned++
			}
		}
		if n := as.fetches.Load(); n < 6 || n > 8 || warned != int(n)-1 {
			t.Errorf("%d fetches and %d warnings in a minute", n, warned)
		}
		until(65*time.Minute - time.Second)
		if got := as.tries(m, 3); got != codeOK {
			t.Errorf("an hour past the freshness, less a second: %s", got)
		}
		synctest.Wait()
		until(65 * time.Minute)
		book.take()
		if got := as.tries(m, 1); got != code503A {
			t.Errorf("an hour past the freshness: %s", got)
		}
		checkLine(t, book.take(), code503A, "")
		if got := as.tries(m, 5); got != code503A {
			t.Errorf("then: %s", got)
		}
		if got := as.try(m, "cached"); got != codeOK {
			t.Errorf("a verdict from before: %s", got)
		}
		synctest.Wait()
		as.jwks = nil
		time.Sleep(10 * time.Second)
		if got := as.tries(m, 3); got != codeOK {
			t.Errorf("recovered: %s", got)
		}
	})
}

// A request for the key set carries no credentials, no cookie and nothing of
// the client's request.
//
// Catalogue: K201.
func TestKeyRequestsCarryNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		as.jwks = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Set-Cookie", "session=1; Path=/; Secure")
			answer(200, "application/json", allKeys())(w, r)
		}
		jar := must(cookiejar.New(nil))
		jar.SetCookies(must(url.Parse(issuer)), []*http.Cookie{{Name: "old", Value: "cookie"}})
		m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: as, Jar: jar}))
		for range 3 {
			next := &spy{}
			r := get("Bearer " + as.secret("opaque-"+rand.Text()))
			r.Header.Set("Cookie", "client=1")
			r.Header.Set("X-Request-Id", "from-the-client")
			if got := as.outcome(serve(m.Handler(next), r), next, 0); got != codeOK {
				t.Error(got)
			}
			synctest.Wait()
			time.Sleep(6 * time.Minute)
		}
		requests := as.recorded(jwksPath)
		if len(requests) != 3 {
			t.Errorf("%d fetches", len(requests))
		}
		for _, r := range requests {
			bareRequest(t, r, "application/jwk-set+json, application/json")
		}
		if n := len(jar.Cookies(must(url.Parse(issuer)))); n != 1 {
			t.Errorf("%d cookies in the caller's jar", n)
		}
	})
}

// bareRequest checks that a request for a document carries only Accept and
// Accept-Encoding.
func bareRequest(t *testing.T, r *http.Request, accept string) {
	t.Helper()
	want := http.Header{"Accept": {accept}, "Accept-Encoding": {"identity"}}
	if r.Method != http.MethodGet || r.URL.RawQuery != "" || r.URL.User != nil ||
		fmt.Sprint(r.Header) != fmt.Sprint(want) {
		t.Errorf("%s %s with %v, want %v", r.Method, r.URL, r.Header, want)
	}
	if body, err := io.ReadAll(r.Body); err != nil || len(body) != 0 {
		t.Errorf("body %q, %v", body, err)
	}
}
