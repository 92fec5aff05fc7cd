package phantom

import (
	"maps"
	"net/http"
	"strings"
)

// forward returns the request for next: a shallow copy with the token in its
// context and with a header map of its own, in which the JWT stands in place of
// what the client sent.
func (m *Middleware) forward(r *http.Request, tok *Token) *http.Request {
	out := r.WithContext(NewContext(r.Context(), tok))
	header := maps.Clone(r.Header)
	if header == nil {
		header = http.Header{}
	}
	// The request was found to have one value at most, which may stand under
	// another spelling of the name. An extractor's request was not looked at.
	if len(header["Authorization"]) != 1 || m.extract != nil {
		maps.DeleteFunc(header, func(name string, _ []string) bool { return strings.EqualFold(name, "Authorization") })
	}
	header["Authorization"] = []string{tok.header()}
	// A proxy drops what Connection names (RFC 9110 section 7.6.1): the client
	// must not be able to name this field, or to announce it as a trailer.
	if connection := header["Connection"]; len(connection) > 0 {
		cleanConnection(header, connection)
	}
	if _, announced := r.Trailer["Authorization"]; announced {
		out.Trailer = maps.Clone(r.Trailer)
		delete(out.Trailer, "Authorization")
	}
	out.Header = header
	return out
}

func cleanConnection(header http.Header, fields []string) {
	var kept []string
	for option := range strings.SplitSeq(strings.Join(fields, ","), ",") {
		if option = strings.Trim(option, " \t"); option != "" && !strings.EqualFold(option, "Authorization") {
			kept = append(kept, option)
		}
	}
	delete(header, "Connection")
	if len(kept) > 0 {
		header["Connection"] = []string{strings.Join(kept, ", ")}
	}
}

// speaksFor reports whether the request brings no credentials but the token's
// own JWT. A request that was made with the context of another one can bring
// others.
func speaksFor(tok *Token, r *http.Request) bool {
	values := authorization(r.Header)
	return len(values) == 0 || len(values) == 1 && values[0] == tok.header()
}
