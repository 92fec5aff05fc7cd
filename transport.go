package phantom

import (
	"net/http"

	"github.com/phantom-token/phantom/internal/upstream"
)

// NewTransport returns a transport like the default one of [WithHTTPClient],
// for those who wrap it, such as with a RoundTripper that makes spans, or give
// it certificates. It uses no proxy, speaks HTTP/1.1, and keeps 64 idle
// connections. Unlike the default one it may use a busy connection for ever: if
// the server can move to another address, call CloseIdleConnections now and
// then. Each call returns a new one.
func NewTransport() *http.Transport {
	t := upstream.NewTransport(0)
	t.MaxIdleConnsPerHost = defaults().maxInFlight
	return t
}
