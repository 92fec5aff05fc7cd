// Package guard keeps an error handler from undoing a rejection: from answering
// with success, losing the challenge, or taking over the connection.
package guard

import (
	"net/http"
	"slices"
	"time"
)

// A Writer is what an error handler writes to. It remembers whether anything
// was written and makes sure that the answer is a rejection. It has no Unwrap,
// because the writer inside can be hijacked.
type Writer struct {
	http.ResponseWriter
	status   int
	fields   http.Header // as they were before the handler ran
	answered bool
}

// New returns a Writer for a rejection whose header is set already. The status
// is that of an answer that comes without one, or with that of a success.
func New(w http.ResponseWriter, status int) *Writer {
	return &Writer{ResponseWriter: w, status: status, fields: w.Header().Clone()}
}

// IsWritten reports whether the answer has begun.
func (g *Writer) IsWritten() bool { return g.answered }

// WriteHeader sends the header. What the handler took out of it is back.
func (g *Writer) WriteHeader(status int) {
	// net/http panics on a status that is none: then nothing has been answered.
	final := status >= http.StatusOK && status <= 999 || status == http.StatusSwitchingProtocols
	if final && !g.answered {
		g.answered = true
		if status < http.StatusMultipleChoices || status == http.StatusNotModified {
			status = g.status
		}
		h := g.Header()
		if challenges := g.fields["Www-Authenticate"]; len(challenges) > 0 {
			added := h["Www-Authenticate"]
			h["Www-Authenticate"] = challenges
			AddChallenges(h, added)
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

// Write sends the header first, if that has not happened.
func (g *Writer) Write(p []byte) (int, error) {
	if !g.answered {
		g.WriteHeader(g.status)
	}
	return g.ResponseWriter.Write(p)
}

// FlushError keeps a flush before the first write from sending status 200.
func (g *Writer) FlushError() error {
	if !g.answered {
		g.WriteHeader(g.status)
	}
	return g.controller().Flush()
}

func (g *Writer) controller() *http.ResponseController {
	return http.NewResponseController(g.ResponseWriter)
}

// SetReadDeadline serves [http.ResponseController].
func (g *Writer) SetReadDeadline(t time.Time) error { return g.controller().SetReadDeadline(t) }

// SetWriteDeadline serves it too.
func (g *Writer) SetWriteDeadline(t time.Time) error { return g.controller().SetWriteDeadline(t) }

// EnableFullDuplex serves it too.
func (g *Writer) EnableFullDuplex() error { return g.controller().EnableFullDuplex() }

// AddChallenges puts the challenges that an error handler added behind ours.
func AddChallenges(h http.Header, added []string) {
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
