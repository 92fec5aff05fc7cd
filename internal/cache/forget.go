package cache

// Remove forgets what is remembered of the key.
func (c *Cache[V]) Remove(k *Key) {
	if c.shards == nil {
		return
	}
	s := &c.shards[c.index(k)]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeValue(k)
	s.nos.Remove(*k)
}

func (s *shard[V]) removeValue(k *Key) {
	if s.find(k) != nil {
		s.values.Remove(k.short())
	}
}

// RemoveIf forgets the values for which match reports true. No lock is held
// while it is asked. A value that comes meanwhile may stay.
func (c *Cache[V]) RemoveIf(match func(V) bool) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		entries := s.values.Values()
		s.mu.Unlock()
		for _, e := range entries {
			if e.tombstone || !match(e.value) {
				continue
			}
			s.mu.Lock()
			if s.find(&e.key) == e {
				s.values.Remove(e.key.short())
			}
			s.mu.Unlock()
		}
	}
}

// Purge is Remove for every key.
func (c *Cache[V]) Purge() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.values.Purge()
		s.nos.Purge()
		s.mu.Unlock()
	}
}
