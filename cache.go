package phantom

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math"
	mathrand "math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A digest stands for an opaque token in the cache. It is keyed with a secret
// of this process, so that nothing remembered here tells what the token was.
type digest [sha256.Size]byte

// cacheTimes are the lifetimes of what is remembered.
type cacheTimes struct {
	maxTTL       time.Duration // of a verified token; at most
	negativeTTL  time.Duration // of the authorization server's word "inactive"
	refreshAhead float64       // share of its life after which a hit refreshes an entry; 0: never
	stale        time.Duration // how long an entry may serve beyond its life during an outage
}

// cache remembers verdicts of the authorization server: verified tokens in one
// LRU, inactive ones in another, so that junk cannot push out what is good.
// Both are spread over shards with a lock of their own.
type cache struct {
	clock
	cacheTimes
	salt     [sha256.Size]byte
	shards   []shard
	positive quota
	negative quota
	// generations count the calls of Forget, by a part of the digest; purges
	// counts those of Purge. A lookup that began under an older generation is
	// not remembered.
	generations [1024]atomic.Uint32
	purges      atomic.Uint32
}

type shard struct {
	mu       sync.Mutex
	positive *simplelru.LRU[digest, entry]
	negative *simplelru.LRU[digest, instant]
	_        [64]byte // keeps the locks of two shards off one cache line
}

func (s *shard) verified() *simplelru.LRU[digest, entry]   { return s.positive }
func (s *shard) inactive() *simplelru.LRU[digest, instant] { return s.negative }

// An entry is a verified token, ready to serve. One that is over stays without
// the token: its next lookup goes before those of tokens that nobody knows, and
// shows by the expiry whether it has moved.
type entry struct {
	token     *Token
	fresh     instant // serves until then
	refreshAt int64   // a hit from this on the monotonic clock refreshes it
	expiry    instant // never served from then on
}

// A quota bounds the entries of all shards together: with a bound of its own
// each shard would run over while others have room.
type quota struct {
	limit int64
	count atomic.Int64
}

// newCache returns a cache of at most size verified and size inactive tokens;
// none at all if size or the maximal lifetime is 0. The parts name what else
// an answer depends on: the endpoint, the client, the dialect.
func newCache(size int, times cacheTimes, parts ...string) *cache {
	c := &cache{clock: newClock(), cacheTimes: times}
	h := sha256.New()
	secret := make([]byte, sha256.Size)
	_, _ = rand.Read(secret) // never fails
	h.Write(secret)
	for _, part := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	h.Sum(c.salt[:0])
	if size == 0 || times.maxTTL == 0 {
		return c
	}
	c.positive.limit, c.negative.limit = int64(size), int64(size)
	n := 1
	for n < 8*runtime.GOMAXPROCS(0) && n*64 < size {
		n *= 2
	}
	c.shards = make([]shard, n)
	for i := range c.shards {
		// The quota alone evicts, so that it counts right. The error is for
		// sizes below 1.
		c.shards[i].positive, _ = simplelru.NewLRU[digest, entry](math.MaxInt, nil)
		c.shards[i].negative, _ = simplelru.NewLRU[digest, instant](math.MaxInt, nil)
	}
	return c
}

// digest returns the key of an opaque token.
func (c *cache) digest(token string) digest {
	var buf [384]byte // on the stack, and enough for most tokens
	b := append(buf[:0], c.salt[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(token)))
	b = append(b, token...)
	return sha256.Sum256(b)
}

func (c *cache) shard(d digest) *shard { return &c.shards[c.index(d)] }

// index relies on the number of shards being a power of two.
func (c *cache) index(d digest) int {
	return int(binary.LittleEndian.Uint32(d[:])) & (len(c.shards) - 1)
}

// generation identifies the present for the key: it changes with Forget and
// Purge.
func (c *cache) generation(d digest) uint64 {
	return uint64(c.purges.Load())<<32 | uint64(c.stripe(d).Load())
}

func (c *cache) stripe(d digest) *atomic.Uint32 {
	return &c.generations[binary.LittleEndian.Uint32(d[4:])%uint32(len(c.generations))]
}

// A finding is what the cache knows of a token.
type finding struct {
	token    *Token // nil: nothing
	known    bool   // there is or was an entry
	inactive bool
	refresh  bool // the caller is the one to refresh the entry ahead of its end
	stale    bool // the entry is past its life: to be served only in an outage
}

// get looks a token up.
func (c *cache) get(d digest, now instant) finding {
	if c.shards == nil {
		return finding{}
	}
	s := c.shard(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, known := s.positive.Get(d)
	if known && e.token != nil {
		switch {
		case e.token.key.isRetired():
		case !now.reached(e.fresh):
			refresh := now.mono >= e.refreshAt
			if refresh {
				e.refreshAt = math.MaxInt64 // once
				s.positive.Add(d, e)
			}
			return finding{token: e.token, known: true, refresh: refresh}
		case !now.reached(e.expiry) && !now.reached(e.fresh.add(c.stale)):
			return finding{token: e.token, known: true, stale: true}
		}
		s.positive.Add(d, entry{expiry: e.expiry})
	}
	if until, ok := s.negative.Get(d); ok {
		if !now.reached(until) {
			return finding{inactive: true}
		}
		s.negative.Remove(d)
		c.negative.count.Add(-1)
	}
	return finding{known: known}
}

// lifetime returns for how long a token is remembered at most, from when the
// authorization server was asked on: the least of the maximal lifetime, the
// server's max-age, and what is left to the expiries of the token and of the
// answer, which it also returns by itself.
func (c *cache) lifetime(token *Token, answer *Introspection, asked instant) (ttl, left time.Duration) {
	expiry := token.Expiry()
	if !answer.Expiry.IsZero() && answer.Expiry.Before(expiry) {
		expiry = answer.Expiry
	}
	left = expiry.Sub(time.Unix(0, asked.wall)) // saturates
	ttl = min(c.maxTTL, left)
	if answer.MaxAge >= 0 { // negative: the server did not say
		ttl = min(ttl, answer.MaxAge)
	}
	return ttl, left
}

// add remembers a verified token.
func (c *cache) add(d digest, generation uint64, token *Token, asked instant, answer *Introspection) {
	ttl, left := c.lifetime(token, answer, asked)
	if c.shards == nil || ttl <= 0 {
		// What was known before is older than an answer that may not be kept.
		c.remove(d)
		return
	}
	e := entry{token: token, refreshAt: math.MaxInt64, expiry: asked.add(left)}
	s := c.shard(d)
	s.mu.Lock()
	stored := generation == c.generation(d)
	if stored {
		before, known := s.positive.Peek(d)
		if !known {
			c.positive.count.Add(1)
		}
		// What only comes nearer to its expiry with each lookup is left to it.
		if !known || ttl < left || e.expiry.wall > before.expiry.wall {
			// Up to an eighth less, so that a crowd does not expire at once.
			ttl -= time.Duration(mathrand.Int64N(int64(ttl)/8 + 1))
			if c.refreshAhead > 0 {
				e.refreshAt = asked.add(time.Duration(float64(ttl) * c.refreshAhead)).mono
			}
		}
		e.fresh = asked.add(ttl)
		s.positive.Add(d, e)
		if s.negative.Remove(d) {
			c.negative.count.Add(-1)
		}
	}
	s.mu.Unlock()
	if stored {
		evict(c, &c.positive, d, (*shard).verified)
	}
}

// addInactive remembers that the authorization server called a token inactive,
// and forgets what was known before.
func (c *cache) addInactive(d digest, generation uint64, asked instant) {
	if c.shards == nil || c.negativeTTL == 0 {
		c.remove(d)
		return
	}
	s := c.shard(d)
	s.mu.Lock()
	stored := generation == c.generation(d)
	if s.positive.Remove(d) {
		c.positive.count.Add(-1)
	}
	if stored {
		if !s.negative.Contains(d) {
			c.negative.count.Add(1)
		}
		s.negative.Add(d, asked.add(c.negativeTTL))
	}
	s.mu.Unlock()
	if stored {
		evict(c, &c.negative, d, (*shard).inactive)
	}
}

// evict removes the oldest entries of the shard that just grew until the quota
// is kept; if there are no others there, those of the next shards.
func evict[V any](c *cache, q *quota, d digest, of func(*shard) *simplelru.LRU[digest, V]) {
	first, keep := c.index(d), 1 // not the entry that was just made
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

// forget removes what is known of a token and keeps running lookups of it from
// being remembered.
func (c *cache) forget(d digest) {
	c.stripe(d).Add(1)
	c.remove(d)
}

func (c *cache) remove(d digest) {
	if c.shards == nil {
		return
	}
	s := c.shard(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.positive.Remove(d) {
		c.positive.count.Add(-1)
	}
	if s.negative.Remove(d) {
		c.negative.count.Add(-1)
	}
}

// purge is forget for every token.
func (c *cache) purge() {
	c.purges.Add(1)
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		c.positive.count.Add(-int64(s.positive.Len()))
		c.negative.count.Add(-int64(s.negative.Len()))
		s.positive.Purge()
		s.negative.Purge()
		s.mu.Unlock()
	}
}

// flightKey is unlike that of a lookup that began before a Forget or Purge.
func flightKey(d digest, generation uint64) string {
	return string(binary.BigEndian.AppendUint64(d[:], generation))
}
