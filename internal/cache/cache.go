// Package cache remembers values and the word "no" for keys that are digests.
// Values are in one LRU, "no" in another, so that what is worthless cannot push
// out what is good. The cache decides nothing: the caller says how long to keep
// something, with each [Cache.Put].
//
// # Where an entry is
//
// Both LRUs are spread over shards, each with its own lock. They are the
// authority on what is kept. Beside the LRU of the values, each shard has a
// front: a hash table of the same entries, which is read without the lock. Only
// who holds the shard's lock writes it. [Cache.Get] serves a fresh entry from
// the front and leaves everything else to the shard: what is not there, what
// comes to an end, and the word "no".
//
// # What evicts
//
// One quota for all shards of a kind bounds the number of entries, exactly. A
// new entry beyond it evicts the oldest of its own shard or, if that has no
// other, of the next. Oldest is the one whose last hit is longest ago, to
// within one epoch: the time in which a sixteenth of the quota is added. The
// first hit on an entry in an epoch takes the lock and moves the entry up in
// the LRU, the others move nothing. Up to 64 entries there is no front, and
// the order is exact.
//
// # What expires
//
// Get compares an entry with both clocks, each time. Past its life a value
// serves as Stale for as long as the Config says, but never past its expiry.
// The Get that finds an entry at its end makes a tombstone of it: the value
// goes, and what stays until it is evicted shows that the key was good once. A
// clock that is set back revives nothing. The word "no" has a time of its own,
// and the Get that finds it over removes it.
//
// # What ends at once
//
// [Cache.Remove], [Cache.Purge], [Cache.PutNo], eviction, and a Put in place of
// the entry take it out of LRU and front before they return. No Get that begins
// later finds it. [Cache.RemoveIf] does so for all that were there when it
// began. A value that is Retired is found out by the very next Get. A Put that
// was overtaken by a Remove keeps nothing: it asks the caller's isValid under
// the lock.
package cache

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/phantom-token/phantom/internal/clock"
)

// A Key is a digest: its bits are evenly spread. RFC 6749 section 10.10 wants a
// token to be guessed with a probability of at most 2^-160: with this size it
// is so among millions of them.
type Key [24]byte

// The parts of a Key that find it. Only all of it tells it from others.

// short is what the LRU of the values knows of the key, to save memory.
func (k *Key) short() uint64 { return binary.LittleEndian.Uint64(k[0:]) }

// place chooses the slot in a front. It shares no bits with short, which
// chooses the shard.
func (k *Key) place() uint64 { return binary.LittleEndian.Uint64(k[8:]) }

// A Config says how a Cache works.
type Config[V any] struct {
	Size         int           // entries of each kind; 0: nothing is remembered
	RefreshAhead float64       // share of its life after which a value is due for refresh; 0: never
	Stale        time.Duration // how long a value may serve past its life if there is no better one
	Retired      func(V) bool  // whether a value became worthless before its time
}

// A Cache is safe for concurrent use.
type Cache[V any] struct {
	config Config[V]
	fronts []front[V] // of the shards
	shards []shard[V]
	epoch  atomic.Uint32
	_      [64]byte // each hit reads what is above, each new entry writes below
	values quota
	nos    quota
}

type shard[V any] struct {
	mu     sync.Mutex
	values *simplelru.LRU[uint64, *Entry[V]]
	nos    *simplelru.LRU[Key, no]
	_      [64]byte // keeps the locks of two shards off one cache line
}

// An Entry is a key and its value in a Cache. Whoever makes the value makes the
// Entry, with [NewEntry], so that a hit finds both in one allocation.
type Entry[V any] struct {
	key       Key
	tombstone bool          // the value is gone
	used      atomic.Uint32 // epoch of the last hit that took the lock
	fresh     clock.Instant // serves until then
	refreshAt atomic.Int64  // due for refresh from this monotonic time on
	value     V
	next      atomic.Pointer[Entry[V]] // in the front
	left      time.Duration            // from fresh to the expiry: never served from then on
}

// NewEntry returns an Entry for one Put.
func NewEntry[V any](k Key, value V) Entry[V] { return Entry[V]{key: k, value: value} }

// Key returns the Entry's key.
func (e *Entry[V]) Key() Key { return e.key }

// Fresh returns until when the Entry serves, once it was put.
func (e *Entry[V]) Fresh() clock.Instant { return e.fresh }

func (e *Entry[V]) expiry() clock.Instant { return e.fresh.Add(e.left) }

// buried returns the tombstone of the Entry.
func (e *Entry[V]) buried() *Entry[V] {
	return &Entry[V]{key: e.key, tombstone: true, fresh: e.fresh, left: e.left}
}

// A no is the reason why there is no value.
type no struct {
	why   error
	until clock.Instant
}

// A quota bounds the entries of all shards together. If each shard had its own
// bound, one would run over while others have room.
type quota struct {
	limit int64
	count atomic.Int64
	added atomic.Int64 // ever

	evicted atomic.Uint64 // that were fresh
}

// maxExact is the largest size at which the order of eviction is exact.
const maxExact = 64

// epochs is how many of them it takes to replace all entries.
const epochs = 16

// New returns an empty Cache.
func New[V any](config Config[V]) *Cache[V] {
	c := &Cache[V]{config: config}
	if config.Size <= 0 {
		return c
	}
	c.values.limit, c.nos.limit = int64(config.Size), int64(config.Size)
	n := 1
	for n < 8*runtime.GOMAXPROCS(0) && n*maxExact < config.Size {
		n *= 2
	}
	c.shards, c.fronts = make([]shard[V], n), make([]front[V], n)
	for i := range c.shards {
		s, f := &c.shards[i], &c.fronts[i]
		if config.Size > maxExact {
			f.clear()
		}
		// Only the quota evicts, so that its count is right. NewLRU fails only
		// for sizes below 1.
		s.values, _ = simplelru.NewLRU(math.MaxInt, func(_ uint64, e *Entry[V]) {
			c.values.count.Add(-1)
			f.remove(e)
		})
		s.nos, _ = simplelru.NewLRU(math.MaxInt, func(Key, no) { c.nos.count.Add(-1) })
	}
	return c
}

// index relies on the number of shards being a power of two.
func (c *Cache[V]) index(k *Key) int { return int(k.short()) & (len(c.shards) - 1) }

// A State is what a Cache knows of a key.
type State uint8

// The states. Only Fresh and Stale come with a value.
const (
	Unknown State = iota // nothing, or a tombstone
	Fresh
	Stale // past its life: serves only while there is no better value
	No
)

// A Finding is what [Cache.Get] found.
type Finding[V any] struct {
	Value   V
	State   State
	Why     error // the reason of a No
	Refresh bool  // Fresh, and this caller is the one to refresh the entry
	WasGood bool  // there is or was a value
}

// Get looks the key up.
func (c *Cache[V]) Get(k *Key, now clock.Instant) Finding[V] {
	if c.shards == nil {
		return Finding[V]{}
	}
	e := c.fronts[c.index(k)].find(k)
	if e == nil || e.used.Load() != c.epoch.Load() || now.Reached(e.fresh) || c.config.Retired(e.value) {
		return c.getLocked(k, now)
	}
	return Finding[V]{Value: e.value, State: Fresh, Refresh: e.claim(now), WasGood: true}
}

// claim reports whether the caller is the one to refresh the Entry.
func (e *Entry[V]) claim(now clock.Instant) bool {
	at := e.refreshAt.Load()
	return now.Mono >= at && e.refreshAt.CompareAndSwap(at, math.MaxInt64)
}

func (c *Cache[V]) getLocked(k *Key, now clock.Instant) Finding[V] {
	s := &c.shards[c.index(k)]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e != nil {
		s.values.Get(k.short()) // moves it up
	}
	if e != nil && !e.tombstone {
		switch {
		case c.config.Retired(e.value):
		case !now.Reached(e.fresh):
			e.used.Store(c.epoch.Load())
			return Finding[V]{Value: e.value, State: Fresh, Refresh: e.claim(now), WasGood: true}
		case !now.Reached(e.expiry()) && !now.Reached(e.fresh.Add(c.config.Stale)):
			return Finding[V]{Value: e.value, State: Stale, WasGood: true}
		}
		c.set(e.buried())
	}
	if n, ok := s.nos.Get(*k); ok {
		if !now.Reached(n.until) {
			return Finding[V]{State: No, Why: n.why}
		}
		s.nos.Remove(*k)
	}
	return Finding[V]{WasGood: e != nil}
}

// find returns the Entry of the key, if there is one.
func (s *shard[V]) find(k *Key) *Entry[V] {
	if e, ok := s.values.Peek(k.short()); ok && e.key == *k {
		return e
	}
	return nil
}

// set puts the Entry into LRU and front, in place of the one that is there. It
// is called under the shard's lock.
func (c *Cache[V]) set(e *Entry[V]) {
	i := c.index(&e.key)
	values, f := c.shards[i].values, &c.fronts[i]
	if before, ok := values.Peek(e.key.short()); ok {
		f.remove(before) // another key's, if the short ones are equal
	} else {
		c.values.count.Add(1)
		if added := c.values.added.Add(1); added%max(c.values.limit/epochs, 1) == 0 {
			c.epoch.Add(1)
		}
	}
	e.used.Store(c.epoch.Load())
	values.Add(e.key.short(), e)
	if !e.tombstone {
		f.add(e, values.Len())
	}
}

// A Life is how long a value may be remembered, from when it was asked for.
type Life struct {
	asked  clock.Instant
	ttl    time.Duration // it serves so long; at most expiry
	expiry time.Duration // it never serves beyond, not even in an outage
}

// NewLife returns the life of a value that was asked for at the given time: the
// least of the bounds and of the time left until the expiry.
func NewLife(asked clock.Instant, expiry time.Time, bounds ...time.Duration) Life {
	left := expiry.Sub(time.Unix(0, asked.Wall)) // saturates
	return Life{asked: asked, ttl: min(left, slices.Min(bounds)), expiry: left}
}

// End returns when the life is over, at the latest.
func (l Life) End() clock.Instant { return l.asked.Add(l.ttl) }

// Outlives reports whether the life ends so much later than an Entry that was
// put before that the two cannot have begun with one question: an Entry serves
// up to an eighth less than its life.
func (l Life) Outlives(fresh clock.Instant) bool {
	return l.End().Mono > fresh.Add(l.ttl/8+l.ttl/64).Mono
}

// Put remembers the Entry, which is the Cache's from then on, if isValid still
// says so under the lock under which [Cache.Remove] works. If the value's life
// is over, Put leaves a tombstone: the key is good, and what was remembered
// before is older than what may not be kept.
func (c *Cache[V]) Put(e *Entry[V], life Life, isValid func() bool) {
	if c.shards == nil {
		return
	}
	if c.put(e, life, isValid) {
		evict(c, &c.values, &e.key, func(s *shard[V]) *simplelru.LRU[uint64, *Entry[V]] { return s.values },
			func(e *Entry[V]) bool { return !e.tombstone && !life.asked.Reached(e.fresh) })
	}
}

func (c *Cache[V]) put(e *Entry[V], life Life, isValid func() bool) (stored bool) {
	s := &c.shards[c.index(&e.key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.find(&e.key)
	if !isValid() {
		if life.ttl <= 0 && before != nil {
			s.values.Remove(e.key.short())
		}
		return false
	}
	ttl := max(life.ttl, 0)
	e.refreshAt.Store(math.MaxInt64)
	// If an entry's life ends with its expiry, and a refresh does not move that
	// expiry, the entry is left to run out. Otherwise it would be refreshed at
	// ever shorter intervals.
	if before == nil || ttl < life.expiry || life.asked.Add(life.expiry).Wall > before.expiry().Wall {
		// Up to an eighth less, so that a crowd does not expire at once.
		ttl -= time.Duration(rand.Int64N(int64(ttl)/8 + 1))
		if c.config.RefreshAhead > 0 {
			e.refreshAt.Store(life.asked.Add(time.Duration(float64(ttl) * c.config.RefreshAhead)).Mono)
		}
	}
	e.fresh = life.asked.Add(ttl)
	e.left = life.expiry - ttl
	if life.ttl <= 0 {
		c.set(e.buried())
	} else {
		c.set(e)
	}
	s.nos.Remove(e.key)
	return true
}

// PutNo forgets the key's value. It remembers "no" in its place, if isValid
// still says so, as for [Cache.Put].
func (c *Cache[V]) PutNo(k *Key, why error, until clock.Instant, isValid func() bool) {
	if c.shards == nil {
		return
	}
	if c.putNo(k, no{why, until}, isValid) {
		evict(c, &c.nos, k, func(s *shard[V]) *simplelru.LRU[Key, no] { return s.nos }, func(no) bool { return false })
	}
}

func (c *Cache[V]) putNo(k *Key, n no, isValid func() bool) (stored bool) {
	s := &c.shards[c.index(k)]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeValue(k)
	if !isValid() {
		return false
	}
	if !s.nos.Contains(*k) {
		c.nos.count.Add(1)
	}
	s.nos.Add(*k, n)
	return true
}

// evict removes entries until the quota is kept: the oldest of the shard that
// just grew and, if it has no others, those of the next shards.
// Those that were fresh are counted.
func evict[V any, K comparable, E any](
	c *Cache[V], q *quota, k *Key, of func(*shard[V]) *simplelru.LRU[K, E], fresh func(E) bool,
) {
	first, keep := c.index(k), 1 // not the entry that was just made
	for i := 0; q.count.Load() > q.limit && i < len(c.shards); i, keep = i+1, 0 {
		s := &c.shards[(first+i)%len(c.shards)]
		s.mu.Lock()
		for of(s).Len() > keep && q.count.Load() > q.limit {
			if _, e, ok := of(s).RemoveOldest(); ok && fresh(e) {
				q.evicted.Add(1)
			}
		}
		s.mu.Unlock()
	}
}
