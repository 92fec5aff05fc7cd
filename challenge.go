package phantom

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/guard"
	"github.com/phantom-token/phantom/internal/httpauth"
	"github.com/phantom-token/phantom/internal/httpcache"
)

// An ErrorHandler writes the answer to a rejected request: the status
// err.StatusCode() and a body. The challenge, Cache-Control and Retry-After are
// already in w's header; if the handler removes one, it is put back. A
// challenge of its own is sent beside ours. The status is err.StatusCode() also
// if the handler writes only a body, or a status that calls the request a
// success, as [http.ServeFile] would: 101, 2xx or 304. If it writes nothing,
// the default answer is sent. It can flush and set deadlines
// ([http.ResponseController]), but not take over the connection.
//
// If the request's body may be unread, an answer over HTTP/1 has Connection:
// close, so that it need not wait for the body (RFC 9112 section 9.6).
//
// The handler must not write anything that it took from the request's
// credentials. err is its own copy. It must be safe for concurrent use.
type ErrorHandler func(w http.ResponseWriter, r *http.Request, err *Error)

// rejecter renders rejections. It is the only writer of challenges.
type rejecter struct {
	realm            string
	resourceMetadata string
	handler          ErrorHandler
	scopes           []string // of the route
	offers           []offer  // the schemes of the challenges
	// plain has the answers for Errors that are plain: by the index of the scheme
	// whose challenge has the error, and by class.
	plain [][len(kinds)]rendered
}

// rendered is what an Error alone decides of an answer: the status, the values
// of WWW-Authenticate, if there are any, and the default body with its length.
type rendered struct {
	status       int
	challenges   []string
	body, length string
}

func newRejecter(c *config, offers []offer) *rejecter {
	j := &rejecter{
		realm: c.realm, resourceMetadata: c.resourceMetadata, handler: c.errorHandler, offers: offers,
	}
	j.renderPlain()
	return j
}

// forScopes returns the rejecter of a route that requires the scopes. Clients
// that follow resource_metadata learn from a 401 which ones to ask for.
func (j *rejecter) forScopes(scopes []string) *rejecter {
	if j.resourceMetadata == "" {
		return j
	}
	own := *j
	own.scopes = scopes
	own.renderPlain()
	return &own
}

func (j *rejecter) renderPlain() {
	j.plain = make([][len(kinds)]rendered, len(j.offers))
	for used := range j.plain {
		for class, k := range kinds {
			j.plain[used][class] = j.render(k, &Error{}, used)
		}
	}
}

// rendered returns what e decides, together with the scheme that the request
// used. The challenges must not be modified.
func (j *rejecter) rendered(e *Error, scheme string) rendered {
	used := j.offered(e.Scheme)
	if used < 0 {
		used = max(j.offered(scheme), 0)
	}
	if e.isPlain() {
		return j.plain[used][e.class()]
	}
	return j.render(e.kind(), e, used)
}

// offered returns the index of the scheme, or -1.
func (j *rejecter) offered(scheme string) int {
	return slices.IndexFunc(j.offers, func(o offer) bool { return strings.EqualFold(o.scheme, scheme) })
}

// render writes a challenge for each scheme, the used one first. It alone has
// the error.
func (j *rejecter) render(k kind, e *Error, used int) rendered {
	body := problem(k)
	answer := rendered{status: k.status, body: body, length: strconv.Itoa(len(body))}
	switch k.status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		answer.challenges = append(answer.challenges, j.challenge(j.offers[used], k, e))
		for i, o := range j.offers {
			if i != used {
				answer.challenges = append(answer.challenges, j.challenge(o, kind{status: k.status}, &Error{}))
			}
		}
	}
	return answer
}

// reject answers a request that is not let through, and that used the scheme.
// It returns what the client was told: e, or another Error if the error handler
// panicked.
func (j *rejecter) reject(w http.ResponseWriter, r *http.Request, e *Error, scheme string) (told *Error) {
	told = j.answer(w, r, e, scheme)
	if mayBeUnread(r) {
		// An outer handler may still want the body. The client need not wait.
		_ = http.NewResponseController(w).Flush() // a writer that cannot flush sends it later
	}
	return told
}

// mayBeUnread reports whether a part of the request's body may still have to
// come.
func mayBeUnread(r *http.Request) bool { return r.ContentLength != 0 }

// answer writes the rejection, or has the error handler write it.
func (j *rejecter) answer(w http.ResponseWriter, r *http.Request, e *Error, scheme string) (told *Error) {
	answer := j.rendered(e, scheme)
	answer.setHeader(w.Header(), r, e)
	if j.handler == nil {
		answer.writeProblem(w, r)
		return e
	}
	guarded := guard.New(w, answer.status)
	defer func() {
		p := recover()
		if !guarded.IsWritten() && p != http.ErrAbortHandler {
			added := w.Header()["Www-Authenticate"]
			if p != nil {
				told, p, added = rejection(failure.FromPanic(p)), nil, nil
			}
			answer := j.rendered(told, scheme)
			answer.setHeader(w.Header(), r, told)
			guard.AddChallenges(w.Header(), added)
			answer.writeProblem(w, r)
		}
		if p != nil {
			panic(p)
		}
	}()
	told = e
	j.handler(guarded, r, e.clone())
	return told
}

// setHeader sets what every rejection carries, and what e adds. It removes what
// an outer handler may have said about an answer that is not sent now. It
// leaves Content-Encoding, which belongs to an outer handler that compresses.
//
// Whoever has the header may write into the values, so they are made for each
// request, those of two fields at a time.
func (a *rendered) setHeader(h http.Header, r *http.Request, e *Error) {
	for _, name := range [...]string{
		"Content-Length", "Etag", "Last-Modified", "Expires", "Accept-Ranges", "Www-Authenticate", "Retry-After",
	} {
		delete(h, name)
	}
	for name, values := range e.Header {
		fit := slices.DeleteFunc(slices.Clone(values), func(v string) bool { return !httpauth.IsQuotable(v) })
		if name = http.CanonicalHeaderKey(name); httpauth.IsToken(name) && !isOurs(name) && len(fit) > 0 {
			h[name] = fit
		}
	}
	values := slices.Concat([]string{"no-store"}, a.challenges)
	h["Cache-Control"] = values[:1:1]
	if len(a.challenges) > 0 {
		h["Www-Authenticate"] = values[1:]
	}
	if mayBeUnread(r) && r.ProtoMajor == 1 {
		// Otherwise the server reads the body before it sends the answer, and
		// waits for a client that never sends it.
		h.Set("Connection", "close")
	}
	if a.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.FormatInt(httpcache.RetryAfterSeconds(e.RetryAfter), 10))
	}
}

// isOurs reports whether a field of a rejection is not for an Error to set: a
// rejection sets it itself, or it is about the body, the session or the
// connection (RFC 9110 section 7.6.1).
func isOurs(name string) bool {
	switch name {
	case "Www-Authenticate", "Cache-Control", "Retry-After", "Set-Cookie", "Connection", "Keep-Alive",
		"Proxy-Connection", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return strings.HasPrefix(name, "Content-")
}

// challenge renders the challenge of a rejection for one scheme (RFC 6750
// section 3).
func (j *rejecter) challenge(o offer, k kind, e *Error) string {
	c := httpauth.NewChallenge(o.scheme)
	c.Add("realm", j.realm)
	if httpauth.IsErrorText(k.code) && k.code != "" {
		c.Add("error", k.code)
	}
	switch scopes := scopeTokens(e.Scopes); {
	case len(scopes) > 0 && k.code != "":
		c.Add("scope", strings.Join(scopes, " "))
	case len(j.scopes) > 0 && k.status == http.StatusUnauthorized:
		c.Add("scope", strings.Join(j.scopes, " "))
	}
	if k.code == "invalid_request" { // the other codes speak for themselves
		c.Add("error_description", k.text)
	}
	for _, params := range [...]map[string]string{o.params, e.Params} {
		for _, name := range slices.Sorted(maps.Keys(params)) {
			switch lower := strings.ToLower(name); lower {
			case "realm", "error", "error_description", "scope", "resource_metadata":
			default:
				c.Add(lower, params[name])
			}
		}
	}
	if j.resourceMetadata != "" {
		c.Add("resource_metadata", j.resourceMetadata)
	}
	return c.String()
}

// scopeTokens leaves out what cannot stand in a challenge.
func scopeTokens(scopes []string) []string {
	return slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return !httpauth.IsScopeToken(s) })
}

// problem renders the default body (RFC 9457). It is made of constants, so it
// echoes nothing.
func problem(k kind) string {
	body, _ := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(k.status), k.status, k.text}) // strings and an int always encode
	return string(body)
}

// writeProblem writes the default answer.
func (a *rendered) writeProblem(w http.ResponseWriter, r *http.Request) {
	h, values := w.Header(), []string{"application/problem+json", a.length}
	h["Content-Type"], h["Content-Length"] = values[:1:1], values[1:]
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, a.body) // the client may be gone
	}
}

// reject answers a request that is not let through.
func (m *Middleware) reject(w http.ResponseWriter, r *http.Request, rejecter *rejecter, rejected *Error) {
	defer func() { m.log.rejected(r, msgRejected, rejected, rejected.StatusCode()) }() // also when the error handler aborts
	scheme := ""
	if rejected.StatusCode() < http.StatusInternalServerError { // otherwise there is no challenge
		scheme = m.usedScheme(r)
	}
	rejected = rejecter.reject(w, r, rejected, scheme)
}

// Reject writes the answer that a handler of m would write to the request for
// err, and logs it, for those who call [Middleware.Authenticate]: routers and
// frameworks whose handlers are not net/http's. Requests that it answers must
// not go on. An [*Error] decides the answer, also inside another error, and so
// does an Err variable of this package; any other error gives 500, and so does
// nil. Reject knows the scopes of no route: it names those of err.
func (m *Middleware) Reject(w http.ResponseWriter, r *http.Request, err error) {
	f := failure.New(failure.Internal, "Reject without an error")
	if err != nil {
		f = translate(err, failure.Internal, "Reject", m.sent(r)...)
	}
	m.reject(w, r, m.rejecter, rejection(f))
}

// maxSent is how many words of Authorization may be credentials. No scheme has
// as many; a field of nothing but words must not cost a search for each.
const maxSent = 64

// sent returns the credentials of a request, well formed or not. The caller may
// have put them into its error.
func (m *Middleware) sent(r *http.Request) (secrets []string) {
	defer func() { _ = recover() }() // of the extractor
	for _, value := range httpauth.Scan(r.Header).Authorization {
		for word := range strings.FieldsSeq(value) {
			if len(secrets) == maxSent {
				break
			}
			secrets = append(secrets, word)
		}
	}
	if m.extract != nil {
		token, _ := m.extract(r)
		secrets = append(secrets, token)
	}
	return secrets
}
