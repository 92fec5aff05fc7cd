// Package handoff makes the copy of a request that the next handler gets, and
// does for it what net/http does for its own requests alone.
package handoff

import (
	"context"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"strings"

	"github.com/phantom-token/phantom/internal/httpauth"
)

// A Handoff is the way of one request through a middleware.
type Handoff struct {
	outer, inner *http.Request
	form         *multipart.Form // of the outer request when it came
}

// New returns the Handoff of a request. Defer its End.
func New(r *http.Request) Handoff { return Handoff{outer: r, inner: r, form: r.MultipartForm} }

// To takes note of the copy that next gets.
func (h *Handoff) To(inner *http.Request) { h.inner = inner }

// End removes the temporary files of an uploaded form, and lets the outer
// request learn the pattern that a mux found. It is for a panic of next, too.
func (h *Handoff) End() {
	if h.outer.Pattern == "" && h.inner.Pattern != "" {
		h.outer.Pattern = h.inner.Pattern
	}
	if h.inner.MultipartForm != h.form || h.outer.MultipartForm != h.form {
		h.removeFiles()
	}
}

func (h *Handoff) removeFiles() {
	for _, r := range [2]*http.Request{h.inner, h.outer} {
		if form := r.MultipartForm; form != nil && form != h.form {
			_ = form.RemoveAll() // what is gone already is no error
		}
	}
}

// fullGroup is how many fields fill a map's only group of slots. An assignment
// to such a map makes it grow, even if the key is there.
const fullGroup = 8

// Copy returns a shallow copy of the request with the context, and with a
// header map of its own, in which the values of Authorization replace what the
// client sent; nil removes it. found is what a scan of r.Header found.
func Copy(ctx context.Context, r *http.Request, authorization []string, found httpauth.Fields) *http.Request {
	out := r.WithContext(ctx)
	header := maps.Clone(r.Header)
	if header == nil {
		header = http.Header{}
	}
	switch {
	case found.Misspelt:
		maps.DeleteFunc(header, func(name string, _ []string) bool { return httpauth.IsAuthorization(name) })
	case authorization == nil, len(header) == fullGroup:
		delete(header, "Authorization")
	}
	if authorization != nil {
		header["Authorization"] = authorization
	}
	// A proxy drops the fields that Connection names (RFC 9110 section 7.6.1).
	// The client must not be able to name this one, or to send it as a trailer.
	if found.Connection {
		cleanConnection(header)
	}
	// A body of unknown length may bring a trailer that was not announced.
	if r.Trailer != nil || r.ContentLength < 0 {
		handOnTrailer(r, out)
	}
	out.Header = header
	return out
}

func handOnTrailer(r, out *http.Request) {
	out.Trailer = http.Header{}
	body := &trailingBody{r.Body, r, out.Trailer}
	body.copyTrailer()
	if r.Body != nil {
		out.Body = body
	}
}

// A trailingBody copies the request's trailer, except for Authorization, for
// next. The trailer is complete when the body ends. If none was announced,
// net/http makes the request's map only then.
type trailingBody struct {
	io.ReadCloser
	from *http.Request
	to   http.Header
}

func (b *trailingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.copyTrailer()
	}
	return n, err
}

func (b *trailingBody) copyTrailer() {
	for name, values := range b.from.Trailer {
		if !httpauth.IsAuthorization(name) {
			b.to[name] = values
		}
	}
}

func cleanConnection(header http.Header) {
	fields := header["Connection"]
	if len(fields) == 0 {
		return
	}
	var kept []string
	for option := range strings.SplitSeq(strings.Join(fields, ","), ",") {
		if option = strings.Trim(option, " \t"); option != "" && !httpauth.IsAuthorization(option) {
			kept = append(kept, option)
		}
	}
	delete(header, "Connection")
	if len(kept) > 0 {
		header["Connection"] = []string{strings.Join(kept, ", ")}
	}
}
