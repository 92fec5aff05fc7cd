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
	"sync/atomic"
	"time"
)

// A Client sends all requests to one authorization server. It follows no
// redirect, which would send the token elsewhere, and keeps no cookies. Time
// limits come with each request's context.
type Client struct {
	transport http.RoundTripper
	answers   atomic.Int64 // so far
}

// New returns a Client that uses the given transport. If that is nil, the
// Client has a transport of its own, with at most the given number of
// connections to a host.
func New(transport http.RoundTripper, connections int) *Client {
	if transport == nil {
		transport = newTransport(connections)
	}
	return &Client{transport: transport}
}

// closeIdle closes the connections that are not in use.
func (c *Client) closeIdle() { (&http.Client{Transport: c.transport}).CloseIdleConnections() }

// newTransport speaks HTTP/1.1 only. There a connection carries one lookup at a
// time, so the bound on connections holds, and a connection gone bad costs one
// lookup. With HTTP/2 it costs all of them, again and again, even while the
// connection still answers pings. With so few places HTTP/2 gains nothing.
func newTransport(connections int) *http.Transport {
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

// maxInterim is how many interim answers (RFC 9110 section 15.2) may come
// before an answer. We ask for none.
const maxInterim = 5

var errInterim = errors.New("too many interim answers")

// Send sends the request that prepare makes. If the connection fails before the
// first byte of an answer, Send prepares and sends another request, once: the
// server may have closed the connection while it was idle. Send does not retry
// after a timeout or an untrusted certificate, and never repeats a request that
// got an HTTP answer, of any status. The error is prepare's or a
// [*failure.Error].
func (c *Client) Send(
	ctx context.Context, prepare func(context.Context) (*http.Request, error),
) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		before := c.answers.Load()
		watched, answered := watch(ctx)
		req, err := prepare(watched)
		if err != nil {
			return nil, err
		}
		req.GetBody = nil // or the transport may send it again by itself, any number of times
		resp, err := c.transport.RoundTrip(req)
		if err == nil {
			c.answers.Add(1)
			return withBody(resp), nil
		}
		if timedOut := isTimeout(err) || ctx.Err() != nil; !timedOut || c.answers.Load() == before {
			c.closeIdle() // the other connections may lead to the same dead server
			if timedOut {
				// A caller's transport may speak HTTP/2, where this attempt's
				// own connection is idle a moment after the attempt ended.
				time.AfterFunc(100*time.Millisecond, c.closeIdle)
			}
		}
		if attempt == 2 || answered.Load() || ctx.Err() != nil || isTimeout(err) || isUntrusted(err) {
			return nil, unanswered(connectionFault(err), err)
		}
	}
}

// watch returns a context for one attempt, which fails after too many interim
// answers. It also returns whether a byte of an answer has come.
func watch(ctx context.Context) (context.Context, *atomic.Bool) {
	var answered atomic.Bool
	var interim atomic.Int32
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotFirstResponseByte: func() { answered.Store(true) },
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			if interim.Add(1) > maxInterim {
				return errInterim
			}
			return nil
		},
	}), &answered
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
