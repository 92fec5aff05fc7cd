package phantom

import (
	"sync/atomic"
	"time"
	"weak"
)

// Stats say what a Middleware has done since [New], and how it is. Totals never
// go back. The numbers of one Stats are not of one moment.
//
// A Middleware that [Dispatch] made has Rejected alone. All else belongs to its
// members, whose own Rejected has what their own handlers rejected. So no sum
// over a dispatcher and its members counts anything twice.
type Stats struct {
	// What was found of tokens in the memory, for requests, Verify and
	// Authenticate alike. Tokens that are malformed, or come from the context,
	// do not count.
	Hits     uint64 // remembered
	Stale    uint64 // served past their life, in an outage ([WithStaleIfError])
	Negative uint64 // a remembered refusal
	Misses   uint64 // not remembered: a lookup had to find out
	Joined   uint64 // of Misses and Stale, those for which another's lookup was under way already

	// Evicted is how many tokens had to make room before their life was over:
	// if there are many, [WithCacheSize] is too small.
	Evicted uint64
	// Entries and NegativeEntries are how many places of [WithCacheSize] are
	// taken, by tokens and by refusals. What is out of date keeps its place until
	// another needs it.
	Entries, NegativeEntries int64

	// Active is how many lookups are at the authorization server now, of
	// [WithMaxInFlight]. Without introspection it is 0.
	Active int64
	// Waiting and WaitingKnown are how many lookups wait for a place there: of
	// tokens never verified here, and of those that were.
	Waiting, WaitingKnown int64
	// BreakerOpen says that, after many outages, new tokens or known ones are
	// refused without asking, except for a probe each second. Without lookups it
	// stays as it is.
	BreakerOpen bool

	// Rejected is how many requests handlers rejected, and how many errors Verify
	// and Authenticate returned. It has every Reason. A Reason that a
	// [Requirement] made up counts as [ReasonScope].
	Rejected map[Reason]uint64

	// Keys is how many usable keys the issuer's key set has; 0: it was not needed
	// so far, cannot be had, or is not used ([WithKeySet], [WithMinter]).
	Keys int
	// KeysAge is how long ago the key set was requested. It is renewed when it is
	// used.
	KeysAge time.Duration
	// KeysFailed is how many attempts to fetch it failed.
	KeysFailed uint64

	Store StoreStats
}

// StoreStats say what came of the [Store]. Without one they are zero.
type StoreStats struct {
	Hits    uint64 // copies that were used
	Misses  uint64 // there was none, or it was too old
	Refused uint64 // copies that did not pass a check: 0 unless the Store is tampered with or replicas differ
	Failed  uint64 // calls of any kind that gave an error, or nothing in time
	Skipped uint64 // calls that were not made, because those before had failed
	Notes   uint64 // notes of other replicas that were followed
}

// Stats returns the Middleware's numbers. It is cheap, and may be called at any
// time. A Middleware that New did not make has none.
func (m *Middleware) Stats() Stats {
	if m == nil || m.parts == nil {
		return Stats{}
	}
	return m.parts.stats()
}

func (p *parts) stats() Stats {
	s := Stats{Rejected: map[Reason]uint64{}}
	for class := range kinds {
		if k := &kinds[class]; k.status != 0 {
			s.Rejected[k.reason] = p.counts.rejected[class].Load()
		}
	}
	if p.dispatcher != nil {
		return s
	}
	p.counts.read(&s)
	p.memory.stats(&s)
	p.authority.stats(&s)
	if p.shared != nil {
		s.Store = p.shared.stats()
	}
	return s
}

// attach gives the Traces a way to the Stats that does not keep m alive.
func (m *Middleware) attach(traces []*Trace) {
	p := weak.Make(m.parts)
	stats := func() (s Stats, ok bool) {
		if p := p.Value(); p != nil {
			return p.stats(), true
		}
		return Stats{}, false
	}
	for _, t := range traces {
		if t.Attach != nil {
			t.Attach(stats)
		}
	}
}

// counts are the totals of a Middleware that no room below keeps.
type counts struct {
	hits                            [16]paddedCount // a hit adds to the one of its token
	stale, negative, misses, joined atomic.Uint64
	rejected                        [len(kinds)]atomic.Uint64
}

// A paddedCount is alone on its cache line, so that hits on several processors
// are in each other's way only if they are on one token.
type paddedCount struct {
	atomic.Uint64
	_ [56]byte
}

func (c *counts) hit(d *digest) { c.hits[d[len(d)-1]%byte(len(c.hits))].Add(1) }

// miss counts what came of a lookup.
func (c *counts) miss(joined bool) Outcome {
	c.misses.Add(1)
	if joined {
		c.joined.Add(1)
	}
	return OutcomeMiss
}

func (c *counts) bridged(joined bool) Outcome {
	c.stale.Add(1)
	if joined {
		c.joined.Add(1)
	}
	return OutcomeStale
}

// refuse makes the rejection of a request, and counts it.
func (m *Middleware) refuse(err error) *Error {
	e := rejection(err)
	if m != nil && m.parts != nil { // else New did not make it
		m.counts.rejected[e.class()].Add(1)
	}
	return e
}

func (c *counts) read(s *Stats) {
	for i := range c.hits {
		s.Hits += c.hits[i].Load()
	}
	s.Joined = c.joined.Load() // first: it never exceeds the other two
	s.Stale, s.Negative, s.Misses = c.stale.Load(), c.negative.Load(), c.misses.Load()
}

func (m *memory) stats(s *Stats) {
	s.Entries, s.NegativeEntries, s.Evicted = m.tokens.Stats()
}

func (a *authority) stats(s *Stats) {
	active, waiting, known, open := a.gate.Stats()
	s.Active, s.Waiting, s.WaitingKnown, s.BreakerOpen = int64(active), int64(waiting), int64(known), open
	if a.keys != nil {
		s.Keys, s.KeysAge, s.KeysFailed = a.keys.Stats()
	}
}

func (r *replicas) stats() StoreStats {
	return StoreStats{
		Hits: r.hits.Load(), Misses: r.misses.Load(), Refused: r.refused.Load(),
		Failed: r.failed.Load(), Skipped: r.skipped.Load(), Notes: r.received.Load(),
	}
}
