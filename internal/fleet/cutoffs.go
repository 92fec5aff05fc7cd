package fleet

import (
	"sync"
	"time"

	"github.com/phantom-token/phantom/internal/cache"
	"github.com/phantom-token/phantom/internal/clock"
)

// Cutoffs know what was forgotten, and when. No answer to an older question is
// taken from the store any more, even if the store still has one. Cutoffs are
// safe for concurrent use.
type Cutoffs struct {
	clock    clock.Clock
	lifetime time.Duration // no answer serves for longer

	mu     sync.Mutex
	tokens cutoffs[cache.Key]
	claims cutoffs[Claim]

	// Of tokens that may be junk.
	young, old map[cache.Key]clock.Instant
	since      int64 // of the young ones, by the monotonic clock
}

// NewCutoffs returns no Cutoffs. An answer that is older than the lifetime
// serves nowhere.
func NewCutoffs(c clock.Clock, lifetime time.Duration) *Cutoffs {
	return &Cutoffs{clock: c, lifetime: lifetime}
}

// Token notes that the answers to questions about a token that were put before
// are forgotten.
func (c *Cutoffs) Token(k cache.Key, before clock.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens.add(k, before, c.clock.Now(), c.lifetime)
}

// maxStrangers bounds each half of what Stranger notes.
const maxStrangers = 1 << 14

// Stranger is Token for a token that nobody was seen to know. Anybody can send
// junk: of too many such tokens only the latest are kept, some ten thousand,
// and nothing else is forgotten for them.
func (c *Cutoffs) Stranger(k cache.Key, before clock.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.clock.Now().Mono; len(c.young) >= maxStrangers || now-c.since > int64(c.lifetime) {
		c.young, c.old, c.since = nil, c.young, now
	}
	if c.young == nil {
		c.young = map[cache.Key]clock.Instant{}
	}
	c.young[k] = later(later(c.old[k], c.young[k]), before)
}

// All is Token for every token.
func (c *Cutoffs) All(before clock.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens.all.at = later(c.tokens.all.at, before)
}

// Claim is Token for all tokens that have the claim.
func (c *Cutoffs) Claim(claim Claim, before clock.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.claims.add(claim, before, c.clock.Now(), c.lifetime)
}

// CoverToken reports whether the answer to a question about the token, put at
// the given time, is forgotten.
func (c *Cutoffs) CoverToken(k cache.Key, asked clock.Instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, strangers := range []map[cache.Key]clock.Instant{c.young, c.old} {
		if at, ok := strangers[k]; ok && at.Reached(asked) {
			return true
		}
	}
	return c.tokens.cover(k, asked)
}

// HaveClaims reports whether there is anything to ask CoverClaim for.
func (c *Cutoffs) HaveClaims() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clock.Now().Mono > c.claims.until {
		c.claims = cutoffs[Claim]{count: c.claims.count}
	}
	return len(c.claims.of) > 0
}

// Claims returns how many times Claim was called.
func (c *Cutoffs) Claims() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claims.count
}

// CoverClaimSince reports whether one of the claims was forgotten after Claims
// returned the number. For a question of our own that is exact: two times can
// be the same.
func (c *Cutoffs) CoverClaimSince(claims []Claim, number uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, claim := range claims {
		if max(c.claims.of[claim].number, c.claims.all.number) > number {
			return true
		}
	}
	return false
}

// CoverClaim is CoverToken for a token that has the claims.
func (c *Cutoffs) CoverClaim(claims []Claim, asked clock.Instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, claim := range claims {
		if c.claims.cover(claim, asked) {
			return true
		}
	}
	return false
}

// maxCutoffs bounds how many there are of a kind. With more, everything older
// than now is forgotten, which costs lookups and nothing else.
const maxCutoffs = 1 << 16

type cutoffs[K comparable] struct {
	of     map[K]cutoff
	all    cutoff
	count  uint64
	sweepy int   // how many there may be before the next sweep
	until  int64 // the monotonic time at which all of them are of no use any more
}

// A cutoff is an instant and which one of all it is, counted from 1.
type cutoff struct {
	at     clock.Instant
	number uint64
}

func (c *cutoffs[K]) add(k K, before, now clock.Instant, lifetime time.Duration) {
	c.count++
	if len(c.of) >= c.sweepy {
		c.sweep(now, lifetime)
		c.sweepy = max(1024, 2*len(c.of))
	}
	if len(c.of) >= maxCutoffs {
		clear(c.of)
		c.all = cutoff{later(c.all.at, now), c.count}
	}
	if c.of == nil {
		c.of = map[K]cutoff{}
	}
	c.of[k] = cutoff{later(c.of[k].at, before), c.count}
	c.until = now.Add(lifetime).Mono
}

// sweep drops the cutoffs that are older than any answer that serves.
func (c *cutoffs[K]) sweep(now clock.Instant, lifetime time.Duration) {
	for k, one := range c.of {
		if now.Mono > one.at.Add(lifetime).Mono {
			delete(c.of, k)
		}
	}
}

func (c *cutoffs[K]) cover(k K, asked clock.Instant) bool {
	// On either clock: one that is set must not bring back what was forgotten.
	if c.all.at != (clock.Instant{}) && c.all.at.Reached(asked) {
		return true
	}
	one, ok := c.of[k]
	return ok && one.at.Reached(asked)
}

// later returns the later of two instants, by the monotonic clock.
func later(a, b clock.Instant) clock.Instant {
	if (a == clock.Instant{}) || b.Mono > a.Mono {
		return b
	}
	return a
}
