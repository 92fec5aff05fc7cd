package phantom

import (
	"io"
	"maps"
	"net/http"
	"strings"

	"github.com/phantom-token/phantom/internal/httpauth"
)

// forward returns the request for next: a shallow copy with the token in its
// context and a header map of its own, in which the JWT replaces what the
// client sent. With a nil token the request is anonymous.
func (m *Middleware) forward(r *http.Request, tok *Token) *http.Request {
	out := r.WithContext(NewContext(r.Context(), tok))
	header := maps.Clone(r.Header)
	if header == nil {
		header = http.Header{}
	}
	// Without an extractor there is one value at most, perhaps under another
	// spelling of the name. With an extractor the field is unchecked.
	if len(header["Authorization"]) != 1 || m.extract != nil {
		maps.DeleteFunc(header, func(name string, _ []string) bool { return httpauth.IsAuthorization(name) })
	}
	if tok != nil {
		header["Authorization"] = []string{tok.header()}
	}
	// A proxy drops the fields that Connection names (RFC 9110 section 7.6.1).
	// The client must not be able to name this one, or to send it as a trailer.
	if connection := header["Connection"]; len(connection) > 0 {
		cleanConnection(header, connection)
	}
	// A body of unknown length may bring a trailer that was not announced.
	if r.Trailer != nil || r.ContentLength < 0 {
		out.Trailer = http.Header{}
		body := &trailingBody{r.Body, r, out.Trailer}
		body.copyTrailer()
		if r.Body != nil {
			out.Body = body
		}
	}
	out.Header = header
	return out
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

func cleanConnection(header http.Header, fields []string) {
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
