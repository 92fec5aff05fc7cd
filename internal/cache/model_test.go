package cache_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom/internal/cache"
	"github.com/phantom-token/phantom/internal/clock"
)

// A kept value of the model's: what a cache with no front, no shards and no
// tombstones knows of a key.
type kept struct {
	value   *value
	asked   clock.Instant
	fresh   clock.Instant // it is fresh at least until then: seven eighths of its life
	end     clock.Instant // and not from then on
	expiry  clock.Instant
	refresh bool // some hit was told to refresh it
	no      error
}

// A model is a simple map beside a cache, with a clock of its own.
type model struct {
	t     *testing.T
	cache *cache.Cache[*value]
	size  int
	stale time.Duration
	now   clock.Instant
	known map[cache.Key]*kept
	key   map[*value]cache.Key
	gone  map[*value]string // values that must not be served any more, and why
	roomy bool              // there is room for all keys: none may be evicted
}

func newModel(t *testing.T, size int, stale time.Duration) *model {
	return &model{
		t: t, size: size, stale: stale,
		cache: cache.New(cache.Config[*value]{
			Size: size, RefreshAhead: 0.5, Stale: stale, Retired: func(v *value) bool { return v.retired.Load() },
		}),
		now:   clock.Instant{Wall: 1_700_000_000 * second, Mono: 1000 * second},
		known: map[cache.Key]*kept{}, key: map[*value]cache.Key{}, gone: map[*value]string{},
	}
}

// modelKey returns the i-th key. Among its neighbours are some that are equal
// where the LRU looks, and some that are equal where the front does.
func modelKey(i int) (k cache.Key) {
	mix := func(x int) uint64 { return rand.New(rand.NewPCG(uint64(x), 0)).Uint64() }
	binary.LittleEndian.PutUint64(k[0:], mix(i/2))
	binary.LittleEndian.PutUint64(k[8:], mix(-i/3))
	binary.LittleEndian.PutUint64(k[16:], uint64(i))
	return k
}

func (m *model) leaves(k cache.Key, why string) {
	if before := m.known[k]; before != nil {
		if before.value != nil {
			m.gone[before.value] = why
		}
		delete(m.known, k)
	}
}

func (m *model) put(k cache.Key, ttl time.Duration, valid bool) {
	v, asked := &value{}, m.now
	m.key[v] = k
	e := cache.NewEntry(k, v)
	expiry := asked.Add(4 * ttl)
	m.cache.Put(&e, cache.NewLife(asked, time.Unix(0, expiry.Wall), ttl), func() bool { return valid })
	if !valid {
		m.gone[v] = "overtaken by a Remove"
		return
	}
	m.leaves(k, "replaced")
	m.crowdOut(k)
	m.known[k] = &kept{value: v, asked: asked, fresh: asked.Add(ttl - ttl/8), end: asked.Add(ttl), expiry: expiry}
}

// crowdOut forgets the value of the key that looks like k to the LRU.
func (m *model) crowdOut(k cache.Key) {
	for other, e := range m.known {
		if other != k && [8]byte(other[:8]) == [8]byte(k[:8]) && e.value != nil {
			m.leaves(other, "crowded out")
		}
	}
}

func (m *model) putNo(k cache.Key, ttl time.Duration) {
	why := errors.New("no")
	m.cache.PutNo(&k, why, m.now.Add(ttl), valid)
	m.leaves(k, "refused")
	m.known[k] = &kept{no: why, fresh: m.now.Add(ttl), end: m.now.Add(ttl)}
}

func (m *model) retire(k cache.Key) {
	if e := m.known[k]; e != nil && e.value != nil {
		e.value.retired.Store(true)
		m.leaves(k, "retired")
	}
}

func (m *model) purge() {
	m.cache.Purge()
	for k := range m.known {
		m.leaves(k, "purged")
	}
}

// get compares what the cache says with what the model knows.
func (m *model) get(k cache.Key) {
	m.t.Helper()
	found, e := m.cache.Get(&k, m.now), m.known[k]
	if v := found.Value; v != nil {
		if why := m.gone[v]; why != "" {
			m.t.Fatalf("a value is served that was %s", why)
		}
		if m.key[v] != k {
			m.t.Fatal("another key's value is served")
		}
		if v != e.value {
			m.t.Fatal("not the newest value")
		}
	}
	switch found.State {
	case cache.Fresh:
		if found.Value == nil || m.now.Reached(e.end) {
			m.t.Fatal("fresh past its life, or nothing")
		}
		if found.Refresh && e.refresh {
			m.t.Fatal("due for refresh twice")
		}
		// Half of a life that is up to an eighth shorter than it could be.
		if life := e.end.Mono - e.asked.Mono; found.Refresh && m.now.Mono < e.asked.Mono+life*7/16-1 {
			m.t.Fatal("due for refresh too early")
		}
		e.refresh = e.refresh || found.Refresh
	case cache.Stale:
		if found.Value == nil || !m.now.Reached(e.fresh) || m.now.Reached(e.expiry) || m.now.Reached(e.end.Add(m.stale)) {
			m.t.Fatal("stale when it must not be")
		}
	case cache.No:
		if e == nil || found.Why == nil || found.Why != e.no || m.now.Reached(e.end) {
			m.t.Fatal("a no that is not known")
		}
	case cache.Unknown:
		if m.roomy && e != nil && !m.now.Reached(e.fresh) {
			m.t.Fatal("lost")
		}
		// Evicted, or at its end: it must not come back.
		m.leaves(k, "not found before")
	}
}

// Random histories of all that a cache can do agree with a simple map. An entry
// that left is never served again, and the bound is exact.
func TestRandomHistoriesAgreeWithAMap(t *testing.T) {
	for _, tc := range []struct {
		size, keys int
		stale      time.Duration
	}{
		{size: 1, keys: 4}, {size: 16, keys: 40, stale: 20 * time.Second}, {size: 64, keys: 60},
		{size: 65, keys: 50}, {size: 100, keys: 300, stale: time.Minute}, {size: 1000, keys: 1500},
	} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("size=%d/seed=%d", tc.size, seed), func(t *testing.T) {
				m, r := newModel(t, tc.size, tc.stale), rand.New(rand.NewPCG(seed, 9))
				m.roomy = tc.keys <= tc.size
				for range 10_000 {
					m.step(r, modelKey(r.IntN(tc.keys)))
				}
				if served := m.count(tc.keys); served > tc.size {
					t.Errorf("%d values are served", served)
				}
			})
		}
	}
}

func (m *model) step(r *rand.Rand, k cache.Key) {
	m.t.Helper()
	switch n := r.IntN(1000); {
	case n < 600:
		m.get(k)
	case n < 850:
		m.put(k, time.Duration(1+r.IntN(60))*time.Second, true)
	case n < 860:
		m.put(k, time.Minute, false)
	case n < 900:
		m.putNo(k, time.Duration(1+r.IntN(30))*time.Second)
	case n < 930:
		m.cache.Remove(&k)
		m.leaves(k, "removed")
	case n < 950:
		m.retire(k)
	case n < 951:
		m.purge()
	default:
		d := time.Duration(r.IntN(2000)) * time.Millisecond
		m.now = m.now.Add(d)
		if n%8 == 0 { // suspended, or set back
			m.now.Wall += int64(r.IntN(8)-4) * second
		}
	}
}

// count looks at all keys and returns how many have a value.
func (m *model) count(keys int) (served int) {
	for i := range keys {
		if k := modelKey(i); m.cache.Get(&k, m.now).Value != nil {
			served++
		}
	}
	return served
}

// Up to 64 entries the least recently used one goes. Above, an entry that is
// hit in every epoch stays, and one that is not goes when the size was added.
func TestTheLeastRecentlyUsedEntryGoes(t *testing.T) {
	for _, size := range []int{2, 64, 65, 1000} {
		m := newModel(t, size, 0)
		m.put(modelKey(0), time.Minute, true)
		m.put(modelKey(2), time.Minute, true)
		epoch := max(size/16, 1)
		if size <= 64 {
			epoch = 1
		}
		for i := range 3 * size {
			m.put(modelKey(4+2*i), time.Minute, true)
			if i%epoch == 0 {
				m.get(modelKey(0))
			}
		}
		for i, want := range []bool{true, false} {
			k := modelKey(2 * i)
			if found := m.cache.Get(&k, m.now); (found.Value != nil) != want && size > 2*epoch {
				t.Errorf("size %d, key %d: %+v", size, i, found)
			}
		}
		if served := m.count(2*(3*size) + 5); served > size || served < size-1 && size <= 64 {
			t.Errorf("size %d: %d values are served", size, served)
		}
	}
}

// Many goroutines at once: no Get that begins after a value left finds it,
// however it left, and one hit alone refreshes it.
func TestWhatLeftIsNotServedToAnyGoroutine(t *testing.T) {
	const goroutines, rounds, keys = 8, 2000, 64
	c := cache.New(cache.Config[*value]{
		Size: 96, RefreshAhead: 0.5, Retired: func(v *value) bool { return v.retired.Load() },
	})
	start := clock.Instant{Wall: 1_700_000_000 * second, Mono: 1000 * second}
	late := start.Add(40 * time.Second) // due for refresh, and fresh
	var retiring [keys]sync.Mutex       // one owner at a time puts and ends a key's values
	var wg sync.WaitGroup
	get := func(k *cache.Key) *value {
		found := c.Get(k, late)
		if found.Value == nil {
			return nil
		}
		if found.Refresh && found.Value.refreshed.Swap(true) {
			t.Error("due for refresh twice")
		}
		if found.Value.key != *k {
			t.Error("another key's value is served")
		}
		return found.Value
	}
	for g := range goroutines {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range rounds {
				i := r.IntN(keys)
				k := modelKey(i)
				if !retiring[i].TryLock() { // an onlooker
					v := get(&k)
					if v != nil && v.left.Load() {
						// It may have left while Get was looking.
						if again := get(&k); again == v {
							t.Error("a value is served that had left before")
						}
					}
					continue
				}
				owner(c, r, k, start)
				if v := get(&k); v != nil && v.left.Load() {
					t.Error("a value is served that had left before")
				}
				retiring[i].Unlock()
			}
		})
	}
	for range 200 { // others come and go
		for i := range 100 {
			v := &value{key: modelKey(1000 + i)}
			e := cache.NewEntry(v.key, v)
			c.Put(&e, life(start, 300), valid)
			get(&v.key)
		}
	}
	wg.Wait()
}

// owner puts values of a key and ends them, and checks that they have.
func owner(c *cache.Cache[*value], r *rand.Rand, k cache.Key, start clock.Instant) {
	v := &value{key: k}
	e := cache.NewEntry(k, v)
	c.Put(&e, life(start, 300), valid)
	c.Get(&k, start)
	switch r.IntN(6) {
	case 0:
		c.Remove(&k)
	case 1:
		v.retired.Store(true)
	case 2:
		c.PutNo(&k, errors.New("no"), start.Add(time.Minute), valid)
	case 3:
		c.Get(&k, start.Add(2*time.Minute)) // finds it at its end
	case 4:
		e := cache.NewEntry(k, &value{key: k})
		c.Put(&e, life(start, 300), valid)
	case 5:
		if r.IntN(20) > 0 {
			return
		}
		c.Purge()
	}
	v.left.Store(true)
}

// What a handler keeps of one entry does not keep others.
func TestAnEntryThatLeftKeepsNoOther(t *testing.T) {
	c := cache.New(cache.Config[*value]{Size: 1000, Retired: func(*value) bool { return false }})
	start := clock.Instant{Wall: 1_700_000_000 * second, Mono: 1000 * second}
	var entries [500]cache.Entry[*value]
	for i := range entries {
		entries[i] = cache.NewEntry(modelKey(i), &value{})
		c.Put(&entries[i], life(start, 300), valid)
	}
	for i := range entries {
		if k := modelKey(i); i%7 < 5 {
			c.Remove(&k)
		}
	}
	c.Purge()
	for i := range entries {
		if entries[i].HasNext() {
			t.Fatalf("entry %d still has a successor", i)
		}
	}
}

// Of many hits at the same time, one is told to refresh the entry.
func TestOneOfManyHitsAtOnceRefreshesAnEntry(t *testing.T) {
	const goroutines, rounds, entries = 2, 20, 400
	c := cache.New(cache.Config[*value]{
		Size: 1000, RefreshAhead: 0.5, Retired: func(*value) bool { return false },
	})
	start := clock.Instant{Wall: 1_700_000_000 * second, Mono: 1000 * second}
	for range rounds {
		var told [entries]atomic.Int64
		for i := range told {
			e := cache.NewEntry(modelKey(2*i), &value{})
			c.Put(&e, life(start, 300), valid)
		}
		var arrived [entries]atomic.Int64
		var wg sync.WaitGroup
		for range goroutines {
			wg.Go(func() {
				for i := range told {
					k := modelKey(2 * i)
					arrived[i].Add(1)
					for spins := 0; arrived[i].Load() < goroutines; spins++ {
						if spins > 200 {
							runtime.Gosched()
						}
					}
					if c.Get(&k, start.Add(40*time.Second)).Refresh {
						told[i].Add(1)
					}
				}
			})
		}
		wg.Wait()
		for i := range told {
			if n := told[i].Load(); n != 1 {
				t.Fatalf("%d hits were told to refresh", n)
			}
		}
	}
}
