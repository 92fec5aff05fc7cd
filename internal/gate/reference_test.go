package gate_test

import (
	"math"
	"slices"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/gate"
)

// A reference says what a Gate has to do, by the package comment. It knows
// nothing but what happened, in order, and counts nothing along the way: each
// question is answered by looking back.
type reference struct {
	places  int
	timeout time.Duration

	moments  int // that were so far
	begun    []*call
	over     []*call    // attempts that ended
	came     []moment   // of new tokens
	narrowed []crossing // of new tokens that came while their lane was narrow
	closings []closing  // of lanes
	askings  []asking   // to wait
	waiting  [2][]*call // by class, the first to come in front
	underWay map[*call]struct{}
}

// A moment is a point in time and, within it, in the order of events.
type moment struct {
	at  time.Duration // since the beginning of the history
	seq int           // 0: it never came
}

// A call is one lookup that came to the gate.
type call struct {
	class    gate.Class
	token    int
	came     moment
	deadline time.Duration
	isLeft   bool // by its caller, before the deadline

	began, ended moment
	short        bool // less than half of its time was left
	scout        bool
	outcome      outcome
	failure      *failure.Error // nil: an answer, or no error at all

	driven
}

type outcome uint8

const (
	answer outcome = iota
	fault
	silence
	untold
)

func (c *call) isOutage() bool { return c.outcome == fault || c.outcome == silence }

// A crossing is an attempt to get through the narrow lane.
type crossing struct {
	moment
	passed bool
}

// A closing is the moment at which a lane closed: that of a class or, with a
// token, that of a known token.
type closing struct {
	moment
	class gate.Class
	token int
}

// An asking is the end of a lookup by which the server asked all to wait.
type asking struct {
	moment
	begin    moment // of the wait: the first asking that is not over
	forAll   moment // the first of a known token since then
	until    time.Duration
	bridging bool // a known token got it in place of an answer
}

// A verdict is what may become of a lookup that comes now.
type verdict struct {
	pass, refuse bool // both: either will do
	why          failure.Error
	vague        bool // about why.Unanswered
}

var passes = verdict{pass: true}

// permits reports whether the verdict permits this refusal.
func (v verdict) permits(f *failure.Error) bool {
	return v.refuse && f.Class == failure.Unavailable && f.Detail == v.why.Detail && f.Wait == v.why.Wait &&
		(v.vague || f.Unanswered == v.why.Unanswered) && f.Cause == nil && !f.WaitAll && !f.Faulted && !f.Lasting
}

func (r *reference) moment(now time.Duration) moment {
	r.moments++
	return moment{now, r.moments}
}

// lastAnswer is the end of the last attempt of one of the classes that was
// answered.
func (r *reference) lastAnswer(classes ...gate.Class) moment {
	for _, c := range slices.Backward(r.over) {
		if c.outcome == answer && slices.Contains(classes, c.class) {
			return c.ended
		}
	}
	return moment{}
}

// newOutages are those of new tokens since the last answer to either class.
func (r *reference) newOutages() (outages []*call) {
	i := len(r.over)
	for i > 0 && r.over[i-1].outcome != answer {
		i--
	}
	for _, c := range r.over[i:] {
		if c.class == gate.NewToken && c.isOutage() {
			outages = append(outages, c)
		}
	}
	return outages
}

// silencesInARow counts those that new tokens have had.
func (r *reference) silencesInARow() (n int) {
	for _, c := range slices.Backward(r.over) {
		switch {
		case c.outcome == answer:
			return n
		case c.class == gate.KnownToken || c.outcome == untold:
		case c.outcome == fault:
			return n
		default:
			n++
		}
	}
	return n
}

// failing are the outages of known tokens since the last answer to one, the
// first in front.
func (r *reference) failing() (outages []*call) {
	for _, c := range slices.Backward(r.over) {
		switch {
		case c.class != gate.KnownToken || c.outcome == untold:
		case c.outcome == answer:
			slices.Reverse(outages)
			return outages
		default:
			outages = append(outages, c)
		}
	}
	slices.Reverse(outages)
	return outages
}

// closedAlone returns the closing of a known token's own lane; nil if that is
// not closed.
func (r *reference) closedAlone(token int) *closing {
	n := 0
	for _, c := range r.failing() {
		if c.token == token {
			if n++; n == 10 {
				return &closing{c.ended, gate.KnownToken, token}
			}
		}
	}
	return nil
}

// closedBy returns the closing since which no attempt that began later cleared
// the lane; nil if the lane is not closed.
func (r *reference) closedBy(class gate.Class) *closing {
	for i := len(r.closings) - 1; i >= 0; i-- {
		last := &r.closings[i]
		if last.class != class {
			continue
		}
		for _, c := range slices.Backward(r.over) {
			if c.ended.seq < last.seq {
				break
			}
			isOurs := c.class == class || class == gate.NewToken
			if c.outcome == answer && isOurs && c.began.seq > last.seq {
				return nil
			}
		}
		return last
	}
	return nil
}

// end takes note of the end of an attempt.
func (r *reference) end(c *call, now time.Duration, f *failure.Error, panicked bool) {
	c.ended, c.failure = r.moment(now), f
	isOver := c.isLeft || now >= c.deadline
	switch {
	case panicked:
		c.outcome = fault
	case f == nil || !f.IsOutage():
		c.outcome = answer
	case c.short && isOver:
		c.outcome = untold
	case f.Faulted:
		c.outcome = fault
	default:
		c.outcome = silence
	}
	r.over = append(r.over, c)
	delete(r.underWay, c)
	if !c.isOutage() {
		return
	}
	if r.closedBy(c.class) == nil && r.isDown(c.class, now) {
		r.closings = append(r.closings, closing{moment: r.moment(now), class: c.class})
	}
	if f != nil && f.WaitAll {
		r.ask(c, now)
	}
}

// isDown reports whether an outage closes the lane of its class.
func (r *reference) isDown(class gate.Class, now time.Duration) bool {
	if class == gate.KnownToken {
		tokens := map[int]bool{}
		for _, c := range r.failing() {
			tokens[c.token] = true
		}
		return len(tokens) >= 10
	}
	known, either := r.lastAnswer(gate.KnownToken), r.lastAnswer(gate.KnownToken, gate.NewToken)
	// What says that the server is there says nothing once ten known tokens in a
	// row were not answered.
	isProven := known.seq > 0 && now < known.at+5*time.Second && r.closedBy(gate.KnownToken) == nil
	isRecent := either.seq > 0 && now < either.at+10*time.Second
	return r.silencesInARow() >= 10 && !isProven || len(r.newOutages()) >= 10 && !isRecent
}

func (r *reference) ask(c *call, now time.Duration) {
	a := asking{moment: r.moment(now), until: now + min(c.failure.Wait, 30*time.Second)}
	a.begin = a.moment
	a.bridging = c.class == gate.KnownToken && c.failure.Unanswered
	if current := r.wait(now); current != nil {
		a.begin, a.forAll, a.until = current.begin, current.forAll, max(a.until, current.until)
	}
	if c.class == gate.KnownToken && a.forAll.seq == 0 {
		a.forAll = a.moment
	}
	r.askings = append(r.askings, a)
}

// wait is the last asking unless its time is over, or an attempt that began
// later was answered.
func (r *reference) wait(now time.Duration) *asking {
	if len(r.askings) == 0 {
		return nil
	}
	last := &r.askings[len(r.askings)-1]
	if now >= last.until {
		return nil
	}
	for _, c := range slices.Backward(r.over) {
		if c.ended.seq < last.seq {
			break
		}
		if c.outcome == answer && c.began.seq > last.seq {
			return nil
		}
	}
	return last
}

// nextInWait is when the next lookup may pass while the server asks to wait.
func (r *reference) nextInWait(class gate.Class, wait *asking) time.Duration {
	next := wait.begin.at + time.Second
	if wait.forAll.seq > wait.begin.seq { // that was asked of a known token's probe
		next = wait.forAll.at + time.Second + time.Second/2
	}
	for _, last := range slices.Backward(r.begun) {
		if last.began.seq < wait.begin.seq {
			break
		}
		isForAll := wait.forAll.seq > 0 && last.began.seq > wait.forAll.seq
		switch {
		case isForAll && last.class == gate.KnownToken:
			next = last.began.at + time.Second + time.Second/2
		case isForAll || last.class == gate.NewToken && wait.forAll.seq <= wait.begin.seq:
			next = last.began.at + time.Second
		default:
			continue
		}
		break
	}
	if class == gate.KnownToken {
		next -= time.Second / 2
	}
	return next
}

// isHeld reports whether the wait is for the class.
func (a *asking) isHeld(class gate.Class) bool { return class == gate.NewToken || a.forAll.seq > 0 }

// nextProbe is when the next lookup may pass, and when it must, since the lane
// closed.
func (r *reference) nextProbe(c *closing) (may, must time.Duration) {
	isProbe := func(a *call) bool {
		return a.class == c.class && a.began.seq > c.seq && (c.token == 0 || a.token == c.token)
	}
	last := c.moment
	may, must = c.at+time.Second, c.at+time.Second
	for _, a := range slices.Backward(r.begun) {
		if isProbe(a) {
			last = a.began // as long as it may take, there is no other
			may, must = last.at+r.timeout+time.Second, last.at+r.timeout+time.Second
			break
		}
		if a.began.seq < c.seq {
			break
		}
	}
	told := time.Duration(0)
	for _, a := range slices.Backward(r.over) {
		switch next := a.ended.at + time.Second; {
		case a.ended.seq < last.seq:
			return may, must
		case !isProbe(a):
		case a.isOutage():
			return next, max(next, told)
		default: // it told nothing, which is no reason to wait for longer
			may, must, told = min(may, next), max(must, next), max(told, next)
		}
	}
	return may, must
}

// lanes says whether a lookup of the class may be sent now.
func (r *reference) lanes(class gate.Class, token int, now time.Duration) verdict {
	isKnown := class == gate.KnownToken
	if wait := r.wait(now); wait != nil && wait.isHeld(class) && now < r.nextInWait(class, wait) {
		left := min(max(wait.until-now, time.Second), 30*time.Second)
		v := verdict{refuse: true, why: failure.Error{Detail: "the authorization server asked to wait", Wait: left}}
		v.why.Unanswered = isKnown && wait.bridging
		for _, a := range r.askings {
			v.vague = v.vague || isKnown && a.begin == wait.begin && a.bridging != wait.bridging
		}
		return v
	}
	closed := r.closedBy(class)
	if closed == nil && isKnown {
		closed = r.closedAlone(token)
	}
	if closed == nil {
		return passes
	}
	may, must := r.nextProbe(closed)
	v := verdict{pass: now >= may, refuse: now < must, why: failure.Error{Detail: "breaker open"}}
	for _, c := range slices.Backward(r.over) {
		if c.class == class && c.isOutage() && (closed.token == 0 || c.token == token) {
			v.why.Unanswered = isKnown && c.failure != nil && c.failure.Unanswered
			break
		}
	}
	return v
}

// narrow says whether a new token that came now gets through the narrow lane.
// The chance is the least that it has.
func (r *reference) narrow(now time.Duration) (v verdict, chance float64) {
	outages := r.newOutages()
	if len(outages) < 10 || r.closedBy(gate.NewToken) != nil {
		return passes, 1
	}
	// The lane lets 95 a second pass, and 20 of these at once. It may or may not
	// have saved some of them up when it became narrow.
	const rate, burst = 95.0, 20.0
	since := outages[9].ended
	most, least := burst, rate*(now-since.at).Seconds()
	passed := 0.0
	for _, c := range slices.Backward(r.narrowed) {
		if c.seq < since.seq {
			break
		}
		if c.passed {
			passed++
			saved := burst + rate*(now-c.at).Seconds() - passed
			most, least = min(most, saved), min(least, saved)
		}
	}
	least = min(least-passed, most)
	arrivals := 0.0
	for _, c := range slices.Backward(r.came) {
		age := (now - c.at).Seconds()
		if age > 10 {
			break
		}
		arrivals += math.Exp(-age)
	}
	v = verdict{pass: most > 1-1e-6, refuse: least < 1+1e-6 || arrivals > 85}
	v.why.Detail = "breaker half open"
	if least > 1 {
		chance = min(1, 85/arrivals)
	}
	return v, chance
}

// cross takes note of a new token that came while its lane was narrow. If most
// are kept out, the lane closes.
func (r *reference) cross(now time.Duration, passed bool) {
	r.narrowed = append(r.narrowed, crossing{r.moment(now), passed})
	last, in, out := r.lastAnswer(gate.KnownToken, gate.NewToken), 0, 0
	for _, c := range slices.Backward(r.narrowed) {
		switch {
		case c.seq < last.seq:
		case c.passed:
			in++
		default:
			out++
		}
	}
	if out > 2*in+20 {
		r.closings = append(r.closings, closing{moment: r.moment(now), class: gate.NewToken})
	}
}

func (r *reference) isNarrow() bool {
	return len(r.newOutages()) >= 10 && r.closedBy(gate.NewToken) == nil
}
