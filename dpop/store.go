package dpop

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

// A ReplayStore remembers which proofs were used, for all replicas of a fleet.
type ReplayStore interface {
	// Add remembers key until then, that moment included, and says whether it
	// was new, in one atomic step: of two calls with one key, one is fresh. key
	// is a hash of the proof's key and jti, and tells nothing of either. until
	// is by the clock of this process, and has the leeway ([WithLeeway]) by
	// which that of another replica may differ. ctx is the request's; Add must
	// come back when it ends. An error refuses the request with 503. Add is
	// called by many goroutines at once.
	Add(ctx context.Context, key [32]byte, until time.Time) (fresh bool, err error)
}

// Why the memory cannot tell whether a proof is new.
var (
	errFull      = errors.New("full")
	errKeyFull   = errors.New("full for one key")
	errClockBack = errors.New("the clock was set back")
)

// A memory is what a process remembers of proofs. It evicts nothing: an entry
// leaves when it expires. Nothing happens between two calls.
type memory struct {
	capacity, share int // of all, of one thumbprint

	mu    sync.Mutex
	seen  map[[32]byte]struct{}
	count map[[32]byte]int // entries by thumbprint
	// due has the entries by the time until which they are good, which has few
	// values: iat, which is in seconds, and what New added to it.
	due       map[int64][]entry
	next      int64 // the first of due, or earlier
	forgotten int64 // the last that left due
}

type entry struct{ key, thumbprint [32]byte }

func newMemory(capacity int) *memory {
	m := &memory{
		capacity: capacity, share: capacity / 4,
		due: map[int64][]entry{}, next: math.MaxInt64, forgotten: math.MinInt64,
	}
	m.empty()
	return m
}

// empty makes new maps, since a map never gives memory back.
func (m *memory) empty() {
	m.seen, m.count = map[[32]byte]struct{}{}, map[[32]byte]int{}
}

// add is [ReplayStore.Add] for the key of a thumbprint.
func (m *memory) add(thumbprint string, key [32]byte, until time.Time) (fresh bool, err error) {
	e := entry{key: key}
	if _, err := base64URL.Decode(e.thumbprint[:], []byte(thumbprint)); err != nil {
		return false, err // cannot happen: we made it
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now, end := time.Now().UnixNano(), until.UnixNano()
	m.expire(now)
	_, known := m.seen[key]
	switch {
	case known, end < now: // what is over may have been here
		return false, nil
	case end <= m.forgotten:
		return false, errClockBack // and so may this
	case len(m.seen) >= m.capacity:
		return false, errFull
	case m.count[e.thumbprint] >= m.share:
		return false, errKeyFull
	}
	m.seen[key] = struct{}{}
	m.count[e.thumbprint]++
	m.due[end] = append(m.due[end], e)
	m.next = min(m.next, end)
	return true, nil
}

// expire forgets the entries that were good until a time before now.
func (m *memory) expire(now int64) {
	if now <= m.next {
		return
	}
	m.next = math.MaxInt64
	for end, entries := range m.due {
		if end >= now {
			m.next = min(m.next, end)
			continue
		}
		for _, e := range entries {
			delete(m.seen, e.key)
			if m.count[e.thumbprint]--; m.count[e.thumbprint] == 0 {
				delete(m.count, e.thumbprint)
			}
		}
		delete(m.due, end)
		m.forgotten = max(m.forgotten, end)
	}
	if len(m.seen) == 0 {
		m.empty()
	}
}
