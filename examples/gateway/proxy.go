package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/phantom-token/phantom"
)

// newGateway returns the handler for clients. No request gets around the check
// of its token, except to a public path, and to what a gateway that mints
// publishes.
func newGateway(c *config) http.Handler {
	proxy := newProxy(c)
	protect := c.auth.Handler
	if scopes := c.words("scopes"); len(scopes) > 0 {
		protect = c.auth.RequireScopes(scopes...)
	}
	protected := protect(endAtExpiry(proxy))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method, documents := strings.ToUpper(r.Method), c.published[r.URL.Path] // not all upstreams mind the case
		switch {
		case method == http.MethodTrace || method == http.MethodConnect:
			// An upstream would show the JWT to the client; for forward proxies.
			w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
			w.Header().Set("Connection", "close") // without waiting for a body
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		case documents != nil:
			documents.ServeHTTP(w, r)
		case len(c.public) > 0 && c.public[r.URL.EscapedPath()]:
			proxy.ServeHTTP(w, r)
		default:
			protected.ServeHTTP(w, r)
		}
	})
}

// endAtExpiry ends a request when its token or its JWT expires. A websocket or
// an event stream would live on.
func endAtExpiry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		deadline := tok.Expiry()
		switch {
		case deadline.IsZero(): // never, which -mode claims permits
			next.ServeHTTP(w, r)
			return
		case time.Until(deadline) <= 0:
			deadline = time.Now().Add(10 * time.Second) // phantom's leeway for clocks
		}
		ctx, cancel := context.WithDeadline(r.Context(), deadline)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func newProxy(c *config) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			dropForgeable(pr.Out.Header)
			if _, ok := phantom.FromContext(pr.In.Context()); !ok {
				pr.Out.Header.Del("Authorization") // nothing has checked it
			}
			// Any other protocol, h2c above all, would be a tunnel for
			// unchecked requests.
			if !strings.EqualFold(pr.Out.Header.Get("Upgrade"), "websocket") {
				pr.Out.Header.Del("Upgrade")
				pr.Out.Header.Del("Connection")
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
		// These lines quote what the upstream sent. The access log has the
		// answers that broke off.
		ErrorLog: log.New(io.Discard, "", 0),
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

// forgeable are the fields that no client may bring to the upstream. One that
// ends in a hyphen stands for all that begin with it.
var forgeable = set(
	// Who the client is and how it came, as only proxies know it. Ours come.
	"forwarded x-forwarded x-forwarded- x-original-forwarded-for x-real-ip true-client-ip x-client-ip x-cluster-client-ip",
	"x-remote-ip x-remote-addr x-originating-ip cf-connecting-ip cf-connecting-ipv6 fastly-client-ip x-azure-clientip",
	"x-azure-socketip x-appengine-user-ip x-original-host x-host x-scheme x-url-scheme front-end-https",
	// Its certificate (RFC 9440, and before it).
	"client-cert client-cert-chain x-client-cert x-client-cert- x-client-verify x-client-dn ssl-client- x-ssl-",
	"x-arr-clientcert x-arr-ssl x-amzn-mtls-",
	// Another route, for IIS, Symfony, WSGI and Envoy.
	"x-original-url x-original-uri x-original-method x-rewrite-url x-script-name script-name x-envoy-",
	// A user, in the words of Kubernetes and Authelia, oauth2-proxy, Grafana,
	// authentik, Kong, APISIX and Pomerium; of Google, Azure, AWS and Cloudflare.
	"remote- x-remote- x-auth-request- x-authenticated- x-webauth- x-authentik- x-consumer- x-credential-",
	"x-anonymous-consumer x-userinfo x-access-token x-id-token x-jwt-assertion x-pomerium-",
	"x-goog-authenticated-user- x-goog-iap-jwt-assertion x-endpoint-api-userinfo x-apigateway-api-userinfo",
	"x-ms-client-principal x-ms-client-principal- x-ms-token- x-amzn-oidc- cf-access-",
	// HTTP_PROXY of a CGI program (httpoxy); credentials for proxies; a proof about
	// the opaque token, not about the JWT (RFC 9449).
	"proxy proxy-authorization dpop",
)

func set(lines ...string) map[string]bool {
	all := map[string]bool{}
	for _, name := range strings.Fields(strings.Join(lines, " ")) {
		all[name] = true
	}
	return all
}

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
