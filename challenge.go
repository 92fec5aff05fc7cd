package phantom

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
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
}

// reject answers a request that is not let through. It returns what the client
// was told: e, or another Error if the error handler panicked.
func (j *rejecter) reject(w http.ResponseWriter, r *http.Request, e *Error) (told *Error) {
	told = j.answer(w, r, e)
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
func (j *rejecter) answer(w http.ResponseWriter, r *http.Request, e *Error) (told *Error) {
	j.setHeader(w.Header(), r, e)
	if j.handler == nil {
		writeProblem(w, r, e)
		return e
	}
	guard := &answerGuard{ResponseWriter: w, status: e.StatusCode(), fields: w.Header().Clone()}
	defer func() {
		p := recover()
		if !guard.answered && p != http.ErrAbortHandler {
			added := w.Header()["Www-Authenticate"]
			if p != nil {
				told, p, added = rejection(failure.FromPanic(p)), nil, nil
			}
			j.setHeader(w.Header(), r, told)
			addChallenges(w.Header(), added)
			writeProblem(w, r, told)
		}
		if p != nil {
			panic(p)
		}
	}()
	told = e
	j.handler(guard, r, e.clone())
	return told
}

// setHeader sets what every rejection carries. It removes what an outer handler
// may have said about an answer that is not sent now. It leaves
// Content-Encoding, which belongs to an outer handler that compresses.
func (j *rejecter) setHeader(h http.Header, r *http.Request, e *Error) {
	for _, name := range []string{
		"Content-Length", "Etag", "Last-Modified", "Expires", "Accept-Ranges", "Www-Authenticate", "Retry-After",
	} {
		h.Del(name)
	}
	h.Set("Cache-Control", "no-store")
	if mayBeUnread(r) && r.ProtoMajor == 1 {
		// Otherwise the server reads the body before it sends the answer, and
		// waits for a client that never sends it.
		h.Set("Connection", "close")
	}
	switch k := e.kind(); k.status {
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.FormatInt(retrySeconds(e.RetryAfter), 10))
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		h.Set("Www-Authenticate", j.challenge(k, e))
	}
}

// addChallenges puts the challenges that an error handler added behind ours.
func addChallenges(h http.Header, added []string) {
	ours := h["Www-Authenticate"]
	for _, challenge := range added {
		if len(ours) > 0 && challenge != "" && !slices.Contains(ours, challenge) {
			ours = append(slices.Clip(ours), challenge)
		}
	}
	if len(ours) > 0 {
		h["Www-Authenticate"] = ours
	}
}

// retrySeconds rounds up to whole seconds from 1 to 30 (RFC 9110 section
// 10.2.3).
func retrySeconds(d time.Duration) int64 {
	d = min(max(d, time.Second), httpcache.MaxRetryAfter)
	return int64((d + time.Second - 1) / time.Second)
}

// challenge renders the one challenge of a rejection (RFC 6750 section 3).
func (j *rejecter) challenge(k kind, e *Error) string {
	c := httpauth.NewChallenge(httpauth.Bearer)
	c.Add("realm", j.realm)
	if k.code != "" {
		if httpauth.IsErrorText(k.code) {
			c.Add("error", k.code)
		}
		if scopes := scopeTokens(e.Scopes); len(scopes) > 0 {
			c.Add("scope", strings.Join(scopes, " "))
		}
		if k.code == "invalid_request" { // the other codes speak for themselves
			c.Add("error_description", k.text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Params)) {
		switch lower := strings.ToLower(name); lower {
		case "realm", "error", "error_description", "scope", "resource_metadata":
		default:
			c.Add(lower, e.Params[name])
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

// writeProblem writes the default body (RFC 9457). It is made of constants, so
// it echoes nothing.
func writeProblem(w http.ResponseWriter, r *http.Request, e *Error) {
	k := e.kind()
	body, _ := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(k.status), k.status, k.text}) // strings and an int always encode
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(k.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may be gone
	}
}

// answerGuard is the writer that an ErrorHandler gets. It remembers whether
// anything was written and makes sure that the answer is a rejection. It has no
// Unwrap, because the writer inside can be hijacked.
type answerGuard struct {
	http.ResponseWriter
	status   int
	fields   http.Header // as they were before the handler ran
	answered bool
}

func (g *answerGuard) WriteHeader(status int) {
	final := status >= http.StatusOK || status == http.StatusSwitchingProtocols
	if final && !g.answered {
		g.answered = true
		if status < http.StatusMultipleChoices || status == http.StatusNotModified {
			status = g.status
		}
		h := g.Header()
		if challenges := g.fields["Www-Authenticate"]; len(challenges) > 0 {
			added := h["Www-Authenticate"]
			h["Www-Authenticate"] = challenges
			addChallenges(h, added)
		}
		if h.Get("Retry-After") == "" && len(g.fields["Retry-After"]) > 0 {
			h["Retry-After"] = g.fields["Retry-After"]
		}
		if g.fields.Get("Connection") == "close" {
			h.Set("Connection", "close")
		}
		h["Cache-Control"] = g.fields["Cache-Control"]
	}
	g.ResponseWriter.WriteHeader(status)
}

func (g *answerGuard) Write(p []byte) (int, error) {
	if !g.answered {
		g.WriteHeader(g.status)
	}
	return g.ResponseWriter.Write(p)
}

// FlushError keeps a flush before the first write from sending status 200.
func (g *answerGuard) FlushError() error {
	if !g.answered {
		g.WriteHeader(g.status)
	}
	return g.controller().Flush()
}

func (g *answerGuard) controller() *http.ResponseController {
	return http.NewResponseController(g.ResponseWriter)
}

// SetReadDeadline and the methods after it serve [http.ResponseController].
func (g *answerGuard) SetReadDeadline(t time.Time) error { return g.controller().SetReadDeadline(t) }

func (g *answerGuard) SetWriteDeadline(t time.Time) error { return g.controller().SetWriteDeadline(t) }

func (g *answerGuard) EnableFullDuplex() error { return g.controller().EnableFullDuplex() }
