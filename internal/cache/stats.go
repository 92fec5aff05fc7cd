package cache

// Stats returns how many places are taken by values and by the word "no", and
// how many values were evicted while they were fresh.
func (c *Cache[V]) Stats() (values, nos int64, evicted uint64) {
	return c.values.count.Load(), c.nos.count.Load(), c.values.evicted.Load()
}
