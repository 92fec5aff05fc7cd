package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Any page in the browser can send the gateway large requests: what is kept of
// them is bounded.
func TestFeedKeepsNoLargeTexts(t *testing.T) {
	large := strings.Repeat("é", 1<<20)
	f := newFeed()
	for range 2 * maxMessages {
		f.add(message{
			From: atClient, Title: large, Gist: large, Text: large, kind: large, JWT: &jwt{Header: large, Claims: large},
		})
		f.add(message{From: atClient, Answer: true, Title: large, Text: large})
	}
	acts, messages, _, _ := f.since(0)
	size := 0
	for _, a := range acts {
		size += len(a.Title)
	}
	for _, m := range messages {
		size += len(m.Title) + len(m.Gist) + len(m.Text) + len(m.kind)
		if m.JWT != nil {
			size += len(m.JWT.Header) + len(m.JWT.Claims)
		}
	}
	if size > 10*maxText*(maxActs+2) {
		t.Errorf("%d bytes are kept", size)
	}
	for _, m := range messages {
		if strings.Contains(m.Text, "\uFFFD") || !strings.HasSuffix(m.Text, "é...") {
			t.Error("a text is cut within a letter")
		}
	}
}

// A browser that does not read its events does not hold them up for ever.
func TestEventsGiveUpOnABrowserThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &deadlined{ResponseWriter: httptest.NewRecorder()}
		began := time.Now()
		if err := tell(w, update{}); err != nil {
			t.Fatal(err)
		}
		if left := w.until.Sub(began); left <= 0 || left > time.Minute {
			t.Errorf("a write may take %v", left)
		}
	})
}

// A deadlined ResponseWriter keeps the deadline that was set.
type deadlined struct {
	http.ResponseWriter

	until time.Time
}

func (d *deadlined) SetWriteDeadline(until time.Time) error {
	d.until = until
	return nil
}

func (d *deadlined) FlushError() error { return nil }
