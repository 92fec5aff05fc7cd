package gate

import (
	"time"

	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/httpcache"
)

// The measures of the lanes.
const (
	outagesToTrouble = 10 // in a row close a lane, or make it narrow
	probeInterval    = time.Second
	knownIsProof     = 5 * time.Second // for so long after an answer to a known token

	answerIsProof   = 10 * time.Second
	refusedAtOnce   = 20                     // by the narrow lane, before that counts as most
	knownProbesLead = 500 * time.Millisecond // before new ones
)

// An outcome is what the end of an attempt tells of the server.
type outcome uint8

const (
	answer  outcome = iota
	fault           // the server answered that it failed
	silence         // the server did not answer
	untold          // the attempt had hardly any time
)

// lanes is what is known of the server. The Gate's lock guards it.
type lanes struct {
	timeout time.Duration // of a lookup
	begun   uint64        // attempts so far
	lane    [2]lane
	failing row // of known tokens, while their lane is not closed

	// Of new tokens, since the last answer to either class.
	outages         int
	passed, refused int // while the lane was narrow
	narrow          narrow

	answered      bool // ever
	lastAnswer    clock.Instant
	knownAnswered bool // ever
	lastKnown     clock.Instant

	wait wait
}

// A lane is the way of one class, or of one known token.
type lane struct {
	outages    int  // in a row; of new tokens: silences; of known ones: tokens that met one
	closed     bool // one probe at a time
	closedAt   uint64
	since      clock.Instant // when it closed
	nextProbe  clock.Instant
	unanswered bool // the last outage was a lookup that got no answer
}

// A wait is what the server asked for.
type wait struct {
	until      clock.Instant // not waiting from then on
	asked      bool
	askedAt    uint64 // how many attempts had begun
	nextProbe  clock.Instant
	ofKnown    bool // asked of a known token: it is for all
	unanswered bool // and in place of an answer
}

// refusal says why a lookup may not pass now; nil if it may.
func (l *lanes) refusal(class Class, token Token, now clock.Instant) *failure.Error {
	if l.mustWait(class, now) {
		probe := l.wait.nextProbe
		if class == KnownToken {
			probe = probe.Add(-knownProbesLead)
		}
		if !now.Reached(probe) {
			f := failure.New(failure.Unavailable, "the authorization server asked to wait")
			f.Wait = min(max(now.Until(l.wait.until), time.Second), httpcache.MaxRetryAfter)
			f.Unanswered = class == KnownToken && l.wait.unanswered
			return f
		}
	}
	for _, own := range l.lanesOf(class, token) {
		if own.closed && !now.Reached(own.nextProbe) {
			f := failure.New(failure.Unavailable, "breaker open")
			f.Unanswered = class == KnownToken && own.unanswered
			return f
		}
	}
	return nil
}

// lanesOf returns the lane of the class and, if a known token is failing, its
// own.
func (l *lanes) lanesOf(class Class, token Token) []*lane {
	all := []*lane{&l.lane[class]}
	if own := l.failing.find(token); class == KnownToken && own != nil {
		all = append(all, own)
	}
	return all
}

// squeeze says why a new token does not get through the narrow lane; nil if it
// does. If most do not, the lane closes.
func (l *lanes) squeeze(class Class, now clock.Instant) *failure.Error {
	if class != NewToken {
		return nil
	}
	l.narrow.arrive(now)
	own := &l.lane[NewToken]
	if own.closed || !l.isNarrow() {
		return nil
	}
	if l.narrow.lets() {
		l.passed++
		return nil
	}
	if l.refused++; l.refused > 2*l.passed+refusedAtOnce {
		own.close(l.begun, now)
	}
	return failure.New(failure.Unavailable, "breaker half open")
}

func (l *lanes) isWaiting(now clock.Instant) bool { return l.wait.asked && !now.Reached(l.wait.until) }

// mustWait reports whether the server asked this class to wait.
func (l *lanes) mustWait(class Class, now clock.Instant) bool {
	return l.isWaiting(now) && (class == NewToken || l.wait.ofKnown)
}

func (l *lanes) isNarrow() bool { return l.outages >= outagesToTrouble }

// begin takes note of an attempt, which refusal permitted, and numbers it.
func (l *lanes) begin(class Class, token Token, now clock.Instant) (order uint64) {
	if l.mustWait(class, now) {
		l.wait.nextProbe = now.Add(probeInterval)
		if class == KnownToken {
			l.wait.nextProbe = l.wait.nextProbe.Add(knownProbesLead) // not two a second
		}
	}
	for _, own := range l.lanesOf(class, token) {
		if own.closed {
			own.nextProbe = now.Add(l.timeout + probeInterval) // also if it never ends
		}
	}
	l.begun++
	return l.begun
}

// record takes note of the end of an attempt.
func (l *lanes) record(a attempt, o outcome, f *failure.Error, now clock.Instant) {
	switch o {
	case untold:
		// A probe that tells nothing does not delay the next one.
		for _, own := range l.lanesOf(a.class, a.token) {
			own.probed(a, now)
		}
	case answer:
		l.recordAnswer(a, now)
	case fault, silence:
		l.recordOutage(a, o, f != nil && f.Unanswered, now)
		if f != nil && f.WaitAll {
			l.recordWait(a, f, now)
		}
	}
}

func (l *lanes) recordAnswer(a attempt, now clock.Instant) {
	l.outages, l.passed, l.refused = 0, 0, 0
	l.answered, l.lastAnswer = true, now
	l.clear(NewToken, a)
	if a.class == KnownToken {
		l.knownAnswered, l.lastKnown = true, now
		l.clear(KnownToken, a)
	}
	if l.wait.asked && a.order > l.wait.askedAt {
		l.wait = wait{}
	}
}

// clear clears the lane if the attempt began after it closed.
func (l *lanes) clear(class Class, a attempt) {
	if own := &l.lane[class]; !own.closed || a.order > own.closedAt {
		*own = lane{}
		if class == KnownToken {
			l.failing = nil
		}
	}
}

func (l *lanes) recordOutage(a attempt, o outcome, unanswered bool, now clock.Instant) {
	own := &l.lane[a.class]
	own.unanswered = unanswered
	if a.class == KnownToken {
		if !own.closed {
			l.recordFailing(a, unanswered, now)
			own.outages = len(l.failing)
		}
	} else {
		own.outages++
		l.outages++
		if l.outages == outagesToTrouble {
			l.narrow.allowed = 0
		}
		if o == fault {
			own.outages = 0
		}
	}
	own.probed(a, now)
	if !own.closed && l.isDown(a.class, now) {
		own.close(l.begun, now)
		if a.class == KnownToken {
			l.failing = nil // all of them wait now
		}
	}
}

// recordFailing takes note of an outage in the lane of a known token.
func (l *lanes) recordFailing(a attempt, unanswered bool, now clock.Instant) {
	own := l.failing.find(a.token)
	if own == nil {
		own = l.failing.add(a.token)
	}
	own.unanswered = unanswered
	own.outages++
	own.probed(a, now)
	if !own.closed && own.outages >= outagesToTrouble {
		own.close(l.begun, now)
	}
}

// probed permits the next probe some time after the end of one, which the
// attempt is if it began after the lane closed.
func (own *lane) probed(a attempt, now clock.Instant) {
	if own.closed && a.order > own.closedAt {
		own.nextProbe = now.Add(probeInterval)
	}
}

// isDown reports whether to close the lane.
func (l *lanes) isDown(class Class, now clock.Instant) bool {
	down := l.lane[class].outages >= outagesToTrouble
	if class == KnownToken {
		return down
	}
	return down && !l.isProven(now) ||
		l.isNarrow() && (!l.answered || now.Reached(l.lastAnswer.Add(answerIsProof)))
}

// close closes the lane, which so many attempts entered before.
func (own *lane) close(begun uint64, now clock.Instant) {
	own.closed, own.closedAt, own.since, own.nextProbe = true, begun, now, now.Add(probeInterval)
}

// closedSince returns when the first of the closed lanes of a class closed; nil
// if none is closed.
func (l *lanes) closedSince() *clock.Instant {
	var first *clock.Instant
	for class := range l.lane {
		if own := &l.lane[class]; own.closed && (first == nil || own.since.Mono < first.Mono) {
			since := own.since
			first = &since
		}
	}
	return first
}

// isProven reports whether an answer to a known token shows that the server is
// there.
func (l *lanes) isProven(now clock.Instant) bool {
	return l.knownAnswered && !l.lane[KnownToken].closed && !now.Reached(l.lastKnown.Add(knownIsProof))
}

// recordWait takes note that the server asked to wait. A shorter wait, told to
// another lookup, does not undo a longer one.
func (l *lanes) recordWait(a attempt, f *failure.Error, now clock.Instant) {
	until := now.Add(min(f.Wait, httpcache.MaxRetryAfter))
	if l.isWaiting(now) && !until.Reached(l.wait.until) {
		until = l.wait.until
	}
	switch {
	case !l.isWaiting(now):
		l.wait = wait{asked: true, nextProbe: now.Add(probeInterval)}
	case a.class == KnownToken && !l.wait.ofKnown: // it was a probe
		l.wait.nextProbe = now.Add(probeInterval + knownProbesLead)
	}
	l.wait.until, l.wait.askedAt = until, l.begun
	if a.class == KnownToken { // what new tokens meet tells nothing of it
		l.wait.ofKnown, l.wait.unanswered = true, f.Unanswered
	}
}
