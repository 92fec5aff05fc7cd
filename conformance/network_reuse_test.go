package conformance_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// The server may have closed the reused connection meanwhile, and all the
// others in the pool with it. The lookup is tried once more, on a new
// connection.
//
// Catalogue: N268.
func TestClosedIdleConnectionIsRetriedOnce(t *testing.T) {
	for _, idle := range []int{1, 8} {
		for _, tc := range []struct {
			name string
			end  func(*peer)
		}{
			{"closed", func(*peer) {}},
			{"reset", (*peer).reset},
		} {
			t.Run(fmt.Sprintf("%d idle, %s", idle, tc.name), func(t *testing.T) {
				leaveNothing(t)
				as := newAS(t)
				good := as.secret(mint("ES256", claims(nil)))
				var arrived sync.WaitGroup
				arrived.Add(idle)
				var stale atomic.Bool
				s := listenTCP(t, func(p *peer) {
					for {
						_, ok := p.request()
						switch {
						case !ok:
							return
						case stale.Load() && p.nth <= int64(idle):
							tc.end(p)
							return
						case p.nth <= int64(idle):
							arrived.Done()
							arrived.Wait() // so that each lookup has a connection of its own
						}
						p.send(rawAnswer(200, "application/jwt", good))
					}
				})
				m := as.networked(s.url())
				var lookups sync.WaitGroup
				for i := range idle {
					lookups.Go(func() {
						if got := statusOf(m, "warm-"+strconv.Itoa(i)); got != 200 {
							t.Error(got)
						}
					})
				}
				lookups.Wait()
				stale.Store(true)
				before := s.lookups.Load()
				if got := as.try(m, "opaque-token"); got != codeOK {
					t.Error(got)
				}
				if n := s.lookups.Load() - before; n != 2 {
					t.Errorf("%d attempts", n)
				}
			})
		}
	}
}

// The server closes its idle connections in the open and comes back at the
// same address. No lookup tries one of the old connections.
//
// Catalogue: N268.
func TestServerRestartCostsNoLookup(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := as.secret(mint("ES256", claims(nil)))
	script := func(p *peer) { p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) }) }
	s := listenTCP(t, script)
	m := as.networked(s.url())
	for i := range 5 {
		if got := as.try(m, "opaque-token-"+strconv.Itoa(i)); got != codeOK {
			t.Fatal(got)
		}
		address := s.Addr().String()
		s.stop()
		s = listenAt(t, address, nil, script)
	}
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Error(got)
	}
}

// A client assertion is good for one attempt: the retry signs its own.
//
// Catalogue: N268.
func TestRetryBringsAFreshAssertion(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := as.secret(mint("ES256", claims(nil)))
	var mu sync.Mutex
	seen := map[string]bool{}
	var fail atomic.Bool
	s := listenTCP(t, func(p *peer) {
		for {
			if _, ok := p.request(); !ok {
				return
			}
			mu.Lock()
			seen[as.secret(p.form.Get("client_assertion"))] = true
			mu.Unlock()
			if fail.Swap(false) {
				return
			}
			p.send(rawAnswer(200, "application/jwt", good))
		}
	})
	m := as.networked(s.url(), phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k-1", "ES256", p256Key())))
	for i := range 3 {
		fail.Store(i > 0)
		if got := as.try(m, "opaque-token-"+strconv.Itoa(i)); got != codeOK {
			t.Error(got)
		}
	}
	if len(seen) != 5 || s.lookups.Load() != 5 {
		t.Errorf("%d assertions in %d attempts", len(seen), s.lookups.Load())
	}
}

// The fetch of a document is tried again in the same way as a lookup.
//
// Catalogue: N268.
func TestKeySetFetchIsRetried(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := as.secret(mint("ES256", claims(nil)))
	var drops atomic.Int64
	s := listenTCP(t, func(p *peer) {
		for {
			if _, ok := p.request(); !ok {
				return
			}
			switch {
			case p.req.URL.Path == endpointPath:
				p.send(rawAnswer(200, "application/jwt", good))
			case p.req.Header.Get("Authorization") != "" || len(p.form) > 0:
				t.Error("credentials in the request for the keys")
			case drops.Add(1) == 1:
				return
			default:
				p.send(rawAnswer(200, "application/jwk-set+json", allKeys()))
			}
		}
	})
	m, err := phantom.New(
		phantom.WithIssuer(issuer), phantom.WithAudience(audience),
		phantom.WithIntrospectionEndpoint(s.url()+endpointPath), phantom.WithJWKSURL(s.url()+jwksPath),
		phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret)),
	)
	if err != nil {
		t.Fatal(err)
	}
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Error(got)
	}
}

// A server that closes the connection after each answer gets a new one each
// time. Neither connections nor goroutines pile up.
//
// Catalogue: N276.
func TestConnectionClosedAfterEachAnswerLeaksNothing(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		answerJWT(good)(w, r)
	}
	s, opened, open := as.serveHTTP(nil)
	m := as.networked(s.URL)
	idle := runtime.NumGoroutine()
	for i := range 200 {
		if got := statusOf(m, "opaque-token-"+strconv.Itoa(i)); got != 200 {
			t.Fatal(got)
		}
	}
	if n := opened.Load(); n != 200 {
		t.Errorf("%d connections", n)
	}
	eventually(t, "all connections closed", func() bool { return open.Load() == 0 })
	eventually(t, "no goroutine left of them", func() bool { return runtime.NumGoroutine() <= idle })
}

// A body that is not read to its end costs its connection. The client
// therefore reads them all, those of errors too.
//
// Catalogue: N277.
func TestSequentialLookupsShareConnections(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	page := strings.Repeat("<p>", 5000)
	answers := []struct {
		http.HandlerFunc
		status int
	}{
		{answerJWT(good), 200},
		{answer(204, "", ""), 401},
		{answerJSON(`{"active":false}`), 401},
		{answer(400, "application/json", `{"error":"invalid_request"}`), 502},
		{answer(401, "application/json", `{"error":"invalid_client"}`), 502},
		{answer(403, "text/html", page), 502},
		{answer(404, "text/plain", "not here"), 502},
		{answer(302, "text/html", page), 502},
		{answer(500, "text/html", page), 503},
		{answer(200, "text/html", page), 502},
		{answerJSON(`{"active":true}`), 502},
		{answer(503, "text/plain", "busy"), 503},
		{answer(415, "", ""), 502},
	}
	tooLarge := answer(200, "application/jwt", strings.Repeat("x", 70<<10))
	const lookups, eachLarge = 10_000, 500
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		i, err := strconv.Atoi(strings.TrimPrefix(r.PostForm.Get("token"), "opaque-token-"))
		switch {
		case err != nil:
			t.Error(err)
		case i%eachLarge == 0:
			tooLarge(w, r)
		default:
			answers[i%len(answers)].HandlerFunc(w, r)
		}
	}
	s, opened, _ := as.serveHTTP(nil)
	m := as.networked(s.URL)
	for i := range lookups {
		want := answers[i%len(answers)].status
		if i%eachLarge == 0 {
			want = 502
		}
		if got := statusOf(m, "opaque-token-"+strconv.Itoa(i)); got != want {
			t.Fatalf("lookup %d: %d, not %d", i, got, want)
		}
	}
	if n := as.calls.Load(); n != lookups {
		t.Errorf("%d attempts", n)
	}
	if n := opened.Load(); n > 64 {
		t.Errorf("%d connections", n)
	}
}

// Lookups at once open no more connections than the cap, and all of them are
// answered.
//
// Catalogue: N278.
func TestConcurrentLookupsStayWithinTheCap(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	as.introspect = wait(100*time.Millisecond, answerJWT(good))
	s, opened, _ := as.serveHTTP(nil)
	m := as.networked(s.URL, phantom.WithTimeout(30*time.Second))
	begin := time.Now()
	served := func(i int) bool { return statusOf(m, "opaque-token-"+strconv.Itoa(i)) == 200 }
	if failed := together(500, served); failed != 0 {
		t.Errorf("%d failed", failed)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	if n := opened.Load(); n > 64 {
		t.Errorf("%d connections", n)
	}
	if n := as.peak.Load(); n > 64 {
		t.Errorf("%d at once", n)
	}
}

// Lookups that the server never answers give their places and their
// connections back.
func TestAbandonedConnectionsFreeTheirPlaces(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	var healthy atomic.Bool
	s := listenTCP(t, func(p *peer) {
		if !healthy.Load() {
			p.wait()
			return
		}
		p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) })
	})
	m := as.networked(s.url(), phantom.WithTimeout(200*time.Millisecond), phantom.WithMaxInFlight(4))
	for range 3 { // the breaker opens in between
		if ok := together(40, func(i int) bool { return statusOf(m, "opaque-token-"+strconv.Itoa(i)) != 503 }); ok != 40 {
			t.Errorf("%d of 40 unavailable", ok)
		}
	}
	eventually(t, "all connections closed", func() bool { return s.open.Load() == 0 })
	if n := s.opened.Load(); n > 40 {
		t.Errorf("%d connections", n)
	}
	healthy.Store(true)
	eventually(t, "served again", func() bool { return statusOf(m, "opaque-token") == 200 })
	eventually(t, "all served at once", func() bool {
		return together(40, func(i int) bool { return statusOf(m, "opaque-token-"+strconv.Itoa(i)) == 200 }) == 0
	})
}

// A server may answer 408 on an idle connection that it is about to close, just
// as a lookup is sent on it. The lookup is sent once more, on a new connection. A
// 408 on a new one is an outage.
//
// Catalogue: Y5.
func TestRequestTimeoutOnAReusedConnectionIsRetried(t *testing.T) {
	for _, tc := range []struct {
		name          string
		answers       int // of a connection before it says 408
		second, third string
	}{
		{"reused", 1, codeOK, codeOK},
		{"new", 0, code503A, code503A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			good := mint("ES256", claims(nil))
			type uses struct{}
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != endpointPath {
					as.ServeHTTP(w, r)
					return
				}
				if n := r.Context().Value(uses{}).(*atomic.Int64).Add(1); n > int64(tc.answers) {
					w.Header().Set("Connection", "close")
					w.WriteHeader(http.StatusRequestTimeout)
					return
				}
				answerJWT(good)(w, r)
			}))
			s.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
				return context.WithValue(ctx, uses{}, new(atomic.Int64))
			}
			s.Start()
			t.Cleanup(s.Close)
			m := as.networked(s.URL)
			if tc.answers > 0 {
				if got := as.try(m, "first"); got != codeOK {
					t.Fatal(got)
				}
			}
			for i, want := range []string{tc.second, tc.third} {
				if got := as.try(m, fmt.Sprint("then-", i)); got != want {
					t.Errorf("%s, want %s", got, want)
				}
			}
		})
	}
}
