package valkeystore

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/valkey-io/valkey-go"
)

const (
	notesKept = 10 * time.Minute
	block     = 300 * time.Millisecond // how long a read waits for a note
	pause     = 100 * time.Millisecond // after one that failed
	overlap   = 10 * time.Second       // that is read again after one that failed
	field     = "n"
)

func (s *Store) stream() string { return s.prefix + "notes" }

// Broadcast implements [phantom.Broadcaster].
func (s *Store) Broadcast(ctx context.Context, note []byte) error {
	client, err := s.connected(ctx)
	if err != nil {
		return err
	}
	// Counted from a note that was read. By our clock, which can be set, the
	// server might drop this very note.
	oldest := idOf(s.last.Load() - notesKept.Milliseconds())
	return client.Do(ctx, client.B().Xadd().Key(s.stream()).Minid().Almost().Threshold(oldest).
		Id("*").FieldValue().FieldValue(field, valkey.BinaryString(note)).Build()).Error()
}

// Receive implements [phantom.Broadcaster]. Until f has been called with the
// notes of before, nothing comes out of the Store.
func (s *Store) Receive(f func(note []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receivers = append(s.receivers, f)
	s.isNew = true
	s.isReady.Store(false)
	select {
	case <-s.outcome:
		s.outcome = make(chan struct{})
	default:
	}
	if s.interrupt != nil {
		s.interrupt()
	}
}

// run connects, and reads notes until Close.
func (s *Store) run() {
	defer close(s.done)
	for s.end.Err() == nil {
		client, err := valkey.NewClient(s.options)
		if err != nil {
			s.mu.Lock()
			s.settle()
			s.mu.Unlock()
			s.sleep(pause)
			continue
		}
		defer client.Close()
		s.client.Store(&client)
		s.read(client)
	}
}

func (s *Store) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.end.Done():
	}
}

// read reads notes until Close. It begins with those of the last ten minutes
// for who is new, and after a failure with those of the seconds before the last
// one: to read a note twice does no harm.
func (s *Store) read(client valkey.Client) {
	id, failed, isNew := "", true, false
	for s.end.Err() == nil {
		ctx, cancel, came := s.begin()
		isNew = isNew || came // until a read succeeds
		var err error
		if isNew || failed {
			id, err = s.position(ctx, client, isNew)
		}
		more := false
		if err == nil {
			id, more, err = s.readFrom(ctx, client, id)
		}
		cancel()
		if failed = err != nil; failed {
			if s.over(false) {
				s.sleep(pause)
			}
			continue
		}
		isNew = false
		s.last.Store(timeOf(id))
		if !more {
			s.over(true)
		}
	}
	s.isReady.Store(false)
}

// position returns the ID from which to read: for who is new, or if nothing was
// read before, that of ten minutes ago. A server that took over may have a
// clock that is behind the other's.
func (s *Store) position(ctx context.Context, client valkey.Client, isNew bool) (id string, err error) {
	now, err := client.Do(ctx, client.B().Time().Build()).AsIntSlice()
	if err != nil {
		return "", err
	}
	at, last := time.Unix(now[0], now[1]*1000).UnixMilli(), s.last.Load()
	if isNew || last == 0 {
		return idOf(at - notesKept.Milliseconds()), nil
	}
	return idOf(min(last, at) - overlap.Milliseconds()), nil
}

func idOf(ms int64) string { return strconv.FormatInt(max(ms, 0), 10) + "-0" }

// timeOf returns the time in an ID, in milliseconds.
func timeOf(id string) int64 {
	ms, _, _ := strings.Cut(id, "-")
	n, _ := strconv.ParseInt(ms, 10, 64)
	return n
}

// begin returns the context of the next read, and whether somebody is new.
func (s *Store) begin() (ctx context.Context, cancel context.CancelFunc, isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel = context.WithTimeout(s.end, block+callTimeout)
	s.interrupt = cancel
	isNew, s.isNew = s.isNew, false
	return ctx, cancel, isNew
}

// over opens the Store if all notes were read, and shuts it if a read failed.
// Who is new meanwhile keeps it shut, and needs the next read at once.
func (s *Store) over(ok bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isReady.Store(ok && !s.isNew)
	if s.isNew {
		return false
	}
	s.settle()
	return true
}

// settle lets calls go on that wait for the outcome. The caller holds mu.
func (s *Store) settle() {
	select {
	case <-s.outcome:
	default:
		close(s.outcome)
	}
}

// readFrom reads the notes after the given one and returns the ID of the last.
// It waits for one only if all others were read.
func (s *Store) readFrom(ctx context.Context, client valkey.Client, from string) (last string, more bool, err error) {
	const most = 1000
	command := client.B().Xread().Count(most).Streams().Key(s.stream()).Id(from).Build()
	if s.isReady.Load() {
		command = client.B().Xread().Count(most).Block(block.Milliseconds()).Streams().Key(s.stream()).Id(from).Build()
	}
	streams, err := client.Do(ctx, command).AsXRead()
	if err != nil && !valkey.IsValkeyNil(err) {
		return "", false, err
	}
	notes := streams[s.stream()]
	s.mu.Lock()
	receivers := s.receivers[:len(s.receivers):len(s.receivers)]
	s.mu.Unlock()
	for _, note := range notes {
		from = note.ID
		for _, receive := range receivers {
			receive([]byte(note.FieldValues[field]))
		}
	}
	return from, len(notes) == most, nil
}
