// Package cache remembers values and the word "no" for keys that are digests.
// Values are in one LRU, "no" in another, so that what is worthless cannot push
// out what is good. The cache decides nothing: the caller says how long to keep
// something, with each [Cache.Put].
//
// Both LRUs are spread over shards, each with its own lock. One quota for all
// shards of a kind bounds the number of entries.
//
// An entry whose life is over stays as a tombstone, without its value, until it
// is evicted. A tombstone shows that the key was good once.
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

// A Key is a digest: its bits are evenly spread.
type Key [32]byte

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
	shards []shard[V]
	values quota
	nos    quota
}

type shard[V any] struct {
	mu     sync.Mutex
	values *simplelru.LRU[Key, entry[V]]
	nos    *simplelru.LRU[Key, no]
	_      [64]byte // keeps the locks of two shards off one cache line
}

type entry[V any] struct {
	value     V
	tombstone bool          // the value is gone
	fresh     clock.Instant // serves until then
	refreshAt int64         // due for refresh from this monotonic time on
	expiry    clock.Instant // never served from then on
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
}

// New returns an empty Cache.
func New[V any](config Config[V]) *Cache[V] {
	c := &Cache[V]{config: config}
	if config.Size <= 0 {
		return c
	}
	c.values.limit, c.nos.limit = int64(config.Size), int64(config.Size)
	n := 1
	for n < 8*runtime.GOMAXPROCS(0) && n*64 < config.Size {
		n *= 2
	}
	c.shards = make([]shard[V], n)
	for i := range c.shards {
		// Only the quota evicts, so that its count is right. NewLRU fails only
		// for sizes below 1.
		c.shards[i].values, _ = simplelru.NewLRU[Key, entry[V]](math.MaxInt, nil)
		c.shards[i].nos, _ = simplelru.NewLRU[Key, no](math.MaxInt, nil)
	}
	return c
}

func (c *Cache[V]) shard(k Key) *shard[V] { return &c.shards[c.index(k)] }

// index relies on the number of shards being a power of two.
func (c *Cache[V]) index(k Key) int {
	return int(binary.LittleEndian.Uint32(k[:])) & (len(c.shards) - 1)
}

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
func (c *Cache[V]) Get(k Key, now clock.Instant) Finding[V] {
	if c.shards == nil {
		return Finding[V]{}
	}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, found := s.values.Get(k)
	if found && !e.tombstone {
		switch {
		case c.config.Retired(e.value):
		case !now.Reached(e.fresh):
			refresh := now.Mono >= e.refreshAt
			if refresh {
				e.refreshAt = math.MaxInt64 // once
				s.values.Add(k, e)
			}
			return Finding[V]{Value: e.value, State: Fresh, Refresh: refresh, WasGood: true}
		case !now.Reached(e.expiry) && !now.Reached(e.fresh.Add(c.config.Stale)):
			return Finding[V]{Value: e.value, State: Stale, WasGood: true}
		}
		s.values.Add(k, entry[V]{tombstone: true, expiry: e.expiry})
	}
	if n, ok := s.nos.Get(k); ok {
		if !now.Reached(n.until) {
			return Finding[V]{State: No, Why: n.why}
		}
		s.nos.Remove(k)
		c.nos.count.Add(-1)
	}
	return Finding[V]{WasGood: found}
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

// Put remembers a value, if isValid still says so under the lock under which
// [Cache.Remove] works. If the value's life is over, Put leaves a tombstone:
// the key is good, and what was remembered before is older than what may not be
// kept.
func (c *Cache[V]) Put(k Key, value V, life Life, isValid func() bool) {
	if c.shards == nil {
		return
	}
	if c.put(k, value, life, isValid) {
		evict(c, &c.values, k, func(s *shard[V]) *simplelru.LRU[Key, entry[V]] { return s.values })
	}
}

func (c *Cache[V]) put(k Key, value V, life Life, isValid func() bool) (stored bool) {
	e := entry[V]{value: value, refreshAt: math.MaxInt64, expiry: life.asked.Add(life.expiry)}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !isValid() {
		if life.ttl <= 0 && s.values.Remove(k) {
			c.values.count.Add(-1)
		}
		return false
	}
	if life.ttl <= 0 {
		e = entry[V]{tombstone: true, expiry: e.expiry}
	}
	before, found := s.values.Peek(k)
	if !found {
		c.values.count.Add(1)
	}
	ttl := max(life.ttl, 0)
	// If an entry's life ends with its expiry, and a refresh does not move that
	// expiry, the entry is left to run out. Otherwise it would be refreshed at
	// ever shorter intervals.
	if !found || ttl < life.expiry || e.expiry.Wall > before.expiry.Wall {
		// Up to an eighth less, so that a crowd does not expire at once.
		ttl -= time.Duration(rand.Int64N(int64(ttl)/8 + 1))
		if c.config.RefreshAhead > 0 {
			e.refreshAt = life.asked.Add(time.Duration(float64(ttl) * c.config.RefreshAhead)).Mono
		}
	}
	e.fresh = life.asked.Add(ttl)
	s.values.Add(k, e)
	if s.nos.Remove(k) {
		c.nos.count.Add(-1)
	}
	return true
}

// PutNo forgets the key's value. It remembers "no" in its place, if isValid
// still says so, as for [Cache.Put].
func (c *Cache[V]) PutNo(k Key, why error, until clock.Instant, isValid func() bool) {
	if c.shards == nil {
		return
	}
	if c.putNo(k, no{why, until}, isValid) {
		evict(c, &c.nos, k, func(s *shard[V]) *simplelru.LRU[Key, no] { return s.nos })
	}
}

func (c *Cache[V]) putNo(k Key, n no, isValid func() bool) (stored bool) {
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values.Remove(k) {
		c.values.count.Add(-1)
	}
	if !isValid() {
		return false
	}
	if !s.nos.Contains(k) {
		c.nos.count.Add(1)
	}
	s.nos.Add(k, n)
	return true
}

// evict removes entries until the quota is kept: the oldest of the shard that
// just grew and, if it has no others, those of the next shards.
func evict[V, E any](c *Cache[V], q *quota, k Key, of func(*shard[V]) *simplelru.LRU[Key, E]) {
	first, keep := c.index(k), 1 // not the entry that was just made
	for i := 0; q.count.Load() > q.limit && i < len(c.shards); i, keep = i+1, 0 {
		s := &c.shards[(first+i)%len(c.shards)]
		s.mu.Lock()
		for of(s).Len() > keep && q.count.Load() > q.limit {
			of(s).RemoveOldest()
			q.count.Add(-1)
		}
		s.mu.Unlock()
	}
}

// Remove forgets what is remembered of the key.
func (c *Cache[V]) Remove(k Key) {
	if c.shards == nil {
		return
	}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values.Remove(k) {
		c.values.count.Add(-1)
	}
	if s.nos.Remove(k) {
		c.nos.count.Add(-1)
	}
}

// Purge is Remove for every key.
func (c *Cache[V]) Purge() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		c.values.count.Add(-int64(s.values.Len()))
		c.nos.count.Add(-int64(s.nos.Len()))
		s.values.Purge()
		s.nos.Purge()
		s.mu.Unlock()
	}
}
