// Package upstream sends requests to the authorization server. It decides over
// which connections, how often to try, and what to call what goes wrong.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"
	"time"
)

// A Client sends all requests to one authorization server. It follows no
// redirect, which would send the token elsewhere, and keeps no cookies. Time
// limits come with each request's context.
type Client struct {
	lookups   *pool
	documents *pool // fetches that hang keep no lookup waiting for a connection
}

// New returns a Client that uses the given transport. If that is nil, the
// Client has connections of its own, and at most the given number of them to a
// host for lookups.
func New(transport http.RoundTripper, connections int) *Client {
	if transport != nil {
		shared := &pool{transport: transport}
		return &Client{lookups: shared, documents: shared}
	}
	return &Client{lookups: ownPool(connections), documents: ownPool(0)}
}

// Send sends the request that prepare makes. If the connection fails before the
// first byte of an answer, Send prepares and sends another request, once: the
// server may have closed the connection while it was idle. Send does not retry
// after a timeout or an untrusted certificate. Of the requests that got an HTTP
// answer it repeats only one kind, in the same way: a 408 on a connection that
// had been idle. The error is prepare's or a [*failure.Error].
func (c *Client) Send(
	ctx context.Context, prepare func(context.Context) (*http.Request, error),
) (*http.Response, error) {
	return c.lookups.send(ctx, prepare)
}

// A pool is a transport with its connections.
type pool struct {
	transport http.RoundTripper
	closeIdle func()       // closes the connections that are not in use; nil: the transport is the caller's
	answers   atomic.Int64 // so far
	failing   atomic.Bool  // a request failed, and none was answered since it began
}

func ownPool(connections int) *pool {
	transport := &renewed{make: func() *http.Transport { return NewTransport(connections) }}
	return &pool{transport: transport, closeIdle: transport.CloseIdleConnections}
}

// NewTransport returns a transport with at most the given number of connections
// to a host; 0: any number. It speaks HTTP/1.1 only. There a connection carries
// one lookup at a time, so the bound on connections holds, and a connection
// gone bad costs one lookup. With HTTP/2 it costs all of them, again and again,
// even while the connection still answers pings. With so few places HTTP/2
// gains nothing.
func NewTransport(connections int) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  nil, // never from the environment
		Protocols:              &protocols,
		DialContext:            (&net.Dialer{Timeout: time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    2 * time.Second,
		MaxIdleConnsPerHost:    connections,
		MaxConnsPerHost:        connections,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
}

// maxConnectionAge is how long connections are taken into use again. The server
// may have moved to another address, and the old one may answer for long.
const maxConnectionAge = 2 * time.Minute

// A renewed is a transport that makes itself a new one at intervals, so that no
// connection is in use for ever. It needs no goroutine: a request that comes
// when the time is over renews it.
type renewed struct {
	make func() *http.Transport

	mu      sync.Mutex
	current *http.Transport
	made    time.Time
}

// RoundTrip implements [http.RoundTripper].
func (r *renewed) RoundTrip(req *http.Request) (*http.Response, error) {
	return r.transport().RoundTrip(req)
}

// CloseIdleConnections closes the connections that are not in use.
func (r *renewed) CloseIdleConnections() { r.transport().CloseIdleConnections() }

// transport returns the current transport. A request that is under way keeps
// its connection of an old one, which then closes.
func (r *renewed) transport() *http.Transport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.current == nil || now.Sub(r.made) >= maxConnectionAge {
		if r.current != nil {
			r.current.CloseIdleConnections()
		}
		r.current, r.made = r.make(), now
	}
	return r.current
}

// maxInterim is how many interim answers (RFC 9110 section 15.2) may come
// before an answer. We ask for none.
const maxInterim = 5

var errInterim = errors.New("too many interim answers")

// send is what [Client.Send] says.
func (p *pool) send(
	ctx context.Context, prepare func(context.Context) (*http.Request, error),
) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		before := p.answers.Load()
		watched, seen := watch(ctx)
		req, err := prepare(watched)
		if err != nil {
			return nil, err
		}
		req.GetBody = nil // or the transport may send it again by itself, any number of times
		// A caller's transport may speak HTTP/2 over a connection that is of no
		// use any more. Close makes this request the last one on it.
		req.Close = p.closeIdle == nil && p.failing.Load()
		resp, err := p.transport.RoundTrip(req)
		if err == nil {
			p.answers.Add(1)
			p.failing.Store(false)
			resp = withBody(resp)
			if attempt == 1 && resp.StatusCode == http.StatusRequestTimeout && seen.reused.Load() {
				// The server gave up the idle connection at the same moment.
				_ = resp.Body.Close()
				p.suspect()
				continue
			}
			return resp, nil
		}
		if timedOut := isTimeout(err) || ctx.Err() != nil; !timedOut || p.answers.Load() == before {
			p.suspect()
		}
		if attempt == 2 || seen.answered.Load() || ctx.Err() != nil || isTimeout(err) || isUntrusted(err) {
			return nil, unanswered(connectionFault(err), err)
		}
		if p.closeIdle == nil && seen.reused.Load() {
			// A connection of a caller's transport may be ending, and would take
			// the retry as well.
			pause(ctx, endOfConnection)
		}
	}
}

// endOfConnection is how long a transport may take to see that a connection has
// ended.
const endOfConnection = 20 * time.Millisecond

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// suspect gives up the idle connections, which may lead to the same dead
// server. Those of a caller's transport may lead to other servers.
func (p *pool) suspect() {
	p.failing.Store(true)
	if p.closeIdle != nil {
		p.closeIdle()
	}
}

// seen is what was seen of an attempt: whether a byte of an answer has come,
// whether its connection had been used before, and how many interim answers
// came.
type seen struct {
	answered, reused atomic.Bool
	interim          atomic.Int32
}

// watch returns a context for one attempt, which fails after too many interim
// answers, and what is seen of the attempt.
func watch(ctx context.Context) (context.Context, *seen) {
	s := &seen{}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(info httptrace.GotConnInfo) { s.reused.Store(info.Reused) },
		GotFirstResponseByte: func() { s.answered.Store(true) },
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			if s.interim.Add(1) > maxInterim {
				return errInterim
			}
			return nil
		},
	}), s
}

// withBody gives an empty body to an answer that has none, as an http.Client
// does. The body of status 101 is the connection itself, which no context ends,
// so withBody closes it.
func withBody(resp *http.Response) *http.Response {
	switch {
	case resp.Body == nil:
		resp.Body = http.NoBody
	case resp.StatusCode == http.StatusSwitchingProtocols:
		_ = resp.Body.Close()
		resp.Body = http.NoBody
	}
	return resp
}

// MayHaveCertificate reports whether a caller's transport can authenticate by
// mutual TLS. It sees into one of net/http alone.
func MayHaveCertificate(transport http.RoundTripper) bool {
	t, ok := transport.(*http.Transport)
	//lint:ignore SA1019 one that still has DialTLS may use a certificate
	if !ok || t == nil || t.DialTLSContext != nil || t.DialTLS != nil { //nolint:staticcheck // as above
		return true
	}
	c := t.TLSClientConfig
	return c != nil && (len(c.Certificates) > 0 || c.GetClientCertificate != nil)
}
