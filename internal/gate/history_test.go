package gate_test

import (
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/gate"
)

// This is what random histories are made of.

// A manner is how a lookup ends.
type manner uint8

const (
	returns manner = iota // with an answer, after the phase's latency
	refuses
	unusable
	fails // 500
	never // 501
	breaks
	gateway // 502
	busy    // 503 with Retry-After
	tooMany // 429 with Retry-After
	resting // 503 without
	hangs
	keyless
	vague
	panics
	exits
	late // answers long after its time
)

// A phase is some time in which the same things happen.
type phase struct {
	manners     [2][]manner // of lookups of new and of known tokens
	least, most time.Duration
	rates       [2]float64 // arrivals a second
	leave       float64    // the share of callers that leave
	hasty       float64    // and of those with little time
	tokens      int        // how many there are
}

var (
	well     = []manner{returns}
	junk     = []manner{returns, fails, fails, fails, fails}
	reset    = []manner{returns, breaks, breaks, breaks, breaks, gateway}
	slowJunk = []manner{returns, hangs, hangs, hangs}
	pausing  = []manner{returns, returns, returns, returns, returns, returns, returns, tooMany}
	limited  = []manner{tooMany, tooMany, busy}
	down     = []manner{breaks}
	silent   = []manner{hangs}
	broken   = []manner{fails}
	hooks    = []manner{returns, returns, panics, exits, late, vague, keyless}
	chaos    = []manner{
		returns, returns, returns, refuses, unusable, fails, never, breaks, gateway, resting, hangs, keyless, vague,
		panics, exits, late, busy, tooMany,
	}
)

// kinds are new tokens' and known tokens' manners, which happen together.
var kinds = [][2][]manner{
	{well, well}, {well, well}, {junk, well}, {broken, well}, {reset, well}, {slowJunk, well}, {down, well},
	{silent, well},
	{pausing, well}, {pausing, pausing}, {limited, limited}, {down, down}, {silent, silent}, {broken, broken},
	{hooks, hooks}, {hooks, well}, {chaos, chaos}, {chaos, well}, {well, down}, {well, broken}, {junk, junk},
	{broken, broken}, {[]manner{busy}, well}, {well, []manner{busy, resting}},
}

func (w *world) newPhase() {
	pick := func(rates ...float64) float64 { return rates[w.random.IntN(len(rates))] * (0.5 + w.random.Float64()) }
	kind := kinds[w.random.IntN(len(kinds))]
	w.phase = &phase{manners: kind, leave: pick(0, 0, 0.02, 0.3), hasty: pick(0, 0, 0.05, 0.5)}
	w.phase.least = time.Duration(pick(0.1, 5, 20) * float64(time.Millisecond))
	w.phase.most = w.phase.least + time.Duration(pick(0, 0, 1, 10, 100, 1500)*float64(time.Millisecond))
	w.phase.tokens = []int{1, 3, 11, 1000, 1000}[w.random.IntN(5)]
	w.phase.rates = [2]float64{pick(0.1, 1, 12, 60, 110, 400, 1500), pick(0.1, 2, 12, 50, 200, 1000)}
	comers := 100 + w.random.IntN(300)
	switch w.random.IntN(8) {
	case 0: // new tokens are kept apart
		w.phase.manners = [2][]manner{kinds[2+w.random.IntN(6)][gate.NewToken], well}
		w.phase.rates = [2]float64{pick(80, 100, 150), pick(0.2, 1)}
		comers *= 3
	case 1: // answers take about as long as there is time
		w.phase.manners = [2][]manner{{returns, late}, {returns, late}}
		w.phase.least = w.ref.timeout / 10 * time.Duration(2+w.random.IntN(7))
		w.phase.most = w.phase.least + w.ref.timeout/10
		rate := pick(2, 4) * float64(w.ref.places) / w.phase.least.Seconds()
		w.phase.rates = [2]float64{rate / 2, rate / 2}
		comers += 32 * min(w.ref.places, 16)
	}
	most := 20 * time.Second
	w.until = w.now + min(most, time.Duration(float64(comers)/(w.phase.rates[0]+w.phase.rates[1])*1e9))
	for class := range w.comes {
		w.comes[class] = w.now + w.gap(class)
	}
}

func (w *world) gap(class int) time.Duration {
	return time.Duration(w.random.ExpFloat64()/w.phase.rates[class]*1e9) / 1000 * 1000
}

// A plan is for a lookup to end, or for its caller to leave.
type plan struct {
	at    time.Duration
	order int
	isEnd bool
	*call
}

type plans []plan

func (p *plans) Len() int      { return len(*p) }
func (p *plans) Swap(i, j int) { (*p)[i], (*p)[j] = (*p)[j], (*p)[i] }
func (p *plans) Less(i, j int) bool {
	a, b := (*p)[i], (*p)[j]
	return a.at < b.at || a.at == b.at && a.order < b.order
}
func (p *plans) Push(x any) { *p = append(*p, x.(plan)) }
func (p *plans) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}

func (p *plans) add(at time.Duration, c *call, isEnd bool) {
	heap.Push(p, plan{at, c.name, isEnd, c})
}

// run has the history happen.
func (w *world) run() error {
	for w.budget > 0 {
		if w.now >= w.until {
			w.newPhase()
		}
		class := gate.NewToken
		if w.comes[gate.KnownToken] < w.comes[gate.NewToken] {
			class = gate.KnownToken
		}
		at := max(w.comes[class], w.now)
		if len(w.plans) > 0 && w.plans[0].at <= at {
			if err := w.next(); err != nil {
				return err
			}
			continue
		}
		if err := w.sleep(at); err != nil {
			return err
		}
		c, ctx := w.newCall(class, w.phase.leave, w.phase.hasty)
		if err := w.arrive(ctx, c); err != nil {
			return err
		}
		w.comes[class] = w.now + w.gap(int(class))
		if w.random.Float64() < 0.1 {
			w.comes[class] = w.edge(class, w.comes[class])
		}
	}
	return nil
}

// edge is a moment at which something changes for a class, or hardly before.
func (w *world) edge(class gate.Class, otherwise time.Duration) time.Duration {
	at := otherwise
	if wait := w.ref.wait(w.now); wait != nil {
		at = w.ref.nextInWait(class, wait)
		if w.random.IntN(4) == 0 {
			at = wait.until
		}
	} else if closed := w.ref.closedBy(class); closed != nil {
		_, at = w.ref.nextProbe(closed)
	}
	if at += time.Duration(w.random.IntN(3)-1) * time.Microsecond; at < w.now || at > w.now+20*time.Second {
		return otherwise
	}
	return at
}

// next has the next plan come true.
func (w *world) next() error {
	p := heap.Pop(&w.plans).(plan)
	if p.ended.seq > 0 {
		return nil
	}
	if err := w.sleep(max(p.at, w.now)); err != nil {
		return err
	}
	if p.isEnd {
		return w.finish(p.call)
	}
	return w.depart(p.call)
}

// newCall returns a lookup that comes now. Whatever the history decides happens
// at a whole microsecond, and what the gate's timers do, half a microsecond
// later: nothing happens at the same moment.
func (w *world) newCall(class gate.Class, leave, hasty float64) (*call, context.Context) {
	left := w.ref.timeout
	if w.random.Float64() < hasty {
		left = time.Duration(w.random.Float64() * float64(left)).Truncate(time.Microsecond)
	}
	left += time.Microsecond / 2
	c := &call{class: class, deadline: w.now + left, driven: driven{name: len(w.calls) + 1, ends: make(chan ending, 1)}}
	c.token = 1 + w.random.IntN(w.phase.tokens)
	ctx, cancel := context.WithDeadline(context.Background(), w.epoch.Add(c.deadline))
	c.cancel = cancel
	w.calls = append(w.calls, c)
	if w.random.Float64() < leave {
		w.plans.add(w.now+rand64(w.random, left), c, false)
	}
	return c, ctx
}

func rand64(r *rand.Rand, below time.Duration) time.Duration {
	return time.Duration(r.Int64N(max(1, int64(below)))).Truncate(time.Microsecond)
}

// plan decides how a lookup that began will end.
func (w *world) plan(c *call) {
	manners := w.phase.manners[c.class]
	how := manners[w.random.IntN(len(manners))]
	took := w.phase.least + rand64(w.random, w.phase.most-w.phase.least)
	overdue := c.deadline - w.now + time.Microsecond/2 // the first whole one after
	unanswered := func(detail string) *failure.Error {
		f := failure.New(failure.Unavailable, detail)
		f.Unanswered = true
		return f
	}
	c.ending = ending{how: returns}
	var err *failure.Error
	switch how {
	case returns:
	case refuses:
		err = failure.New(failure.Inactive, "")
	case unusable:
		err = failure.New(failure.Protocol, "not JSON")
	case fails, never:
		err = unanswered("500")
		err.Faulted, err.Unanswered = true, how == fails
	case breaks, gateway, resting:
		err = unanswered("no connection")
		took = rand64(w.random, 5*time.Millisecond)
	case busy, tooMany:
		err = unanswered("wait")
		err.WaitAll, err.Unanswered = true, how == busy
		err.Wait = time.Duration(1+w.random.IntN(40)) * time.Second
	case hangs:
		took = w.ref.timeout * 2
	case keyless:
		err = failure.New(failure.NoKeys, "keys")
	case vague:
		c.ending.err = errors.New("of a hook")
	case panics, exits:
		c.ending.how = how
	case late:
		c.deaf = true
		took = w.ref.timeout + rand64(w.random, 5*w.ref.timeout)
		if w.random.IntN(2) == 0 {
			err = unanswered("timeout")
		}
	}
	if took > overdue && !c.deaf {
		took, c.ending = overdue, ending{how: returns}
		err = unanswered("timeout")
		err.Cause = context.DeadlineExceeded
	}
	if err != nil {
		c.ending.err = err
	}
	w.plans.add(w.now+max(took.Truncate(time.Microsecond), time.Microsecond), c, true)
}
