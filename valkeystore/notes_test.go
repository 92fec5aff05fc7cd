package valkeystore_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// collect returns a function that receives notes.
func collect(notes chan<- string) func([]byte) {
	return func(note []byte) { notes <- string(note) }
}

// Who comes to a Store that is in use gets the notes of before, also if the
// first attempt to read them fails.
//
// Catalogue: H46.
func TestNewcomerGetsTheNotesOfBeforeAfterAFailure(t *testing.T) {
	s, svc := newServer(t), newService()
	line := newProxy(t, s.addr)
	storeA, storeB := open(t, s.addr), open(t, line.addr)
	a := svc.replica(t, storeA)
	b := svc.replica(t, storeB) // it is there already
	eventually(t, "connected", 2*time.Second, func() bool { return works(storeA) && works(storeB) })
	token := svc.as.Issue(nil)
	svc.verify(t, a, token)
	s.stored(1)
	notes := make(chan string, 10)
	storeA.Receive(collect(notes))
	if err := a.Purge(); err != nil {
		t.Fatal(err)
	}
	purge := <-notes
	// As if the Purge were a minute old, and another note had come since.
	stream := "phantom:notes"
	at := time.Now().UnixMilli()
	for _, command := range [][]string{
		{"DEL", stream},
		{"XADD", stream, fmt.Sprint(at-60_000, "-0"), "n", purge},
		{"XADD", stream, fmt.Sprint(at, "-0"), "n", "another"},
	} {
		if err := s.do(command...).Error(); err != nil {
			t.Fatal(err)
		}
	}
	svc.verify(t, b, svc.as.Issue(nil)) // and B's Store has read both
	time.Sleep(time.Second)
	line.cut(true)
	c := svc.replica(t, storeB) // another Middleware, whose first read fails
	time.Sleep(2 * time.Second)
	line.cut(false)
	eventually(t, "connected", 3*time.Second, func() bool { return works(storeB) })
	before := svc.as.Introspections()
	svc.verify(t, c, token)
	svc.expect(t, "a copy from before the Purge", before+1)
}

// The stream of notes keeps those of ten minutes, and loses none that is young.
func TestNotesAreKeptForTenMinutes(t *testing.T) {
	s := newServer(t)
	store := open(t, s.addr)
	eventually(t, "connected", 2*time.Second, func() bool { return works(store) })
	at := time.Now().Add(-11 * time.Minute).UnixMilli()
	for i := range 250 { // the server drops whole nodes, of a hundred
		if err := s.do("XADD", "phantom:notes", fmt.Sprint(at, "-", i), "n", "old").Error(); err != nil {
			t.Fatal(err)
		}
	}
	for _, note := range []string{"first", "second"} {
		if err := store.Broadcast(t.Context(), []byte(note)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	left, err := s.do("XRANGE", "phantom:notes", "-", "+").AsXRange()
	if err != nil {
		t.Fatal(err)
	}
	var young []string
	for _, e := range left {
		if note := e.FieldValues["n"]; note != "old" {
			young = append(young, note)
		}
	}
	if got := strings.Join(young, " "); len(left) > 102 || got != "first second" {
		t.Errorf("%d notes, %q of them young", len(left), got)
	}
}
