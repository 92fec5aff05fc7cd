package conformance_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// onOwnTransport returns options for the server at base, with the transport that
// a Middleware makes for itself.
func (as *fakeAS) onOwnTransport(base string) []phantom.Option {
	return []phantom.Option{
		phantom.WithIssuer(issuer),
		phantom.WithAudience(audience),
		phantom.WithIntrospectionEndpoint(base + endpointPath),
		phantom.WithJWKSURL(base + jwksPath),
		phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret)),
		phantom.WithTimeout(15 * time.Second),
		phantom.WithLogger(slog.New(slog.NewTextHandler(&as.logs, nil))),
	}
}

// A key set or metadata that hang hold a connection of their own. Lookups go on
// with theirs, even if there may be only one at once.
//
// Catalogue: X11.
func TestLookupsDoNotWaitForAKeySetThatHangs(t *testing.T) {
	for _, hangs := range []string{jwksPath, oauthPath} {
		t.Run(hangs, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			hanging, release := context.WithCancel(context.Background())
			begun := make(chan struct{}, 10)
			hang := func(next http.HandlerFunc) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == hangs {
						begun <- struct{}{}
						<-hanging.Done()
					}
					next(w, r)
				}
			}
			as.introspect = newToken
			s, _, _ := as.serveHTTP(nil)
			t.Cleanup(release)
			as.jwks = hang(answer(200, "application/json", allKeys()))
			as.metadata = hang(answer(200, "application/json", metadataOf(s.URL, map[string]any{"jwks_uri": s.URL + jwksPath})))
			options := as.onOwnTransport(s.URL)
			want := int64(0) // tokens that are refused
			if hangs == oauthPath {
				options = append(options[:3:3], options[4:]...) // WithJWKSURL
				options[0] = phantom.WithIssuer(s.URL)
				want = 3 // the JWTs name the issuer of the fixture
			}
			m := must(phantom.New(append(options, phantom.WithMaxInFlight(1))...))
			var users sync.WaitGroup
			var refused atomic.Int64
			for _, token := range []string{"first", "second", "third"} {
				users.Go(func() {
					if statusOf(m, token) == 401 {
						refused.Add(1)
					}
				})
			}
			<-begun
			eventually(t, "all looked up while the keys hang", func() bool { return as.calls.Load() == 3 })
			release()
			users.Wait()
			if got := refused.Load(); got != want {
				t.Errorf("%d refused, want %d", got, want)
			}
		})
	}
}

// Nor do the keys wait for a lookup that hangs.
//
// Catalogue: X11.
func TestKeysDoNotWaitForALookupThatHangs(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	hanging, release := context.WithCancel(context.Background())
	begun := make(chan struct{}, 10)
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-hanging.Done()
		newToken(w, r)
	}
	s, _, _ := as.serveHTTP(nil)
	t.Cleanup(release)
	m := must(phantom.New(append(as.onOwnTransport(s.URL), phantom.WithMaxInFlight(1))...))
	status := later(func() int { return statusOf(m, "opaque-token") })
	<-begun
	for range 100 { // until the keys are there
		if as.fetches.Load() > 0 {
			break
		}
		soon, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		_ = m.Warm(soon) // it waits for a place, too
		cancel()
	}
	if as.fetches.Load() == 0 {
		t.Error("the keys waited for a lookup")
	}
	release()
	if got := status(); got != 200 {
		t.Error(got)
	}
}

// A transport of the caller's serves other servers too. Lookups that fail, in
// whatever way, close none of its connections to them.
//
// Catalogue: X10.
func TestFailuresCloseNoConnectionToOtherServers(t *testing.T) {
	fails := func(script func(*peer)) func(*testing.T) string {
		return func(t *testing.T) string { return listenTCP(t, script).url() }
	}
	for _, tc := range []struct {
		name string
		base func(*testing.T) string
	}{
		{"closed port", func(t *testing.T) string { return "http://" + unusedPort(t) }},
		{"silent", fails(func(p *peer) { p.wait() })},
		{"closes", fails(func(p *peer) { p.request() })},
		{"resets", fails(func(p *peer) { p.request(); p.reset() })},
		{"no HTTP", fails(func(p *peer) { p.request(); p.send("hello\r\n") })},
		{"breaks off", fails(func(p *peer) {
			p.request()
			p.send("HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\nContent-Length: 100\r\n\r\nx")
		})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			other, opened, _ := as.serveHTTP(nil) // its path is none of ours
			transport := &http.Transport{}
			t.Cleanup(transport.CloseIdleConnections)
			visit := func() {
				resp, err := (&http.Client{Transport: transport}).Get(other.URL + "/elsewhere")
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
			visit()
			base := tc.base(t)
			options := append(as.onOwnTransport(base), phantom.WithTimeout(150*time.Millisecond),
				phantom.WithHTTPClient(&http.Client{Transport: transport}))
			for range 2 {
				m := must(phantom.New(options...))
				if err := m.Warm(context.Background()); err == nil {
					t.Error("Warm saw no error")
				}
				m = must(phantom.New(options...))
				if got := statusOf(m, "opaque-token"); got != 503 {
					t.Error(got)
				}
			}
			visit()
			if n := opened.Load(); n != 1 {
				t.Errorf("%d connections to the other server", n)
			}
		})
	}
}

// After a failure, the next request is the last one on its connection, so that
// one of HTTP/2 that is of no use any more does not serve for ever. The request
// after the first answer keeps its connection again.
//
// Catalogue: X10.
func TestConnectionOfACallersTransportIsNotTrustedAfterAFailure(t *testing.T) {
	as := newAS(t)
	var closing []bool
	down := false
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		closing = append(closing, r.Close)
		if down {
			return nil, context.DeadlineExceeded
		}
		rec := httptest.NewRecorder()
		as.ServeHTTP(rec, r)
		return rec.Result(), nil
	})
	m := as.networked("https://as.test", phantom.WithHTTPClient(&http.Client{Transport: transport}))
	token := freshTokens()
	for _, step := range []struct {
		down   bool
		closes bool
		want   int
	}{{false, false, 200}, {true, false, 503}, {true, true, 503}, {false, true, 200}, {false, false, 200}} {
		down, closing = step.down, nil
		if got := statusOf(m, token()); got != step.want || len(closing) != 1 || closing[0] != step.closes {
			t.Errorf("%+v: %d, %v", step, got, closing)
		}
	}
}
