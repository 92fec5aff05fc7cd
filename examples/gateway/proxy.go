package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/phantom-token/phantom"
)

// newGateway returns the handler for clients. Only public paths, and what a
// gateway that mints publishes, need no token.
func newGateway(c *config) http.Handler {
	proxy := newProxy(c)
	protect := c.auth.Handler
	if scopes := c.words("scopes"); len(scopes) > 0 {
		protect = c.auth.RequireScopes(scopes...)
	}
	protected := protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		// A websocket or an event stream would live on. In -mode claims a token may
		// have no expiry.
		if deadline := tok.Expiry(); !deadline.IsZero() {
			if time.Until(deadline) <= 0 {
				deadline = time.Now().Add(10 * time.Second) // phantom's leeway for clocks
			}
			ctx, end := context.WithDeadline(r.Context(), deadline)
			defer end()
			r = r.WithContext(ctx)
		}
		proxy.ServeHTTP(w, r)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method, documents := strings.ToUpper(r.Method), c.published[r.URL.Path] // not all upstreams mind the case
		// Any other protocol, h2c above all, would be a tunnel for unchecked requests.
		if offer := r.Header.Get("Upgrade"); len(offer) != len("websocket") || !strings.EqualFold(offer, "websocket") {
			r.Header.Del("Upgrade") // ReverseProxy fails with what is no text
		}
		switch {
		case method == http.MethodTrace || method == http.MethodConnect:
			// TRACE shows the JWT to the client; CONNECT is for forward proxies.
			w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
			w.Header().Set("Connection", "close") // without waiting for a body
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		case documents != nil:
			documents.ServeHTTP(w, r)
		case len(c.public) > 0 && slices.Contains(c.public, r.URL.EscapedPath()):
			proxy.ServeHTTP(w, r)
		default:
			protected.ServeHTTP(w, r)
		}
	})
}

func newProxy(c *config) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			dropForgeable(pr.Out.Header)
			if _, ok := phantom.FromContext(pr.In.Context()); !ok {
				pr.Out.Header.Del("Authorization") // nothing has checked it
			}
			pr.SetURL(c.upstream)                    // Host is the upstream's, too
			pr.SetXForwarded()                       // the client's is in X-Forwarded-Host
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery // also what cannot be parsed, such as a;b
		},
		Transport: &http.Transport{
			Proxy:                 nil, // JWTs do not go where HTTP_PROXY says
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: get[time.Duration](c, "upstream-timeout"),
			ExpectContinueTimeout: time.Second,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   100,
			IdleConnTimeout:       90 * time.Second,
			DisableCompression:    true, // Accept-Encoding is the client's
		},
		FlushInterval: 10 * time.Millisecond, // of what has a length; the rest goes out as it comes
		BufferPool:    buffers{},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(r.Context().Err(), context.Canceled) {
				w.WriteHeader(499) // for the log; the client is gone
				return
			}
			explain(r, "upstream", "")
			c.logger.Error("no answer of the upstream", "reason", reason(err))
			w.Header().Set("Cache-Control", "no-store")
			http.Error(w, "the service behind this gateway does not answer", http.StatusBadGateway)
		},
		ErrorLog: log.New(io.Discard, "", 0), // it quotes the upstream; the access log has what broke off
	}
}

// buffers saves each request 32 KiB of garbage.
type buffers struct{}

var pool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (buffers) Get() []byte  { return pool.Get().(*[32 << 10]byte)[:] }
func (buffers) Put(b []byte) { pool.Put((*[32 << 10]byte)(b)) }

// reason says what went wrong without quoting the upstream, whose words may be
// the request that it got.
func reason(err error) string {
	var op *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &op):
		return op.Error()
	case errors.As(err, &certificate):
		return certificate.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	}
	return "unusable answer"
}

//go:embed fields.txt
var fields string

// forgeable are the fields that no client may bring to the upstream.
var forgeable = func() map[string]bool {
	all := map[string]bool{}
	for _, name := range strings.Fields(regexp.MustCompile("(?m)^#.*").ReplaceAllString(fields, "")) {
		all[name] = true
	}
	return all
}()

// dropForgeable also drops what looks like such a field to an upstream that
// takes all punctuation for the same, as CGI does.
func dropForgeable(header http.Header) {
	for name := range header {
		var buffer [64]byte
		plain, drop := append(buffer[:0], name...), false
		for i, c := range plain {
			switch {
			case 'A' <= c && c <= 'Z':
				plain[i] = c + 'a' - 'A'
			case ('a' > c || c > 'z') && ('0' > c || c > '9'):
				plain[i] = '-'
				drop = drop || forgeable[string(plain[:i+1])]
			}
		}
		if drop || forgeable[string(plain)] {
			delete(header, name)
		}
	}
}
