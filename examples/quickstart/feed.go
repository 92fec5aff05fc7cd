package main

import (
	"context"
	"strings"
	"sync"

	"github.com/phantom-token/phantom"
)

// A feed is what the page shows: acts, and the messages that the last of them
// caused. Those who watch it ask for what is newer than what they have seen.
type feed struct {
	mu       sync.Mutex
	acts     []act
	messages []message // of the last act
	open     bool      // the last act is still going on
	crowd    bool      // its messages are counted by kind, not shown one by one
	version  int
	changed  chan struct{} // closed at the next change
}

// An act is what a button does.
type act struct {
	ID      int    `json:"id"`
	Title   string `json:"title"`
	About   string `json:"about"`
	Outcome string `json:"outcome"` // empty until the act is over

	version int
}

// A message goes from one party to another. What a party does by itself is a
// message to itself.
type message struct {
	ID      int    `json:"id"`
	From    string `json:"from"`
	To      string `json:"to"`
	Title   string `json:"title"`
	Gist    string `json:"gist"`          // the line that matters
	Text    string `json:"text"`          // everything
	JWT     *jwt   `json:"jwt,omitempty"` // the one in it, if any
	Answer  bool   `json:"answer"`
	Refused bool   `json:"refused"`
	Count   int    `json:"count"` // how often in this act

	kind    string // equal for those that a crowd's act counts together
	version int
}

// Bounds on what is kept, for those who come later.
const (
	maxActs     = 20
	maxMessages = 200
	maxText     = 16 << 10 // of each, in bytes
)

func newFeed() *feed { return &feed{changed: make(chan struct{})} }

// begin starts an act. The picture is empty again.
func (f *feed) begin(title, about string, crowd bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.start(title, about)
	f.open, f.crowd = true, crowd
}

// end ends the act.
func (f *feed) end(outcome string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change()
	last := &f.acts[len(f.acts)-1]
	last.Outcome, last.version = outcome, f.version
	f.open, f.crowd = false, false
}

// add adds a message to the act. If none is going on, a client outside the page
// has sent it, and its request is an act of its own.
func (f *feed) add(m message) {
	for _, text := range []*string{&m.Title, &m.Gist, &m.Text, &m.kind} {
		*text = clip(*text)
	}
	if m.JWT != nil {
		m.JWT = &jwt{clip(m.JWT.Header), clip(m.JWT.Claims)}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.acts) == 0 || !f.open && m.From == atClient && !m.Answer {
		f.start(m.Title, "A client outside this page sent this.")
		f.acts[len(f.acts)-1].Outcome = "sent from outside this page."
	}
	f.change()
	if f.crowd {
		for i := range f.messages {
			if old := &f.messages[i]; old.kind == m.kind && old.From == m.From && old.Title == m.Title {
				old.Count++
				old.version = f.version
				return
			}
		}
	}
	if len(f.messages) == maxMessages {
		return
	}
	m.ID, m.Count, m.version = len(f.messages)+1, 1, f.version
	f.messages = append(f.messages, m)
}

// count returns how many messages with a title the last act has caused.
func (f *feed) count(title string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.messages {
		if m.Title == title {
			n += m.Count
		}
	}
	return n
}

// start is begin under the lock.
func (f *feed) start(title, about string) {
	f.change()
	id := 1
	if n := len(f.acts); n > 0 {
		id = f.acts[n-1].ID + 1
	}
	f.acts = append(f.acts, act{ID: id, Title: title, About: about, version: f.version})
	f.acts = f.acts[max(0, len(f.acts)-maxActs):]
	f.messages = nil
}

// change makes what comes next newer than what was.
func (f *feed) change() {
	f.version++
	close(f.changed)
	f.changed = make(chan struct{})
}

// since returns what is newer than version, which version that is, and what is
// closed as soon as there is more.
func (f *feed) since(version int) (acts []act, messages []message, now int, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.acts {
		if a.version > version {
			acts = append(acts, a)
		}
	}
	for _, m := range f.messages {
		if m.version > version {
			messages = append(messages, m)
		}
	}
	return acts, messages, f.version, f.changed
}

// trace returns what tells the feed of the gateway's decisions.
func (f *feed) trace() *phantom.Trace {
	return &phantom.Trace{Decided: func(_ context.Context, d phantom.Decision) { f.add(decided(d)) }}
}

// clip returns as much of a text as is kept.
func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "..."
}
