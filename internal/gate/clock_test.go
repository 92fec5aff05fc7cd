package gate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/gate"
)

// These tests run on the machine's clock, because virtual time stands still
// until nothing else can happen: it never lets a turn, a deadline and a caller
// that leaves meet by themselves. No test says how long anything takes, but for
// a time after which it must have hung.

const hung = 30 * time.Second

// inTime runs a test that could hang.
func inTime(t *testing.T, test func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		test()
	}()
	select {
	case <-done:
	case <-time.After(3 * hung):
		stacks := make([]byte, 1<<20)
		t.Fatalf("it hangs:\n%s", stacks[:runtime.Stack(stacks, true)])
	}
}

// waitUntil waits until something is so.
func waitUntil(t *testing.T, what string, isSo func() bool) {
	t.Helper()
	for end := time.Now().Add(hung); !isSo(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			t.Errorf("never came: %s", what)
			return
		}
	}
}

// allPlaces checks that as many lookups as there are places can be under way at
// once, whatever happened before.
func allPlaces(t *testing.T, g *gate.Gate, places int) {
	t.Helper()
	var callers sync.WaitGroup
	var inside atomic.Int64
	release := make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), 2*hung)
	defer cancel()
	for i := range places {
		callers.Go(func() {
			err := g.Do(ctx, gate.Class(i%2), gate.Token{}, func(context.Context) error {
				inside.Add(1)
				<-release
				return nil
			})
			if err != nil {
				t.Errorf("of %d at once, one got: %v", places, err)
				inside.Add(1)
			}
		})
	}
	waitUntil(t, "the last place", func() bool { return inside.Load() == int64(places) })
	close(release)
	cancel() // for those who wait in vain
	callers.Wait()
}

// A jumble is a great many lookups at once that end in all ways.
type jumble struct {
	gate             *gate.Gate
	places           int
	step             time.Duration // of all that takes time
	under, most, ran atomic.Int64
}

// one is one caller. Its lookup is answered, refused, panics or ends its
// goroutine; it may leave, and it may have hardly any time.
func (j *jumble) one(t *testing.T, random *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), j.step*time.Duration(1+random.IntN(20)))
	defer cancel()
	if random.IntN(4) == 0 {
		if steps := random.IntN(8); steps > 0 {
			time.AfterFunc(j.step*time.Duration(steps), cancel)
		} else {
			go cancel() // timers due at once crash the race detector in a bubble (golang/go#78156)
		}
	}
	took, how := j.step*time.Duration(random.IntN(4)), random.IntN(40)
	defer func() { _ = recover() }()
	err := j.gate.Do(ctx, gate.Class(random.IntN(2)), gate.Token{}, func(ctx context.Context) error {
		now := j.under.Add(1)
		defer j.under.Add(-1)
		for most := j.most.Load(); now > most && !j.most.CompareAndSwap(most, now); most = j.most.Load() {
		}
		j.ran.Add(1)
		if took > 0 {
			time.Sleep(took)
		}
		switch how {
		case 0:
			panic("a hook")
		case 1:
			runtime.Goexit()
		case 2, 3, 4:
			return failure.New(failure.Inactive, "")
		}
		return nil
	})
	switch f, ok := err.(*failure.Error); {
	case err == nil || ok && f.Class == failure.Inactive:
	case !isNoPlace(err) && (!ok || f.Detail != "too many lookups waiting"):
		t.Errorf("a lookup came back with %v", err)
	}
}

// run has so many callers come again and again.
func (j *jumble) run(t *testing.T, callers, times int) {
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), uint64(j.places)))
			for range times {
				var one sync.WaitGroup
				one.Go(func() { j.one(t, random) }) // it may end its goroutine
				one.Wait()
			}
		})
	}
	all.Wait()
	if most := j.most.Load(); most > int64(j.places) || j.ran.Load() == 0 {
		t.Errorf("%d lookups at once, %d in all", most, j.ran.Load())
	}
}

// Whatever ends a lookup or its wait, its place comes back, and there are never
// more lookups under way than places.
func TestEveryPlaceComesBack(t *testing.T) {
	for _, places := range []int{1, 2, 5} {
		if t.Failed() {
			break // each of them would wait for long
		}
		t.Run(fmt.Sprint(places), func(t *testing.T) {
			j := &jumble{gate: gate.New(places, 20*time.Millisecond), places: places, step: 100 * time.Microsecond}
			inTime(t, func() {
				j.run(t, 48, 250/scale)
				allPlaces(t, j.gate, places)
			})
		})
	}
}

// The same in virtual time, where whatever is due at the same moment happens at
// the same moment.
func TestEveryPlaceComesBackIfAllHappensAtTheSameMoment(t *testing.T) {
	for _, places := range []int{1, 2, 5, 64} {
		t.Run(fmt.Sprint(places), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := &jumble{gate: gate.New(places, time.Second), places: places, step: 10 * time.Millisecond}
				j.run(t, 40+2*places, 400/scale)
				allPlaces(t, j.gate, places)
			})
		})
	}
}

// A holder has the only place until it is released.
func hold(g *gate.Gate, callers *sync.WaitGroup) (release func()) {
	begun, end := make(chan struct{}), make(chan struct{})
	callers.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*hung)
		defer cancel()
		_ = g.Do(ctx, gate.KnownToken, gate.Token{}, func(context.Context) error {
			close(begun)
			<-end
			return nil
		})
	})
	<-begun
	return func() { close(end) }
}

// A caller that leaves at the moment of its turn gives the place to the next in
// the queue.
func TestWhoLeavesAtItsTurnGivesThePlaceToTheNext(t *testing.T) {
	inTime(t, func() {
		ran := 0
		for i := 0; i < 600/scale && !t.Failed(); i++ {
			g := gate.New(1, 2*hung)
			var callers sync.WaitGroup
			release := hold(g, &callers)
			leaving, leave := context.WithTimeout(context.Background(), 2*hung)
			staying, stop := context.WithTimeout(context.Background(), 2*hung)
			first, second := false, false
			callers.Go(func() {
				err := g.Do(leaving, gate.Class(i%2), gate.Token{}, func(context.Context) error { first = true; return nil })
				if first != (err == nil) || !first && !isNoPlace(err) {
					t.Errorf("who left was sent: %v, and got: %v", first, err)
				}
			})
			waitUntil(t, "the first waiter", func() bool { return g.Waiting(gate.Class(i%2)) == 1 })
			callers.Go(func() {
				err := g.Do(staying, gate.Class(i%2), gate.Token{}, func(context.Context) error { second = true; return nil })
				if err != nil {
					t.Errorf("who stayed got: %v", err)
				}
			})
			waitUntil(t, "the second waiter", func() bool { return g.Waiting(gate.Class(i%2)) == 2 })
			moves := []func(){leave, release} // the last to start is often the first to run
			callers.Go(moves[i/2%2])
			callers.Go(moves[1-i/2%2])
			callers.Wait()
			stop()
			if !second {
				t.Error("who stayed was not sent")
			}
			if first {
				ran++
			}
			allPlaces(t, g, 1)
		}
		t.Logf("of %d who left, %d had been sent", 600/scale, ran)
	})
}

// A deadline at the moment of a turn takes no place with it.
func TestADeadlineAtItsTurnTakesNoPlaceWithIt(t *testing.T) {
	inTime(t, func() {
		g := gate.New(1, time.Second)
		var callers sync.WaitGroup
		for i := 0; i < 500/scale && !t.Failed(); i++ {
			release := hold(g, &callers)
			for range 8 {
				callers.Go(func() {
					left := time.Duration(200+20*(i%10)) * time.Microsecond
					ctx, cancel := context.WithTimeout(context.Background(), left)
					defer cancel()
					_ = g.Do(ctx, gate.NewToken, gate.Token{}, func(context.Context) error { return nil })
				})
			}
			time.Sleep(time.Duration(100+i%200) * time.Microsecond)
			release()
			callers.Wait()
		}
		allPlaces(t, g, 1)
	})
}

// One slow answer turns none of those away who come later.
func TestOneSlowAnswerTurnsNoLaterOnesAway(t *testing.T) {
	inTime(t, func() {
		const places = 2
		g := gate.New(places, hung/2)
		var callers sync.WaitGroup
		var answered atomic.Int64
		ask := func(took time.Duration) {
			ctx, cancel := context.WithTimeout(context.Background(), hung/2)
			defer cancel()
			err := g.Do(ctx, gate.NewToken, gate.Token{}, func(context.Context) error { time.Sleep(took); return nil })
			if err != nil {
				t.Error(err)
				return
			}
			answered.Add(1)
		}
		for range places {
			callers.Go(func() { ask(300 * time.Millisecond) })
		}
		waitUntil(t, "a slow answer", func() bool { return answered.Load() > 0 })
		for range 30 * places {
			callers.Go(func() { ask(time.Millisecond) })
		}
		callers.Wait()
	})
}

// Known tokens go first, and new ones have a quarter: of four turns one, if
// there are fewer than four places.
func TestKnownTokensGoFirst(t *testing.T) {
	for _, test := range []struct {
		places int
		order  string // in which 9 known and 9 new tokens get places, one at a time
	}{
		{1, "kkknkkknkkknnnnnnn"},
		{3, "kkknkkknkkknnnnnnn"},
		{4, "nkkkkkkkkknnnnnnnn"}, // a quarter is one place, which the first keeps
		{8, "nnkkkkkkkkknnnnnnn"},
	} {
		t.Run(fmt.Sprint(test.places), func(t *testing.T) {
			inTime(t, func() { checkOrder(t, test.places, test.order) })
		})
	}
}

func checkOrder(t *testing.T, places int, order string) {
	g := gate.New(places, 2*hung)
	var callers sync.WaitGroup
	var mu sync.Mutex
	var got []byte
	ends := map[byte][]chan struct{}{} // of those under way, by kind
	for range places {
		end := make(chan struct{})
		release := hold(g, &callers)
		callers.Go(func() { <-end; release() })
		ends['h'] = append(ends['h'], end)
	}
	for range 9 {
		for class, kind := range []byte("nk") {
			before := g.Waiting(gate.Class(class))
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 2*hung)
				defer cancel()
				err := g.Do(ctx, gate.Class(class), gate.Token{}, func(context.Context) error {
					end := make(chan struct{})
					mu.Lock()
					got = append(got, kind)
					ends[kind] = append(ends[kind], end)
					mu.Unlock()
					<-end
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
			waitUntil(t, "a waiter", func() bool { return g.Waiting(gate.Class(class)) == before+1 })
		}
	}
	// Those who held the places end first, then known tokens, then new ones.
	for i := range 18 + places {
		mu.Lock()
		for _, kind := range []byte("hkn") {
			if len(ends[kind]) > 0 {
				close(ends[kind][0])
				ends[kind] = slices.Delete(ends[kind], 0, 1)
				break
			}
		}
		mu.Unlock()
		waitUntil(t, "the next turn", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) >= min(i+1, 18)
		})
	}
	callers.Wait()
	if string(got) != order {
		t.Errorf("places went to %s, want %s", got, order)
	}
}
