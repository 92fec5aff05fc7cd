// Package resource publishes the metadata of a protected resource (RFC 9728),
// from which a client that has no token learns where to get one.
//
//	metadata, err := resource.New(resource.Metadata{
//		Resource:             "https://api.example.com/mcp",
//		AuthorizationServers: []string{"https://login.example.com"},
//	})
//	...
//	auth, err := phantom.New(
//		phantom.WithResourceMetadataURL(metadata.URL()),
//		...
//	)
//	...
//	mux.Handle(metadata.Path(), metadata)
//	mux.Handle("/mcp", auth.Handler(mcp))
//
// The metadata are for everyone: mount them outside the middleware.
package resource

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// wellKnown is where clients look (RFC 9728 section 3).
const wellKnown = "/.well-known/oauth-protected-resource"

// A Handler serves the metadata of one resource. Make one with [New]. It is
// immutable and safe for concurrent use.
type Handler struct {
	origin string // scheme and host
	path   string // escaped
	body   []byte
	etag   string
}

// New returns the handler of the metadata, which are encoded once: later
// changes to m have no effect. bearer_methods_supported is "header", the only
// way in which phantom takes a token. If anything is wrong with m, New returns
// all the mistakes at once, each a [*phantom.ConfigError], joined with
// [errors.Join].
func New(m Metadata) (*Handler, error) {
	body, err := m.render()
	if err != nil {
		return nil, err
	}
	u, _ := url.Parse(m.Resource) // render did
	path := u.EscapedPath()
	if path == "/" {
		path = ""
	}
	return &Handler{
		origin: u.Scheme + "://" + u.Host,
		path:   wellKnown + path,
		body:   body,
		etag:   fmt.Sprintf(`"%x"`, sha256.Sum256(body)),
	}, nil
}

// URL returns the URL of the metadata, for [phantom.WithResourceMetadataURL].
func (h *Handler) URL() string { return h.origin + h.path }

// Path returns the path of that URL, escaped, for [http.ServeMux.Handle]: the
// resource's path after /.well-known/oauth-protected-resource, without the
// slash of a resource that has no other path (RFC 9728 section 3.1).
func (h *Handler) Path() string { return h.path }

// ServeHTTP answers GET and HEAD with the metadata, and OPTIONS for scripts of
// any origin. Any other method gets 405. Another path than [Handler.Path], and
// any query, is that of another resource and gets 404. It may be kept for five
// minutes and has an ETag.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Access-Control-Allow-Origin", "*") // on errors too: a script may see them
	if r.URL.EscapedPath() != h.path || r.URL.RawQuery != "" {
		http.NotFound(w, r)
		return
	}
	const methods = "GET, HEAD, OPTIONS"
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		header.Set("Content-Type", "application/json")
		header.Set("Cache-Control", "public, max-age=300")
		header.Set("Etag", h.etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(h.body))
	case http.MethodOptions:
		header.Set("Allow", methods)
		header.Set("Access-Control-Allow-Methods", methods)
		header.Set("Access-Control-Allow-Headers", "*") // clients add some, such as MCP-Protocol-Version
		header.Set("Access-Control-Max-Age", "3600")
		w.WriteHeader(http.StatusNoContent)
	default:
		header.Set("Allow", methods)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}
