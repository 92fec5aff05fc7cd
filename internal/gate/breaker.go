package gate

import (
	"sync"
	"time"

	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/httpcache"
)

const (
	outagesToOpen = 10          // in a row
	probeInterval = time.Second // between two probes while it is open
)

// A breaker fails lookups at once while the server is down or asks to be left
// alone. While it is open, it lets one probe at a time pass until the server is
// back.
type breaker struct {
	timeout time.Duration // of a lookup

	mu        sync.Mutex
	outages   int           // in a row
	open      bool          // one probe at a time
	nextProbe clock.Instant // no probe before
	notBefore clock.Instant // no lookup before: the server asked to wait
}

// allow refuses while the server asks to wait, and while the breaker is open
// and the next probe is not due.
func (b *breaker) allow(now clock.Instant) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.allowLocked(now)
}

func (b *breaker) allowLocked(now clock.Instant) error {
	wait := time.Duration(0)
	if !now.Reached(b.notBefore) {
		wait = now.Until(b.notBefore)
	}
	if b.open && !now.Reached(b.nextProbe) {
		wait = max(wait, now.Until(b.nextProbe))
	}
	if wait <= 0 {
		return nil
	}
	f := failure.New(failure.Unavailable, "breaker open")
	f.Wait = min(max(wait, time.Second), httpcache.MaxRetryAfter)
	return f
}

// begin is allow for a lookup that follows at once. While the breaker is open,
// that lookup is the probe.
func (b *breaker) begin(now clock.Instant) (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.allowLocked(now); err != nil || !b.open {
		return false, err
	}
	b.nextProbe = now.Add(b.timeout + probeInterval) // also if it never ends
	return true, nil
}

// recordAnswer closes the breaker if the answer is the probe's. Another lookup
// began before the breaker opened: its late answer does not say how the server
// is now.
func (b *breaker) recordAnswer(probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe || !b.open {
		b.outages, b.open = 0, false
	}
}

// recordOutage opens the breaker after some outages in a row, or at once if the
// server asked to wait.
func (b *breaker) recordOutage(probe bool, wait time.Duration, now clock.Instant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// A shorter wait, told to another lookup, does not undo a longer one.
	if until := now.Add(wait); wait > 0 && until.Reached(b.notBefore) {
		b.notBefore = until
	}
	b.outages++
	if wait == 0 && !b.open && b.outages < outagesToOpen {
		return
	}
	if !b.open || probe {
		b.open, b.nextProbe = true, now.Add(probeInterval)
	}
}
