package cache

// HasNext reports whether another Entry follows in the front.
func (e *Entry[V]) HasNext() bool { return e.next.Load() != nil }
