package cache

import "sync/atomic"

// A front is a hash table of a shard's entries that is read without a lock. It
// is written under the shard's lock only, and holds exactly those entries of
// the LRU that are no tombstones.
//
// Entries with the same slot are in a chain. A writer may take an entry away
// from under a reader in that chain. The reader then finds less than there is,
// and asks the shard. It never finds an entry whose removal had ended before it
// began.
type front[V any] struct {
	slots atomic.Pointer[[]slot[V]] // as many as a power of two; nil: there is no front
}

type slot[V any] = atomic.Pointer[Entry[V]]

const minSlots = 8

func (f *front[V]) clear() {
	slots := make([]slot[V], minSlots)
	f.slots.Store(&slots)
}

func slotOf[V any](slots []slot[V], k *Key) *slot[V] {
	return &slots[k.place()&uint64(len(slots)-1)]
}

// find returns the Entry of the key, or nil if the shard must be asked.
func (f *front[V]) find(k *Key) *Entry[V] {
	slots := f.slots.Load()
	if slots == nil {
		return nil
	}
	e := slotOf(*slots, k).Load()
	for e != nil && e.key != *k {
		e = e.next.Load()
	}
	return e
}

// add adds an Entry that is in no front. len is how many entries there are.
func (f *front[V]) add(e *Entry[V], len int) {
	slots := f.slots.Load()
	if slots == nil {
		return
	}
	if len > cap(*slots) {
		slots = f.grow(*slots)
	}
	link(*slots, e)
}

func link[V any](slots []slot[V], e *Entry[V]) {
	s := slotOf(slots, &e.key)
	e.next.Store(s.Load())
	s.Store(e)
}

// grow moves all entries to a table of twice the size. With no more entries
// than slots, a hit looks at one and a half on average.
func (f *front[V]) grow(old []slot[V]) *[]slot[V] {
	slots := make([]slot[V], 2*len(old))
	for i := range old {
		for e := old[i].Load(); e != nil; {
			next := e.next.Load()
			link(slots, e)
			e = next
		}
	}
	f.slots.Store(&slots)
	return &slots
}

// remove takes an Entry out, if it is in. It leaves the Entry without a
// successor: a Token that a handler keeps must not keep others alive.
func (f *front[V]) remove(e *Entry[V]) {
	slots := f.slots.Load()
	if slots == nil {
		return
	}
	at := slotOf(*slots, &e.key)
	for in := at.Load(); in != e; in = at.Load() {
		if in == nil {
			return
		}
		at = &in.next
	}
	at.Store(e.next.Load())
	e.next.Store(nil)
}
