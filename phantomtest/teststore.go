package phantomtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// TestStore tests that an engine keeps the contract of [phantom.Store] and, if
// it is one, of [phantom.Broadcaster]. Each call of open returns the Store of
// another replica, on the same engine, which need not be empty and may still be
// connecting. The test takes a few seconds, unless it runs in a bubble of
// [testing/synctest].
func TestStore(t *testing.T, open func() phantom.Store) {
	t.Helper()
	s := storeTest{t, t.Context(), []phantom.Store{open(), open()}}
	for _, store := range s.stores {
		s.connect(store)
	}
	s.values()
	s.expiry()
	s.drop()
	s.ends()
	s.concurrency()
	if _, ok := s.stores[0].(phantom.Broadcaster); ok {
		s.notes(open)
	}
}

type storeTest struct {
	t      *testing.T
	ctx    context.Context
	stores []phantom.Store
}

// newKey returns a key of the form that a Middleware uses.
func newKey() string { return (rand.Text() + rand.Text())[:32] }

// connect waits until the Store works.
func (s *storeTest) connect(store phantom.Store) {
	s.t.Helper()
	var err error
	for range 100 {
		if _, _, err = store.Get(s.ctx, newKey()); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatalf("the Store does not connect: %v", err)
}

// want checks what both Stores have under a key.
func (s *storeTest) want(what, key string, want []byte, most time.Duration) {
	s.t.Helper()
	for _, store := range s.stores {
		got, left, err := store.Get(s.ctx, key)
		switch {
		case err != nil:
			s.t.Errorf("%s: Get: %v", what, err)
		case !bytes.Equal(got, want) || (got == nil) != (want == nil):
			s.t.Errorf("%s: Get returns %d bytes, want %d", what, len(got), len(want))
		case want != nil && (left <= 0 || left > most):
			s.t.Errorf("%s: %v left of %v", what, left, most)
		}
	}
}

func (s *storeTest) set(what, key string, value []byte, ttl time.Duration) {
	s.t.Helper()
	if err := s.stores[0].Set(s.ctx, key, value, ttl); err != nil {
		s.t.Errorf("%s: Set: %v", what, err)
	}
}

func (s *storeTest) values() {
	s.t.Helper()
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for _, value := range [][]byte{{0}, every, bytes.Repeat(every, 400), make([]byte, 1<<20)} {
		key := newKey()
		s.want("no value", key, nil, 0)
		s.set("a value", key, value, time.Minute)
		s.want("a value", key, value, time.Minute)
		s.set("another value", key, every, time.Hour)
		s.want("another value", key, every, time.Hour)
	}
	key, value := newKey(), []byte("value")
	s.set("a value", key, value, time.Minute)
	value[0] = 'V'
	got, _, _ := s.stores[0].Get(s.ctx, key)
	if len(got) > 0 {
		got[0] = 'X'
	}
	s.want("a value that its callers change", key, []byte("value"), time.Minute)
}

func (s *storeTest) expiry() {
	s.t.Helper()
	key, value := newKey(), []byte("value")
	s.set("a second", key, value, time.Second)
	time.Sleep(300 * time.Millisecond)
	s.want("after 300 ms", key, value, 750*time.Millisecond)
	time.Sleep(900 * time.Millisecond)
	s.want("after 1.2 s", key, nil, 0)
}

func (s *storeTest) drop() {
	s.t.Helper()
	key, value := newKey(), []byte("value")
	s.set("a value", key, value, time.Minute)
	if err := s.stores[1].Drop(s.ctx, key, time.Second); err != nil {
		s.t.Errorf("Drop: %v", err)
	}
	s.want("after Drop", key, nil, 0)
	s.set("while it is held", key, value, time.Minute)
	s.want("while it is held", key, nil, 0)
	time.Sleep(1200 * time.Millisecond)
	s.want("after the hold", key, nil, 0)
	s.set("after the hold", key, value, time.Minute)
	s.want("set after the hold", key, value, time.Minute)
	if err := s.stores[0].Drop(s.ctx, newKey(), time.Second); err != nil {
		s.t.Errorf("Drop of nothing: %v", err)
	}
}

// ends checks that calls end with their context.
func (s *storeTest) ends() {
	s.t.Helper()
	ended, cancel := context.WithCancel(s.ctx)
	cancel()
	start := time.Now()
	_, _, err := s.stores[0].Get(ended, newKey())
	if err == nil || time.Since(start) > time.Second {
		s.t.Errorf("a call whose context has ended: %v, after %v", err, time.Since(start))
	}
	s.want("afterwards", newKey(), nil, 0)
}

func (s *storeTest) concurrency() {
	s.t.Helper()
	keys := []string{newKey(), newKey()}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 50 {
				store, n := s.stores[(i+j)%2], (i+j)%len(keys)
				if err := store.Set(s.ctx, keys[n], []byte(keys[n]), time.Minute); err != nil {
					s.t.Errorf("Set among others: %v", err)
				}
				if got, _, err := store.Get(s.ctx, keys[n]); err != nil || string(got) != keys[n] {
					s.t.Errorf("Get among others: %q, %v", got, err)
				}
			}
		})
	}
	all.Wait()
}

func (s *storeTest) notes(open func() phantom.Store) {
	s.t.Helper()
	var received [3]inbox
	for i, store := range s.stores {
		store.(phantom.Broadcaster).Receive(received[i].receive)
	}
	var sent [][]byte
	for i := range 20 {
		note := append([]byte{0, byte(i), 255, '\r', '\n'}, rand.Text()...)
		sent = append(sent, note)
		store := s.stores[i%2].(phantom.Broadcaster)
		err := store.Broadcast(s.ctx, note)
		for range 100 { // while those who receive have yet to connect
			if err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
			err = store.Broadcast(s.ctx, note)
		}
		if err != nil {
			s.t.Errorf("Broadcast: %v", err)
		}
	}
	late := open()
	late.(phantom.Broadcaster).Receive(received[2].receive)
	s.connect(late)
	for i, who := range []string{"the first replica", "the second replica", "one that came late"} {
		for _, note := range sent {
			if !received[i].has(note) {
				s.t.Errorf("%s did not get a note", who)
				break
			}
		}
	}
}

// An inbox keeps notes.
type inbox struct {
	mu    sync.Mutex
	notes [][]byte
}

func (i *inbox) receive(note []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.notes = append(i.notes, bytes.Clone(note))
}

// has waits for a note.
func (i *inbox) has(note []byte) bool {
	for range 100 {
		i.mu.Lock()
		found := slices.ContainsFunc(i.notes, func(n []byte) bool { return bytes.Equal(n, note) })
		i.mu.Unlock()
		if found {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}
