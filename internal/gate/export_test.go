package gate

// Waiting returns how many lookups of the class wait for a place.
func (g *Gate) Waiting(class Class) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queue.classes[class].waiting.Len()
}
