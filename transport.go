package phantom

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/httpcache"
)

// A transport sends all requests to the authorization server: by the caller's
// RoundTripper or one of its own. That is all that is used of a caller's
// client: it would follow redirects, which would send the token elsewhere, and
// keep cookies. Time limits come with each request's context.
type transport struct {
	http.RoundTripper
	answers atomic.Int64 // so far
}

func newTransport(given *http.Client, connections int) *transport {
	if given != nil && given.Transport != nil {
		return &transport{RoundTripper: given.Transport}
	}
	return &transport{RoundTripper: newRoundTripper(connections)}
}

// closeIdle closes the connections that are not in use.
func (t *transport) closeIdle() { (&http.Client{Transport: t.RoundTripper}).CloseIdleConnections() }

// newRoundTripper speaks HTTP/1.1 alone: there a connection carries one lookup at
// a time, so that the bound on connections holds and one that has gone bad costs
// one lookup. One of HTTP/2 takes all of them, again and again, also when it
// still answers pings; and for so few places there is nothing to win by it.
func newRoundTripper(connections int) *http.Transport {
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

// interimMost is how many interim answers (RFC 9110 section 15.2) may come
// before an answer; nobody asked for them.
const interimMost = 5

var errInterim = errors.New("too many interim answers")

// send sends the request that prepare makes. If the connection fails
// before the first byte of an answer, as it does when the server closed it
// while it was idle, it prepares and sends another one, once. An HTTP answer,
// whatever its status, is never asked for again.
func (t *transport) send(ctx context.Context, prepare func(context.Context) (*http.Request, error)) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		before := t.answers.Load()
		var answered atomic.Bool
		var interim atomic.Int32
		traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotFirstResponseByte: func() { answered.Store(true) },
			Got1xxResponse: func(int, textproto.MIMEHeader) error {
				if interim.Add(1) > interimMost {
					return errInterim
				}
				return nil
			},
		})
		req, err := prepare(traced)
		if err != nil {
			return nil, err
		}
		req.GetBody = nil // or the transport may send it again by itself, any number of times
		resp, err := t.RoundTrip(req)
		if err == nil {
			t.answers.Add(1)
			switch {
			case resp.Body == nil: // a Client would permit it
				resp.Body = http.NoBody
			case resp.StatusCode == http.StatusSwitchingProtocols:
				_ = resp.Body.Close() // it is the connection itself, which no context ends
				resp.Body = http.NoBody
			}
			return resp, nil
		}
		if timedOut := isTimeout(err) || ctx.Err() != nil; !timedOut || t.answers.Load() == before {
			t.closeIdle() // the others may lead to the same dead server
			if timedOut {
				// A caller's transport may speak HTTP/2, where this attempt's own
				// connection is idle a moment after the attempt ended.
				time.AfterFunc(100*time.Millisecond, t.closeIdle)
			}
		}
		if attempt == 2 || answered.Load() || ctx.Err() != nil || isTimeout(err) || isUntrusted(err) {
			return nil, rejectionOf(ReasonUnavailable, connectionFault(err), safeCause(err))
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

func isUntrusted(err error) bool {
	var untrusted *tls.CertificateVerificationError
	return errors.As(err, &untrusted)
}

// connectionFault names the class of a failed exchange.
func connectionFault(err error) string {
	var (
		dns    *net.DNSError
		op     *net.OpError
		record tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &dns):
		return "name resolution"
	case isUntrusted(err):
		return "TLS: " + certificateFault(err)
	case errors.As(err, &record),
		errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"): // an alert
		return "TLS"
	case isTimeout(err):
		return "timeout"
	case errors.As(err, &op) && op.Op == "dial":
		return "connecting"
	}
	return "connection"
}

// certificateFault says what is wrong with the server's certificate, and nothing
// of what is written in it.
func certificateFault(err error) string {
	var (
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &host):
		return "certificate for another host"
	case errors.As(err, &authority):
		return "certificate of an unknown authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "certificate expired or not yet valid"
	}
	return "certificate not valid"
}

// safeCause keeps of a transport's error only what cannot quote a URL, the
// bytes of an answer or a certificate.
func safeCause(err error) error {
	var (
		dns *net.DNSError
		op  *net.OpError
	)
	switch {
	case isUntrusted(err): // whatever it is wrapped in
		return nil
	case errors.As(err, &dns):
		return dns
	case errors.As(err, &op):
		return op
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return context.Canceled
	}
	return nil
}

// readBody reads a whole body of at most limit bytes. An answer that breaks
// off is no answer; a compressed one, which nobody asked for, is not accepted.
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, rejectionOf(ReasonUnavailable, "answer broke off", safeCause(err))
	case int64(len(body)) > limit:
		return nil, tooLarge(limit)
	case len(resp.Header.Values("Content-Encoding")) > 0 || resp.Uncompressed:
		return nil, protocolFault("Content-Encoding")
	}
	return body, nil
}

func tooLarge(limit int64) *Error {
	return protocolFault(fmt.Sprintf("answer larger than %d bytes", limit))
}

// getDocument fetches a JSON document of the authorization server. It carries
// no credentials.
func (t *transport) getDocument(ctx context.Context, target, accept string, limit int64) (body []byte, maxAge time.Duration, err error) {
	resp, err := t.send(ctx, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return nil, protocolFault("not a URL")
		}
		req.Header.Set("Accept", accept)
		req.Header.Set("Accept-Encoding", "identity")
		return req, nil
	})
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = resp.Body.Close() }() // as in Introspect
	if body, err = readBody(resp, limit); err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, 0, &statusError{resp.StatusCode}
	}
	return body, httpcache.Freshness(resp.Header, false), nil
}

// A statusError is the status of a document that could not be had.
type statusError struct{ status int }

func (e *statusError) Error() string { return fmt.Sprintf("status %d", e.status) }

// checkURL says why a URL of the authorization server is refused: anything but
// absolute https, http to the loopback interface excepted (RFC 7662 section 4,
// RFC 8414 section 6).
func checkURL(raw string, insecure bool) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return "not a URL"
	case u.User != nil:
		return "has credentials in the URL"
	case u.Host == "" && strings.Contains(raw, "@"):
		return "not an absolute URL" // what stands before the @ is not to be shown
	case u.Host == "" || u.Hostname() == "":
		return fmt.Sprintf("%q is not an absolute URL", withoutQuery(raw))
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return fmt.Sprintf("%q has a fragment", withoutQuery(raw))
	case u.Scheme == "https", u.Scheme == "http" && (insecure || isLoopback(u.Hostname())):
		return ""
	}
	return fmt.Sprintf("%q is not https", withoutQuery(raw))
}

// withoutQuery cuts what may hold a secret.
func withoutQuery(raw string) string {
	if i := strings.IndexAny(raw, "?#"); i >= 0 {
		return raw[:i]
	}
	return raw
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
