package phantomtest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/phantom-token/phantom"
)

// A Store is a [phantom.Broadcaster] in memory, for tests of services with
// several replicas: give one Store to several Middlewares. Inside a bubble of
// [testing/synctest] its times are the bubble's. Make one with [NewStore]. Its
// methods may be called concurrently.
type Store struct {
	mu        sync.Mutex
	entries   map[string]storeEntry
	notes     []storeNote
	receivers []func(note []byte)
	failures  int
	delay     time.Duration
}

var _ phantom.Broadcaster = (*Store)(nil)

type storeEntry struct {
	value []byte // nil: the key was dropped
	until time.Time
}

type storeNote struct {
	note []byte
	sent time.Time
}

// notesKept is how long a Store keeps notes for those who come later.
const notesKept = 10 * time.Minute

// NewStore returns an empty Store.
func NewStore() *Store { return &Store{entries: map[string]storeEntry{}} }

// Get implements [phantom.Store].
func (s *Store) Get(ctx context.Context, key string) (value []byte, left time.Duration, err error) {
	err = s.do(ctx, func(now time.Time) {
		if e, ok := s.entries[key]; ok && e.value != nil && now.Before(e.until) {
			value, left = bytes.Clone(e.value), e.until.Sub(now)
		}
	})
	return value, left, err
}

// Set implements [phantom.Store].
func (s *Store) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	value = append([]byte{}, value...)
	return s.do(ctx, func(now time.Time) {
		if e, ok := s.entries[key]; ok && e.value == nil && now.Before(e.until) {
			return // it is held
		}
		s.entries[key] = storeEntry{value, now.Add(ttl)}
	})
}

// Drop implements [phantom.Store].
func (s *Store) Drop(ctx context.Context, key string, hold time.Duration) error {
	return s.do(ctx, func(now time.Time) { s.entries[key] = storeEntry{nil, now.Add(hold)} })
}

// Broadcast implements [phantom.Broadcaster]. When it returns, all who receive
// have the note.
func (s *Store) Broadcast(ctx context.Context, note []byte) error {
	var receivers []func([]byte)
	note = bytes.Clone(note)
	err := s.do(ctx, func(now time.Time) {
		s.notes = slices.DeleteFunc(s.notes, func(n storeNote) bool { return now.Sub(n.sent) > notesKept })
		s.notes = append(s.notes, storeNote{note, now})
		receivers = slices.Clone(s.receivers)
	})
	for _, receive := range receivers {
		receive(bytes.Clone(note))
	}
	return err
}

// Receive implements [phantom.Broadcaster].
func (s *Store) Receive(f func(note []byte)) {
	s.mu.Lock()
	s.receivers = append(s.receivers, f)
	notes := slices.Clone(s.notes)
	s.mu.Unlock()
	for _, n := range notes {
		if time.Since(n.sent) <= notesKept {
			f(bytes.Clone(n.note))
		}
	}
}

var errStore = errors.New("phantomtest: the Store was told to fail")

// do has f act on the Store, once the delay is over, unless the Store fails.
func (s *Store) do(ctx context.Context, f func(now time.Time)) error {
	s.mu.Lock()
	delay := s.delay
	s.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures != 0 {
		s.failures--
		return errStore
	}
	f(time.Now())
	return nil
}

// Fail lets the next n calls fail, and with a negative n all, until it is
// called again.
func (s *Store) Fail(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = n
}

// Delay lets each call take so long, or until its context ends.
func (s *Store) Delay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// Values returns copies of all values that are kept now, in no order.
func (s *Store) Values() (values [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, e := range s.entries {
		if e.value != nil && now.Before(e.until) {
			values = append(values, bytes.Clone(e.value))
		}
	}
	return values
}
