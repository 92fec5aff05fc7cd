package main

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// A watch sees whether revoked tokens are refused in time: a replica must not
// let in a request that was sent later than MaxTTL after the revocation.
type watch struct {
	f      *fleet
	tokens int
	calls  sync.WaitGroup

	mu         sync.Mutex
	violations int
	latest     time.Duration // from a revocation to the last request that was let in
}

// grace is for how long a watch goes on beyond the bound.
const grace = time.Second

// watch lets all replicas learn of some tokens, revokes them, and goes on to
// use them everywhere. Every other token is left alone at first by all but one
// replica, which so take the copy of an answer that is old already. None of
// them is in the tally.
func (f *fleet) watch(n int) *watch {
	w := &watch{f: f, tokens: n}
	tokens := f.server.issue(n)
	f.server.setAside(tokens)
	for i, token := range tokens {
		w.calls.Go(func() { w.follow(token, i%2 == 0) })
	}
	return w
}

func (w *watch) follow(token string, everywhere bool) {
	first := rand.IntN(size)
	for i := range size {
		if everywhere || i == first {
			w.f.ask(i, token)
		}
	}
	w.f.server.as.Revoke(token)
	revoked := time.Now()
	for i := range size {
		w.calls.Go(func() {
			ttl := w.f.spec.TTL
			next := time.Duration(0)
			if !everywhere && i != first {
				next = ttl/2 + rand.N(ttl/2)
			}
			for next < ttl+grace {
				time.Sleep(time.Until(revoked.Add(next)))
				w.use(i, token, revoked)
				if now := time.Since(revoked); now < ttl {
					next = min(now+rand.N(ttl/4), ttl+time.Millisecond)
				} else {
					next = now + 100*time.Millisecond
				}
			}
		})
	}
}

func (w *watch) use(i int, token string, revoked time.Time) {
	sent := time.Since(revoked)
	if w.f.ask(i, token) != http.StatusNoContent {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest = max(w.latest, sent)
	if sent > w.f.spec.TTL {
		w.violations++
	}
}

// report waits until all tokens must have been refused, and says what was seen.
func (w *watch) report(r *report) {
	w.calls.Wait()
	if w.tokens == 0 {
		return
	}
	r.add("violations of the bound on revocations", float64(w.violations), "requests")
	r.add("latest use of a revoked token, as a share of MaxTTL", float64(w.latest)/float64(w.f.spec.TTL), "")
}
