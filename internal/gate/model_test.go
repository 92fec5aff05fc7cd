package gate_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/gate"
)

// newSeeds is for finding what the usual histories do not show.
var newSeeds = flag.Bool("newseeds", false, "TestTheGateDoesWhatItPromises: histories that no run has seen before")

// Random histories drive a Gate beside a reference that derives from the plain
// history, by the package comment, what must happen next: known and new tokens
// at changing rates, a server that answers, slows down, fails, asks to wait and
// returns, callers that leave, hooks that panic or are deaf to their context,
// few and many places. A failure names its seed and what came before it.
func TestTheGateDoesWhatItPromises(t *testing.T) {
	seeds := 320 / scale
	var total tally
	t.Run("seeds", func(t *testing.T) {
		for i := range seeds {
			seed := uint64(i)
			if *newSeeds {
				seed = rand.Uint64()
			}
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { runHistory(t, seed, i, 3500, &total) })
			})
		}
	})
	t.Log(total.String())
	if scale == 1 && total.events.Load() < 1_000_000 {
		t.Errorf("only %d events", total.events.Load())
	}
	total.checkThatAllHappened(t)
	total.checkNarrowLane(t)
}

// A tally is what all histories together contained.
type tally struct {
	events, begun, answers, faults, silences, untold, waits, scouts, late, left, full, toldToWait, closed, kept,
	closedAlone, closedKnown, closedNew atomic.Int64

	mu               sync.Mutex
	expected, spread float64 // of those who came while the lane was narrow and had room
	passed           float64
}

func (c *tally) rare() map[string]*atomic.Int64 {
	return map[string]*atomic.Int64{
		"answers": &c.answers, "faults": &c.faults, "silences": &c.silences, "attempts that tell nothing": &c.untold,
		"waits in the queue": &c.waits, "scouts": &c.scouts, "waiters whose time was over": &c.late,
		"waiters who left": &c.left, "full queues": &c.full, "refusals in a wait": &c.toldToWait,
		"refusals of a closed lane": &c.closed, "refusals of a known token's own lane": &c.closedAlone, "refusals of the narrow lane": &c.kept,
		"closings for known tokens": &c.closedKnown, "closings for new tokens": &c.closedNew,
	}
}

func (c *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d events, %d lookups begun", c.events.Load(), c.begun.Load())
	for what, n := range c.rare() {
		fmt.Fprintf(&b, ", %d %s", n.Load(), what)
	}
	fmt.Fprintf(&b, "; the narrow lane let %.0f pass, at least %.0f by chance", c.passed, c.expected)
	return b.String()
}

// A history in which little happens proves little. What is rare is only sure to
// happen at full length.
func (c *tally) checkThatAllHappened(t *testing.T) {
	for what, n := range c.rare() {
		if scale == 1 && n.Load() < 20 {
			t.Errorf("the histories contain only %d %s", n.Load(), what)
		}
	}
}

// The narrow lane lets about nine of ten of its rate pass, whoever comes how
// often: chance keeps out no more than it has to.
func (c *tally) checkNarrowLane(t *testing.T) {
	if c.passed < c.expected-7*math.Sqrt(c.spread)-5 {
		t.Errorf("the narrow lane let %.0f pass, want at least about %.0f", c.passed, c.expected)
	}
}

// driven is the part of a call that the history decides.
type driven struct {
	name   int
	deaf   bool // to its context
	cancel context.CancelFunc
	ending ending
	ends   chan ending
}

// An ending is how a lookup ends.
type ending struct {
	err error
	how manner
}

// An entry of the log says that a lookup began, or that Do came to its end.
type entry struct {
	*call
	isBegin bool
	at      time.Duration
	err     error
	how     manner // panics, exits or returns
}

// A world is one history: a gate, the reference, and what is still to come.
type world struct {
	random *rand.Rand
	gate   *gate.Gate
	ref    *reference
	tally  *tally
	epoch  time.Time
	now    time.Duration
	calls  []*call
	budget int
	phase  *phase
	until  time.Duration // of the phase
	comes  [2]time.Duration
	plans  plans
	turns  []gate.Class // while both classes waited for few places

	mu    sync.Mutex
	log   []entry
	abort chan struct{}

	story [80]string // the latest events
	told  int
}

func runHistory(t *testing.T, seed uint64, i, budget int, total *tally) {
	places := []int{1, 2, 4, 64}[i%4]
	timeout := []time.Duration{200 * time.Millisecond, time.Second, 3 * time.Second}[i/4%3]
	w := &world{
		random: rand.New(rand.NewPCG(seed, uint64(i))),
		gate:   gate.New(places, timeout),
		ref:    &reference{places: places, timeout: timeout, underWay: map[*call]struct{}{}},
		tally:  total, epoch: time.Now(), budget: budget, abort: make(chan struct{}),
	}
	err := w.run()
	if err == nil {
		err = w.windDown()
	}
	if err != nil {
		w.end()
		t.Fatalf("seed %d, %d places, timeout %v: %v after\n%s", seed, places, timeout, err, w.lately())
	}
}

// tell remembers what happened.
func (w *world) tell(what string, c *call, more any) {
	w.budget--
	w.tally.events.Add(1)
	w.story[w.told%len(w.story)] = fmt.Sprintf("%12v %s", w.now, what)
	if c != nil {
		w.story[w.told%len(w.story)] += fmt.Sprintf(" #%d %s %d, deadline %v: %v",
			c.name, nameOf(c.class), c.token, c.deadline, more)
	}
	w.told++
}

func tokenOf(name int) gate.Token { return gate.Token{byte(name), byte(name >> 8), byte(name >> 16)} }

func nameOf(class gate.Class) string {
	if class == gate.KnownToken {
		return "known"
	}
	return "new"
}

func (w *world) lately() string {
	var b strings.Builder
	for i := max(0, w.told-len(w.story)); i < w.told; i++ {
		b.WriteString(w.story[i%len(w.story)] + "\n")
	}
	return b.String()
}

// end ends all that is still under way after a failure.
func (w *world) end() {
	close(w.abort)
	for _, c := range w.calls {
		c.cancel()
	}
	synctest.Wait()
}

func (w *world) enter(e entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.at = time.Since(w.epoch)
	w.log = append(w.log, e)
}

// settle waits until nothing happens any more, and returns what happened.
func (w *world) settle() []entry {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	log := w.log
	w.log = nil
	return log
}

// do is a caller.
func (w *world) do(ctx context.Context, c *call) {
	e := entry{call: c, how: exits}
	defer func() {
		if p := recover(); p != nil {
			e.how = panics
		}
		w.enter(e)
	}()
	e.err = w.gate.Do(ctx, c.class, tokenOf(c.token), func(ctx context.Context) error {
		w.enter(entry{call: c, isBegin: true})
		select {
		case end := <-c.ends:
			switch end.how {
			case panics:
				panic("a hook")
			case exits:
				runtime.Goexit()
			}
			return end.err
		case <-w.abort:
			return nil
		}
	})
	e.how = returns
}

// sleep lets time pass. Meanwhile nothing may happen but that waiters leave.
func (w *world) sleep(until time.Duration) error {
	time.Sleep(until - time.Since(w.epoch))
	for _, e := range w.settle() {
		w.now = e.at
		if e.isBegin || !w.ref.leave(e.call) {
			return fmt.Errorf("#%d began or ended by itself", e.name)
		}
		w.tell("time is over for", e.call, e.err)
		w.tally.late.Add(1)
		if !isNoPlace(e.err) || !w.ref.mayGiveUp(e.call, e.at) {
			return fmt.Errorf("#%d left the queue: %v", e.name, e.err)
		}
	}
	w.now = until
	return nil
}

func isNoPlace(err error) bool {
	f, ok := err.(*failure.Error)
	return ok && f.Class == failure.Unavailable && f.Detail == "no place in time" && f.Wait == 0 && !f.Unanswered &&
		!f.WaitAll && !f.Faulted && !f.Lasting && (f.Cause == nil || errors.Is(f, context.DeadlineExceeded))
}

// arrive has a lookup come to the gate, and checks what becomes of it.
func (w *world) arrive(ctx context.Context, c *call) error {
	r := w.ref
	c.came = r.moment(w.now)
	go w.do(ctx, c)
	var seen *entry
	for _, e := range w.settle() {
		if seen != nil || e.call != c {
			return fmt.Errorf("the arrival of #%d had a consequence for #%d", c.name, e.name)
		}
		seen = &e
	}
	f, _ := error(nil).(*failure.Error)
	if seen != nil && !seen.isBegin {
		if f, _ = seen.err.(*failure.Error); f == nil {
			return fmt.Errorf("#%d came back with %v", c.name, seen.err)
		}
	}
	w.tell("arrives", c, f)
	if v := r.lanes(c.class, c.token, w.now); !v.pass || f != nil && v.permits(f) {
		return w.refused(c, f, v)
	}
	if c.class == gate.NewToken {
		r.came = append(r.came, r.moment(w.now))
		wasNarrow := r.isNarrow()
		v, chance := r.narrow(w.now)
		isKept := f != nil && v.permits(f)
		w.chance(wasNarrow && chance > 0 && v.refuse, chance, !isKept)
		if wasNarrow {
			r.cross(w.now, !isKept)
		}
		if !v.pass || isKept {
			return w.refused(c, f, v)
		}
	}
	switch waiting := len(r.waiting[c.class]); {
	case r.free() > 0:
		if seen == nil || !seen.isBegin {
			return fmt.Errorf("%d places are free, and #%d did not get one: %v", r.free(), c.name, f)
		}
		w.begin(c)
	case seen != nil && seen.isBegin:
		return fmt.Errorf("#%d got a place that is not there", c.name)
	case waiting >= 32*r.places:
		w.tally.full.Add(1)
		if f == nil || f.Detail != "too many lookups waiting" || f.Class != failure.Unavailable || f.Unanswered {
			return fmt.Errorf("%d wait, and #%d as well: %v", waiting, c.name, f)
		}
	case f == nil:
		w.tally.waits.Add(1)
		r.waiting[c.class] = append(r.waiting[c.class], c)
	case !isNoPlace(f) || !r.mayGiveUp(c, w.now):
		return fmt.Errorf("#%d was refused: %v", c.name, f)
	}
	return nil
}

// chance takes note of one that came while the lane was narrow.
func (w *world) chance(counts bool, chance float64, passed bool) {
	if !counts {
		return
	}
	w.tally.mu.Lock()
	defer w.tally.mu.Unlock()
	w.tally.expected += chance
	w.tally.spread += chance * (1 - chance)
	if passed {
		w.tally.passed++
	}
}

// refused checks a refusal of the lanes.
func (w *world) refused(c *call, f *failure.Error, v verdict) error {
	switch v.why.Detail {
	case "breaker open":
		w.tally.closed.Add(1)
		if w.ref.closedBy(c.class) == nil {
			w.tally.closedAlone.Add(1)
		}
	case "breaker half open":
		w.tally.kept.Add(1)
	default:
		w.tally.toldToWait.Add(1)
	}
	if f == nil || !v.permits(f) {
		return fmt.Errorf("#%d: %+v, want %+v", c.name, f, v.why)
	}
	return nil
}

func (w *world) begin(c *call) {
	w.ref.begin(c, w.now)
	w.tally.begun.Add(1)
	w.tell("begins", c, c.short)
	w.plan(c)
}

// finish ends a lookup, and checks to whom its place goes.
func (w *world) finish(c *call) error {
	r := w.ref
	c.ends <- c.ending
	rest := map[*call]entry{}
	for _, e := range w.settle() {
		if _, twice := rest[e.call]; twice {
			return fmt.Errorf("#%d began and ended at once", e.name)
		}
		rest[e.call] = e
	}
	own, ok := rest[c]
	delete(rest, c)
	w.tell("ends", c, own.err)
	if !ok || own.how != c.ending.how {
		return fmt.Errorf("#%d did not come back as it ended: %v", c.name, own.how)
	}
	var f *failure.Error
	if c.ending.err != nil && c.ending.how == returns {
		f = failure.From(c.ending.err, failure.Unavailable, "")
	}
	closings := len(r.closings)
	r.end(c, w.now, f, c.ending.how != returns)
	w.count(c, closings)
	if err := checkResult(c, own.err); err != nil {
		return err
	}
	if err := w.handOn(rest); err != nil {
		return err
	}
	for other, e := range rest {
		return fmt.Errorf("the end of #%d had a consequence for #%d: it began: %v, %v",
			c.name, other.name, e.isBegin, e.err)
	}
	return nil
}

func (w *world) count(c *call, closings int) {
	switch c.outcome {
	case answer:
		w.tally.answers.Add(1)
	case fault:
		w.tally.faults.Add(1)
	case silence:
		w.tally.silences.Add(1)
	case untold:
		w.tally.untold.Add(1)
	}
	if len(w.ref.closings) > closings {
		w.tell("closes the lane", c, c.outcome)
		if c.class == gate.KnownToken {
			w.tally.closedKnown.Add(1)
		} else {
			w.tally.closedNew.Add(1)
		}
	}
}

// checkResult checks that a caller gets what its lookup returned. Only a lookup
// that lost its time in the queue cannot say that the server did not answer.
func checkResult(c *call, err error) error {
	got, _ := err.(*failure.Error)
	switch {
	case c.failure == nil:
		if err != nil {
			return fmt.Errorf("#%d came back with %v", c.name, err)
		}
	case got == nil:
		return fmt.Errorf("#%d came back with %v, not with %v", c.name, err, c.failure)
	case c.outcome == untold:
		want := *c.failure
		if want.Unanswered = false; *got != want {
			return fmt.Errorf("#%d came back with %+v, not with %+v", c.name, *got, want)
		}
	case *got != *c.failure:
		return fmt.Errorf("#%d came back with %+v, not with %+v", c.name, *got, *c.failure)
	}
	return nil
}

// handOn checks who got the free places.
func (w *world) handOn(rest map[*call]entry) error {
	r := w.ref
	// If several places are given away at once, only their holders' order decides
	// which is the probe of a closed lane.
	isClear := r.free() == 1
	isInOrder := true // of turns: who is refused at once may have had his at any time
	for r.free() > 0 {
		candidates, isContended := r.next(w.now)
		if len(candidates) == 0 {
			break
		}
		c, isSure := whose(candidates, rest)
		if c == nil {
			return fmt.Errorf("%d places are free, and #%d gets none", r.free(), candidates[0].name)
		}
		if err := w.dismiss(r.tooLate(c, w.now), rest); err != nil {
			return err
		}
		isInOrder = isInOrder && isSure
		if err := w.turn(c, isContended && isInOrder); err != nil {
			return err
		}
		e := rest[c]
		delete(rest, c)
		isScout := c.deadline-w.now <= shortest(r.over, c.class) && len(recent(r.over, c.class)) > 0
		r.leave(c)
		switch v := r.lanes(c.class, c.token, w.now); {
		case e.isBegin:
			if !v.pass && isClear {
				return fmt.Errorf("#%d was sent, want %+v", c.name, v.why)
			}
			if c.scout = isScout; isScout {
				w.tally.scouts.Add(1)
			}
			w.begin(c)
		default:
			w.tell("had to wait, and is refused", c, e.err)
			f, _ := e.err.(*failure.Error)
			if v.refuse || isClear {
				if err := w.refused(c, f, v); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// whose finds out which of the candidates got the place. Several may have, one
// after the other, of whom only the last was sent: the order is not sure.
func whose(candidates []*call, rest map[*call]entry) (c *call, isSure bool) {
	n := 0
	for _, candidate := range candidates {
		if e, ok := rest[candidate]; ok && !isNoPlace(e.err) {
			if n++; c == nil || !e.isBegin {
				c = candidate
			}
		}
	}
	return c, n == 1
}

// dismiss checks that those left who have no time for any answer.
func (w *world) dismiss(late []*call, rest map[*call]entry) error {
	for _, c := range late {
		e, ok := rest[c]
		if !ok || e.isBegin || !isNoPlace(e.err) {
			return fmt.Errorf("#%d was passed over and did not leave: %v", c.name, e.err)
		}
		w.tell("is passed over", c, e.err)
		w.tally.late.Add(1)
		delete(rest, c)
		w.ref.leave(c)
	}
	return nil
}

// turn checks that one of four turns is a new token's if there are so few
// places that they have no quarter, and the others those of known tokens.
func (w *world) turn(c *call, isContended bool) error {
	if !isContended || w.ref.places >= 4 {
		w.turns = nil
		return nil
	}
	w.turns = append(w.turns, c.class)
	fresh, n := 0, len(w.turns)
	for _, class := range w.turns {
		if class == gate.NewToken {
			fresh++
		}
	}
	if fresh < n/4 || fresh > (n+3)/4 {
		return fmt.Errorf("%d of %d turns were those of new tokens, lately #%d", fresh, n, c.name)
	}
	return nil
}

// depart has the caller of a lookup leave.
func (w *world) depart(c *call) error {
	c.isLeft = true
	c.cancel()
	w.tell("the caller leaves", c, "")
	isWaiting := w.ref.leave(c)
	if events := w.settle(); len(events) > 0 {
		e := events[0]
		if e.call != c || !isWaiting || e.isBegin || !isNoPlace(e.err) {
			return fmt.Errorf("#%d left, and #%d: %v", c.name, e.name, e.err)
		}
		w.tally.left.Add(1)
		return nil
	}
	if isWaiting {
		return fmt.Errorf("#%d left and still waits", c.name)
	}
	if c.began.seq > 0 && !c.deaf {
		c.ending = ending{err: failure.Because(failure.Unavailable, "timeout", context.Canceled)}
		w.plans.add(w.now+time.Microsecond, c, true)
	}
	return nil
}

// windDown ends all that is under way. Then every place is free again, and the
// server's answer ends all that was held against it.
func (w *world) windDown() error {
	for len(w.plans) > 0 {
		if err := w.next(); err != nil {
			return err
		}
	}
	if err := w.sleep(w.now + w.ref.timeout + 32*time.Second); err != nil {
		return err
	}
	if n := len(w.ref.underWay) + len(w.ref.waiting[0]) + len(w.ref.waiting[1]); n > 0 {
		return fmt.Errorf("%d are still there", n)
	}
	w.phase = &phase{
		manners: [2][]manner{{returns}, {returns}}, least: time.Millisecond, most: time.Millisecond, tokens: 1000,
	}
	c, ctx := w.newCall(gate.KnownToken, 0, 0)
	if err := w.arrive(ctx, c); err != nil {
		return err
	}
	for w.sleep(w.now+time.Second) == nil && len(w.plans) > 0 {
		if err := w.next(); err != nil {
			return err
		}
	}
	for i := range w.ref.places {
		c, ctx := w.newCall(gate.Class(i%2), 0, 0)
		if err := w.arrive(ctx, c); err != nil {
			return fmt.Errorf("lookup %d of as many as there are places: %w", i, err)
		}
		if c.began.seq == 0 {
			return fmt.Errorf("place %d of %d did not come back", i, w.ref.places)
		}
	}
	for len(w.plans) > 0 {
		if err := w.next(); err != nil {
			return err
		}
	}
	return nil
}
