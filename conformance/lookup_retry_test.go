package conformance_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// failFirst fails the first n introspection requests.
func failFirst(as *fakeAS, n int64, fail func(*http.Request) error) (http.RoundTripper, *atomic.Int64) {
	var attempts atomic.Int64
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == endpointPath && attempts.Add(1) <= n {
			_ = r.ParseForm()
			as.mu.Lock()
			as.requests = append(as.requests, r)
			as.mu.Unlock()
			if err := fail(r); err != nil {
				return nil, err
			}
		}
		return as.RoundTrip(r)
	}), &attempts
}

// A lookup is tried once more if the connection failed before any byte of an
// answer, with a new assertion. No other failure is tried again.
//
// Catalogue: A104.
func TestLookupIsRetriedOnce(t *testing.T) {
	broken := func(err error) func(*http.Request) error { return func(*http.Request) error { return err } }
	for _, tc := range []struct {
		name     string
		failures int64
		fail     func(*http.Request) error
		want     string
		attempts int64
	}{
		{"EOF once", 1, broken(io.EOF), codeOK, 2},
		{"EOF twice", 2, broken(io.EOF), code503A, 2},
		{"EOF for ever", 1000, broken(io.EOF), code503A, 2},
		{"unexpected EOF", 1, broken(io.ErrUnexpectedEOF), codeOK, 2},
		{"reset", 1, broken(&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}), codeOK, 2},
		{"broken pipe", 1, broken(syscall.EPIPE), codeOK, 2},
		{"a wrapped EOF", 1, broken(&url.Error{Op: "Post", URL: "https://as.test/?token=SECRET", Err: io.EOF}), codeOK, 2},
		{"timeout", 1, broken(os.ErrDeadlineExceeded), code503A, 1},
		{"the lookup's own deadline", 1, broken(context.DeadlineExceeded), code503A, 1},
		{"untrusted certificate", 1, broken(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), code503A, 1},
		{"after the first byte of an answer", 1, func(r *http.Request) error {
			httptrace.ContextClientTrace(r.Context()).GotFirstResponseByte()
			return io.ErrUnexpectedEOF
		}, code503A, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			transport, attempts := failFirst(as, tc.failures, tc.fail)
			m := as.middleware(
				phantom.WithHTTPClient(&http.Client{Transport: transport}),
				phantom.WithClientAuth(phantom.PrivateKeyJWT("app", "k", "ES256", p256Key())),
			)
			if got := as.try(m, "tok"); got != tc.want {
				t.Errorf("outcome %s, want %s", got, tc.want)
			}
			if got := attempts.Load(); got != tc.attempts {
				t.Errorf("%d attempts, want %d", got, tc.attempts)
			}
			ids := map[any]bool{}
			for _, r := range as.recorded(endpointPath) {
				ids[claimsOf(t, r.PostForm.Get("client_assertion"), "ES256", "k", p256Key().Public())["jti"]] = true
				if r.PostForm.Get("token") != "tok" {
					t.Errorf("form %v", r.PostForm)
				}
			}
			if len(ids) != int(tc.attempts) {
				t.Errorf("%d different assertions in %d attempts", len(ids), tc.attempts)
			}
		})
	}
}

// Without credentials for the second attempt there is none.
//
// Catalogue: A104.
func TestRetryNeedsCredentials(t *testing.T) {
	as := newAS(t)
	transport, attempts := failFirst(as, 1, func(*http.Request) error { return io.EOF })
	first := true
	m := as.middleware(
		phantom.WithHTTPClient(&http.Client{Transport: transport}),
		phantom.WithClientAuth(authFunc(func(*http.Request, url.Values) error {
			defer func() { first = false }()
			if !first {
				return errors.New("used up")
			}
			return nil
		})),
	)
	if got := as.try(m, "tok"); got != code503A || attempts.Load() != 1 {
		t.Errorf("%s, %d attempts", got, attempts.Load())
	}
}

// After the deadline there is no second attempt.
//
// Catalogue: A104.
func TestRetryEndsWithTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		transport, attempts := failFirst(as, 1, func(*http.Request) error {
			time.Sleep(3 * time.Second)
			return io.EOF
		})
		m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: transport}))
		if got := as.try(m, "tok"); got != code503A {
			t.Error(got)
		}
		time.Sleep(5 * time.Second)
		if got := attempts.Load(); got != 1 {
			t.Errorf("%d attempts", got)
		}
	})
}

// The server closes an idle connection just when the next request is on its
// way. net/http does not repeat a POST by itself, and must not, because the
// assertion in it may be good for one use only. We do, with a new one.
//
// Catalogue: A104, N268.
func TestRetryOnAConnectionThatJustClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		jwt := mint("ES256", claims(nil))
		assertions := make(chan string, 10)
		listener := &pipeListener{conns: make(chan net.Conn)}
		var requests atomic.Int64
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			assertions <- r.PostForm.Get("client_assertion")
			if requests.Add(1) == 2 {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					conn.Close()
				}
				return
			}
			answerJWT(jwt)(w, r)
		})}
		go server.Serve(listener)
		transport := &http.Transport{DialTLSContext: listener.dial}
		opts := as.options(
			phantom.WithHTTPClient(&http.Client{Transport: transport}), staticES256(),
			phantom.WithClientAuth(phantom.PrivateKeyJWT("app", "k", "ES256", p256Key())),
		)
		m := must(phantom.New(slices.Delete(opts, 3, 4)...)) // WithJWKSURL
		for _, token := range []string{"one", "two", "three"} {
			if got := as.try(m, token); got != codeOK {
				t.Errorf("%s: %s", token, got)
			}
		}
		if n := requests.Load(); n != 4 {
			t.Errorf("%d requests", n)
		}
		close(assertions)
		seen := map[string]bool{}
		for assertion := range assertions {
			seen[assertion] = true
		}
		if len(seen) != 4 {
			t.Errorf("%d different assertions in 4 requests", len(seen))
		}
		transport.CloseIdleConnections()
		server.Close()
	})
}

// A pipeListener connects an http.Server and an http.Transport in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed atomic.Bool
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- ours:
		return theirs, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	conn, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l *pipeListener) Close() error {
	if l.closed.CompareAndSwap(false, true) {
		close(l.conns)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// The caller's client is neither changed nor bound to: its timeout is not ours,
// and later changes do not reach us.
func TestHTTPClientIsCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(1500*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		redirects := 0
		client := &http.Client{
			Transport:     as,
			Timeout:       time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { redirects++; return nil },
		}
		m := as.middleware(phantom.WithHTTPClient(client))
		if client.Transport != as || client.Timeout != time.Second || client.Jar != nil ||
			client.CheckRedirect(nil, nil) != nil || redirects != 1 {
			t.Errorf("changed to %+v", client)
		}
		// Its overall timeout is not ours.
		if got := as.try(m, "one"); got != codeOK {
			t.Errorf("slower than the client's timeout: %s", got)
		}
		// Ours is.
		as.introspect = wait(2500*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		if got := as.try(m, "two"); got != code503A {
			t.Errorf("slower than the lookup's: %s", got)
		}
		synctest.Wait()
		as.introspect = nil
		client.Transport = roundTripper(func(*http.Request) (*http.Response, error) { panic("not this one") })
		if got := as.try(m, "three"); got != codeOK {
			t.Errorf("after a change of the caller's: %s", got)
		}
	})
}

// A response that an http.Client would tolerate of a RoundTripper gets a
// verdict, and makes nothing panic.
func TestOddResponsesDoNotPanic(t *testing.T) {
	for _, tc := range []struct {
		name     string
		response *http.Response
		want     string
	}{
		{"no body", &http.Response{StatusCode: 204}, code401T},
		{"no body, no header", &http.Response{StatusCode: 200}, code502A},
		{"status 0", &http.Response{}, code502A},
		{"status 100", &http.Response{StatusCode: 100, Body: http.NoBody}, code502A},
		{"status 999", &http.Response{StatusCode: 999, Body: http.NoBody}, code503A},
	} {
		as := newAS(t)
		m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: roundTripper(
			func(*http.Request) (*http.Response, error) { return tc.response, nil },
		)}))
		if got := as.try(m, "tok"); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
