package conformance_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A notMetadata is an answer of a well-known URL that is of no use.
type notMetadata struct {
	name   string
	answer http.HandlerFunc
	want   string // if no other URL has better
	detail string
}

func brokenOff(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }

// notMetadatas are in the order in which one says more than those before it.
// They are grouped where none says more.
func notMetadatas(iss string) [][]notMetadata {
	json := func(body string) http.HandlerFunc { return answer(200, "application/json", body) }
	of := func(changes map[string]any) http.HandlerFunc { return json(metadataOf(iss, changes)) }
	return [][]notMetadata{
		{
			{"404", http.NotFound, code502A, metadata404},
		},
		{
			{"302", redirect(302), code502A, "metadata: status 302"},
			{"204", answer(204, "", ""), code502A, "metadata: status 204"},
			{"403", answer(403, "", ""), code502A, "metadata: status 403"},
		},
		{
			{"HTML", answer(200, "text/html", "<html>"), code502A, "metadata: not strict JSON"},
			{"empty", json(""), code502A, "metadata: not strict JSON"},
			{"other JSON", json(`{"status":"ok"}`), code502A, "metadata: no issuer"},
			{"an array", json("[]"), code502A, "metadata: not strict JSON"},
			{"too large", json(strings.Repeat(" ", 256<<10+1)), code502A, "answer larger than 262144 bytes"},
			{"compressed", zipped(200), code502A, "Content-Encoding"},
		},
		{
			{"a wrong URL", of(map[string]any{"jwks_uri": "http://evil.test/"}), code502A, "metadata: jwks_uri is not an absolute https URL"},
		},
		{
			{"another issuer", json(metadataOf("https://evil.test", nil)), code502A, "metadata: issuer differs from the configured one"},
		},
		{
			{"no key set", of(map[string]any{"jwks_uri": nil}), code502A, "metadata: no jwks_uri: see WithJWKSURL"},
			{"no endpoint", of(map[string]any{"introspection_endpoint": nil}), code502A, "metadata: no introspection_endpoint: see WithIntrospectionEndpoint"},
		},
		{
			{"429", answer(429, "", ""), code503A, "metadata: status 429"},
			{"500", answer(500, "text/html", "<html>"), code503A, "metadata: status 500"},
			{"503, compressed", zipped(503), code503A, "metadata: status 503"},
			{"no connection", brokenOff, code503A, "connection"},
		},
	}
}

// zipped answers with a compressed body.
func zipped(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(status)
		z := gzip.NewWriter(w)
		_, _ = z.Write([]byte(metadataOf(issuer, nil)))
		_ = z.Close()
	}
}

// A brokenTransport turns http.ErrAbortHandler into a connection that fails.
type brokenTransport struct{ *fakeAS }

func (b brokenTransport) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if recover() != nil {
			resp, err = nil, errors.New("connection reset")
		}
	}()
	return b.fakeAS.RoundTrip(r)
}

// wellKnownOf returns the well-known URLs of a realm.
func wellKnownOf(realm string) []string {
	return []string{issuer + oauthPath + realm, issuer + openidPath + realm, issuer + realm + openidPath}
}

// Metadata are found at each of the well-known URLs, whatever there is at the
// other ones: another application may be responsible for those.
//
// Catalogue: Y4.
func TestMetadataAreFoundBehindAnythingElse(t *testing.T) {
	const realm = "/realms/a"
	const iss = issuer + realm
	for _, group := range notMetadatas(iss) {
		for _, other := range group {
			for at, found := range wellKnownOf(realm) {
				t.Run(fmt.Sprintf("%s, at %d", other.name, at), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						as := newAS(t)
						as.introspect = answerJWT(mint("EdDSA", claims(map[string]any{"iss": iss})))
						asked := 0
						as.metadata = func(w http.ResponseWriter, r *http.Request) {
							if r.URL.String() != found {
								other.answer(w, r)
								return
							}
							asked++
							answer(200, "application/json", metadataOf(iss, nil))(w, r)
						}
						client := phantom.WithHTTPClient(&http.Client{Transport: brokenTransport{as}})
						m := must(phantom.New(as.discovering(iss, client)...))
						if err := m.Warm(t.Context()); err != nil {
							t.Error(err)
						}
						if got := as.tries(m, 3); got != codeOK || asked != 1 {
							t.Errorf("%s, asked %d times", got, asked)
						}
						time.Sleep(5*time.Minute + time.Second)
						if got := as.tries(m, 1); got != codeOK {
							t.Errorf("during the refresh: %s", got)
						}
						synctest.Wait()
						if got := as.tries(m, 1); got != codeOK || asked != 2 {
							t.Errorf("after the refresh: %s, asked %d times", got, asked)
						}
					})
				})
			}
		}
	}
}

// If no well-known URL has the metadata, the failure that says most is told,
// wherever it was. An outage comes first: behind it the metadata may be.
//
// Catalogue: Y4.
func TestDiscoveryTellsTheFailureThatSaysMost(t *testing.T) {
	groups := notMetadatas(issuer)
	for i, group := range groups {
		for _, most := range group {
			for _, lesser := range groups[:i+1] {
				for _, oauth := range []bool{true, false} {
					less := lesser[0]
					if less.name == most.name {
						continue
					}
					t.Run(fmt.Sprintf("%s over %s, first %t", most.name, less.name, oauth), func(t *testing.T) {
						as := newAS(t)
						as.metadata = func(w http.ResponseWriter, r *http.Request) {
							if (r.URL.Path == oauthPath) == oauth {
								most.answer(w, r)
								return
							}
							less.answer(w, r)
						}
						want, detail := most.want, most.detail
						if !oauth && lesser[0].detail == group[0].detail { // as much as the first
							detail = less.detail
						}
						book := as.logBook()
						m := as.discoverer(booked(book), phantom.WithHTTPClient(&http.Client{Transport: brokenTransport{as}}))
						if got := as.try(m, "opaque"); got != want {
							t.Errorf("%s, want %s", got, want)
						}
						if lines := book.take(); len(lines) != 1 || lines[0].attrs["detail"] != detail {
							t.Errorf("logged %v, want %q", lines, detail)
						}
						if as.calls.Load() != 0 || as.fetches.Load() != 0 {
							t.Errorf("%d introspections, %d key set fetches", as.calls.Load(), as.fetches.Load())
						}
					})
				}
			}
		}
	}
}

// A well-known URL that never answers takes all the time of a fetch. Later
// fetches begin with the others.
//
// Catalogue: Y4.
func TestMetadataAreFoundBehindAURLThatHangs(t *testing.T) {
	const realm = "/realms/a"
	const iss = issuer + realm
	for hangs := range 3 {
		for found := range 3 {
			if hangs == found {
				continue
			}
			t.Run(fmt.Sprintf("%d hangs, found at %d", hangs, found), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					as := newAS(t)
					as.introspect = answerJWT(mint("EdDSA", claims(map[string]any{"iss": iss, "exp": time.Now().Unix() + 3600})))
					urls := wellKnownOf(realm)
					as.metadata = func(w http.ResponseWriter, r *http.Request) {
						switch r.URL.String() {
						case urls[hangs]:
							<-r.Context().Done()
						case urls[found]:
							answer(200, "application/json", metadataOf(iss, nil))(w, r)
						default:
							http.NotFound(w, r)
						}
					}
					m := must(phantom.New(as.discovering(iss)...))
					want := codeOK
					if hangs < found {
						want = code503A
					}
					got := as.tries(m, 1)
					if got != want {
						t.Errorf("at first: %s, want %s", got, want)
					}
					for range 2 { // it hangs once more if it began in the middle of the time
						time.Sleep(time.Second)
						got = as.tries(m, 1)
					}
					if got != codeOK {
						t.Errorf("then: %s", got)
					}
					time.Sleep(5*time.Minute + time.Second)
					start := time.Now()
					if got := as.tries(m, 3); got != codeOK || time.Since(start) != 0 {
						t.Errorf("at a refresh: %s after %v", got, time.Since(start))
					}
					synctest.Wait()
					if n := as.logged("WARN", "cannot renew"); n != 0 {
						t.Errorf("not renewed:\n%s", as.logs.String())
					}
				})
			})
		}
	}
}
