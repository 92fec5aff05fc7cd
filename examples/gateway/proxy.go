package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"github.com/phantom-token/phantom"
)

// newGateway returns the handler for clients. No request gets around the check
// of its token. Before that, a request can only be refused, or get what a
// gateway that mints publishes.
func newGateway(c *config, logger *slog.Logger) http.Handler {
	protect := c.auth.Handler
	if len(c.scopes) > 0 {
		protect = c.auth.RequireScopes(c.scopes...)
	}
	return refuseMethods(c.published.before(protect(endAtExpiry(newProxy(c, logger)))))
}

// leeway is what a token has beyond its expiry when it comes with a clock that
// differs, as phantom's own default.
const leeway = 10 * time.Second

// endAtExpiry ends a request when its token or its JWT expires. A websocket or
// an event stream would live on.
func endAtExpiry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deadline := time.Now().Add(leeway)
		if tok, ok := phantom.FromContext(r.Context()); ok {
			switch expiry := tok.Expiry(); {
			case expiry.IsZero(): // never, which -mode claims permits
				next.ServeHTTP(w, r)
				return
			case time.Until(expiry) > 0:
				deadline = expiry
			}
		}
		ctx, cancel := context.WithDeadline(r.Context(), deadline)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// refuseMethods answers 405 to TRACE, with which an upstream would show the
// JWT to the client, and CONNECT, which is for forward proxies.
func refuseMethods(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch strings.ToUpper(r.Method) { // not all upstreams mind the case
		case http.MethodTrace, http.MethodConnect:
			w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func newProxy(c *config, logger *slog.Logger) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			for name := range pr.Out.Header {
				if isForgeable(name) {
					delete(pr.Out.Header, name)
				}
			}
			// Any other protocol, h2c above all, would be a tunnel for
			// unchecked requests.
			if !strings.EqualFold(pr.Out.Header.Get("Upgrade"), "websocket") {
				pr.Out.Header.Del("Upgrade")
				pr.Out.Header.Del("Connection")
			}
			pr.SetURL(c.upstream) // Host is the upstream's, too
			pr.SetXForwarded()    // the client's is in X-Forwarded-Host
		},
		Transport: &http.Transport{
			Proxy:                 nil, // JWTs do not go where HTTP_PROXY says
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: c.upstreamTimeout,
			ExpectContinueTimeout: time.Second,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   100,
			IdleConnTimeout:       90 * time.Second,
			DisableCompression:    true, // Accept-Encoding is the client's
		},
		FlushInterval: -1, // each piece of an answer goes out as it comes
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(r.Context().Err(), context.Canceled) {
				w.WriteHeader(statusClientLeft)
				return
			}
			logger.Error("no answer of the upstream", "reason", reason(err))
			w.Header().Set("Cache-Control", "no-store")
			http.Error(w, "the service behind this gateway does not answer", http.StatusBadGateway)
		},
		// These lines quote what the upstream sent. The access log has the
		// answers that broke off.
		ErrorLog: log.New(io.Discard, "", 0),
	}
}

// statusClientLeft is for the access log; the client is gone.
const statusClientLeft = 499

// isForgeable reports whether name is a field that only proxies should set, or
// looks like one to an upstream that takes all punctuation for the same, as CGI
// does. It includes DPoP, whose proof is about the opaque token and not about
// the JWT.
func isForgeable(name string) bool {
	name = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	switch name {
	case "forwarded", "x-real-ip", "proxy-authorization", "dpop":
		return true
	}
	return strings.HasPrefix(name, "x-forwarded-")
}

// reason says what went wrong without quoting the upstream, whose words may be
// the request that it got.
func reason(err error) string {
	var (
		op          *net.OpError
		timeout     net.Error
		certificate *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &op):
		return op.Error()
	case errors.As(err, &certificate):
		return certificate.Error()
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	}
	return "unusable answer"
}
