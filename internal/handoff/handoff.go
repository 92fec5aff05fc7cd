// Package handoff makes the copy of a request that the next handler gets, and
// does for it what net/http does for its own requests alone.
package handoff

import (
	"context"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"slices"
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

// Proofs are the names of the fields with which a client proves that a token is
// its own. Like Authorization, they are for this service alone.
type Proofs []string

// withhold reports whether next must not see what the client sent in the field.
func (p Proofs) withhold(name string) bool {
	return httpauth.IsAuthorization(name) ||
		slices.ContainsFunc(p, func(proof string) bool { return strings.EqualFold(hyphens(proof), hyphens(name)) })
}

// hyphens spells a name as CGI and its heirs take it, for which an underscore
// and a hyphen are one.
func hyphens(name string) string { return strings.ReplaceAll(name, "_", "-") }

// Copy returns a shallow copy of the request with the context, and with a
// header map of its own, in which the values of Authorization replace what the
// client sent; nil removes it. Proofs are removed. found is what a scan of
// r.Header found.
func Copy(
	ctx context.Context, r *http.Request, authorization []string, found httpauth.Fields, proofs Proofs,
) *http.Request {
	out := r.WithContext(ctx)
	header := maps.Clone(r.Header)
	if header == nil {
		header = http.Header{}
	}
	switch {
	case found.Misspelt, len(proofs) > 0:
		maps.DeleteFunc(header, func(name string, _ []string) bool { return proofs.withhold(name) })
	case authorization == nil, len(header) == fullGroup:
		delete(header, "Authorization")
	}
	if authorization != nil {
		header["Authorization"] = authorization
	}
	// A proxy drops the fields that Connection names (RFC 9110 section 7.6.1).
	// The client must not be able to name these, or to send them as a trailer.
	if found.Connection {
		dropOptions(header, "Connection", proofs.withhold)
	}
	// Over a connection that is upgraded to HTTP/2, requests would come that
	// nobody has checked.
	if found.Upgrade {
		dropOptions(header, "Upgrade", isH2C)
	}
	// A body of unknown length may bring a trailer that was not announced.
	if r.Trailer != nil || r.ContentLength < 0 {
		handOnTrailer(r, out, proofs)
	}
	out.Header = header
	return out
}

func handOnTrailer(r, out *http.Request, proofs Proofs) {
	out.Trailer = http.Header{}
	body := &trailingBody{r.Body, r, out.Trailer, proofs}
	body.copyTrailer()
	if r.Body != nil {
		out.Body = body
	}
}

// A trailingBody copies the request's trailer for next, except for what next
// must not see. The trailer is complete when the body ends. If none was
// announced, net/http makes the request's map only then.
type trailingBody struct {
	io.ReadCloser
	from   *http.Request
	to     http.Header
	proofs Proofs
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
		if !b.proofs.withhold(name) {
			b.to[name] = values
		}
	}
}

// isH2C reports whether a protocol of Upgrade is HTTP/2, or a draft of it.
func isH2C(protocol string) bool {
	return len(protocol) >= len("h2c") && strings.EqualFold(protocol[:len("h2c")], "h2c")
}

// dropOptions drops the options of a field that is a list.
func dropOptions(header http.Header, name string, drop func(option string) bool) {
	fields := header[name]
	if len(fields) == 0 {
		return
	}
	var kept []string
	for option := range strings.SplitSeq(strings.Join(fields, ","), ",") {
		if option = strings.Trim(option, " \t"); option != "" && !drop(option) {
			kept = append(kept, option)
		}
	}
	delete(header, name)
	if len(kept) > 0 {
		header[name] = []string{strings.Join(kept, ", ")}
	}
}
