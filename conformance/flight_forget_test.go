package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// Purge runs while a thousand lookups are under way. They answer their
// requests and are not remembered.
//
// Catalogue: C213.
func TestFlightBegunBeforePurgeIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
			time.Sleep(100 * time.Millisecond)
			return says(1)
		}}
		m := o.middleware(t, phantom.WithMaxInFlight(1000))
		request := func(i int) string { return idOf(m, fmt.Sprintf("token-%d", i)) }
		all := func(after time.Duration) map[ending]int { return map[ending]int{{"1", after}: 1000} }
		join := throng(1000, request)
		time.Sleep(50 * time.Millisecond)
		for range 100 {
			go m.Purge()
		}
		expectEndings(t, join(), all(100*time.Millisecond))
		expectEndings(t, throng(1000, request)(), all(100*time.Millisecond)) // nothing was remembered
		expect(t, "lookups", o.calls.Load(), 2000)
		expectEndings(t, throng(1000, request)(), all(0)) // but this was
		synctest.Wait()
		if after := countGoroutines(before + 10); after > before+10 {
			t.Errorf("%d goroutines before, %d after", before, after)
		}
	})
}

// hookedContext runs a hook when it is asked whether it has ended.
type hookedContext struct {
	context.Context
	hook func()
}

func (c hookedContext) Err() error {
	c.hook()
	return c.Context.Err()
}

// A request finds nothing in the cache and comes to join the lookup, which
// has just ended. It gets what that brought.
func TestFlightThatHasJustLandedIsFound(t *testing.T) {
	outage := errors.New("outage")
	for _, test := range []struct {
		name    string
		answer  *phantom.Introspection
		err     error
		want    string
		lookups int64
	}{
		{"active", unsigned(map[string]any{"jti": "1"}), nil, "1", 1},
		{"inactive", inactive, nil, code401T, 1},
		{"outage", nil, outage, code503A, 2}, // no verdict: nothing to find
	} {
		t.Run(test.name, func(t *testing.T) {
			o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return test.answer, test.err }}
			m := o.middleware(t)
			hooked := 0
			ctx := hookedContext{t.Context(), func() {
				if hooked++; hooked == 1 {
					expect(t, "the flight", idOf(m, opaqueToken), test.want)
				}
			}}
			tok, err := m.Verify(ctx, opaqueToken)
			if test.want == "1" && (err != nil || tok.ID() != "1") || test.want != "1" && err == nil {
				t.Errorf("late: %v, %v", tok, err)
			}
			if hooked == 0 {
				t.Error("the hook did not run")
			}
			expect(t, "lookups", o.calls.Load(), test.lookups)
		})
	}
}

// forgets are the two ways to forget a token.
var forgets = []struct {
	name   string
	forget func(*phantom.Middleware)
}{
	{"Forget", func(m *phantom.Middleware) { m.Forget(opaqueToken) }},
	{"Purge", func(m *phantom.Middleware) { m.Purge() }},
}

// A request that begins after Forget is never served by a lookup that began
// before it, no matter which of two lookups ends first. A request that began
// before still is.
func TestFlightBegunBeforeForgetServesNoLaterRequest(t *testing.T) {
	type timing struct{ asking, verifying time.Duration }
	for _, tc := range forgets {
		for _, test := range []struct {
			name         string
			old, renewed timing
			forget       time.Duration
		}{
			{"while asking, the old one lands first", timing{100, 0}, timing{200, 0}, 50},
			{"while asking, the old one lands last", timing{400, 0}, timing{100, 0}, 50},
			{"while asking, both land at once", timing{400, 0}, timing{350, 0}, 50},
			{"while verifying, the old one lands first", timing{100, 200}, timing{400, 0}, 200},
			{"while verifying, the old one lands last", timing{100, 800}, timing{0, 100}, 200},
			{"both are verified", timing{100, 500}, timing{0, 400}, 200},
			{"at the start", timing{100, 0}, timing{100, 0}, 0},
		} {
			t.Run(tc.name+" "+test.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := &oracle{}
					takes := map[bool]timing{true: test.old, false: test.renewed}
					first := active(1)
					o.ask = func(context.Context, string) (*phantom.Introspection, error) {
						id := o.calls.Load()
						time.Sleep(takes[id == 1].asking * time.Millisecond)
						if id == 1 {
							return first, nil
						}
						return active(id), nil
					}
					o.verify = func(jwt string) { time.Sleep(takes[jwt == first.JWT].verifying * time.Millisecond) }
					m := o.middleware(t)
					before := later(func() string { return idOf(m, opaqueToken) })
					synctest.Wait()
					time.Sleep(test.forget * time.Millisecond)
					tc.forget(m)
					after := throng(10, func(int) string { return idOf(m, opaqueToken) })
					for range 50 { // one after another, no matter what has landed by then
						expect(t, "who comes later", idOf(m, opaqueToken), "2")
						time.Sleep(20 * time.Millisecond)
					}
					expect(t, "who came before", before(), "1")
					for e := range after() {
						expect(t, "who came after", e.what, "2")
					}
					expect(t, "lookups", o.calls.Load(), 2)
				})
			})
		}
	}
}

// Each Forget counts, also in the middle of the lookup that an earlier one
// caused.
func TestFlightEachForgetCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{}
		o.ask = func(context.Context, string) (*phantom.Introspection, error) {
			id := o.calls.Load()
			time.Sleep(time.Duration(11-id) * 100 * time.Millisecond) // each lands before the one that began earlier
			return says(id)
		}
		m := o.middleware(t)
		var waiting []func() string
		for range 10 {
			waiting = append(waiting, later(func() string { return idOf(m, opaqueToken) }))
			synctest.Wait()
			m.Forget(opaqueToken)
		}
		for i, join := range waiting {
			expect(t, "waiter", join(), fmt.Sprint(i+1))
		}
		expect(t, "nothing was remembered", idOf(m, opaqueToken), "11")
	})
}

// A lookup that lands late does not bring back what a younger one knows
// better.
func TestFlightLateVerdictUndoesNoYoungerOne(t *testing.T) {
	for _, tc := range forgets {
		t.Run(tc.name+": inactive meanwhile", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{}
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					id := o.calls.Load()
					if id > 1 {
						return inactive, nil
					}
					time.Sleep(500 * time.Millisecond)
					return says(id)
				}
				m := o.middleware(t, phantom.WithStaleIfError(time.Hour))
				late := later(func() string { return idOf(m, opaqueToken) })
				time.Sleep(100 * time.Millisecond)
				tc.forget(m)
				expect(t, "the younger one", idOf(m, opaqueToken), code401T)
				expect(t, "the late one, which began before", late(), "1")
				for range 30 { // longer than the negative entry
					expect(t, "afterwards", idOf(m, opaqueToken), code401T)
					time.Sleep(time.Second)
				}
			})
		})
		t.Run(tc.name+": active meanwhile", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{}
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					id := o.calls.Load()
					if id > 1 {
						return says(id)
					}
					time.Sleep(500 * time.Millisecond)
					return inactive, nil
				}
				m := o.middleware(t)
				late := later(func() string { return idOf(m, opaqueToken) })
				time.Sleep(100 * time.Millisecond)
				tc.forget(m)
				expect(t, "the younger one", idOf(m, opaqueToken), "2")
				expect(t, "the late one, which began before", late(), code401T)
				// Refusing is always safe, and so is asking once more; a
				// negative entry from before Forget would not be.
				if id := idOf(m, opaqueToken); id != "2" && id != "3" {
					t.Errorf("afterwards %s", id)
				}
			})
		})
		t.Run(tc.name+": active meanwhile, then revoked", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				o := &oracle{}
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					id := o.calls.Load()
					if id == 1 {
						time.Sleep(500 * time.Millisecond) // on the way there
					}
					if time.Since(start) > 300*time.Millisecond {
						return inactive, nil
					}
					return says(id)
				}
				m := o.middleware(t)
				late := later(func() string { return idOf(m, opaqueToken) })
				time.Sleep(100 * time.Millisecond)
				tc.forget(m)
				expect(t, "the one that was answered first", idOf(m, opaqueToken), "2")
				expect(t, "the one that was answered last", late(), code401T)
				expect(t, "afterwards", idOf(m, opaqueToken), code401T)
			})
		})
	}
}

// A lookup lands and its token is forgotten at the same time, many times
// over. Nothing of it is left, no matter which comes first.
func TestFlightForgottenAsItLandsIsGone(t *testing.T) {
	for _, tc := range forgets {
		t.Run(tc.name, func(t *testing.T) {
			land := make(chan struct{})
			o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
				<-land
				return unsigned(nil), nil
			}}
			answered := make(chan struct{}, 1)
			o.verify = func(string) { answered <- struct{}{} } // the rest takes about as long as Forget
			m := o.middleware(t, phantom.WithTimeout(time.Minute))
			for i := range int64(20_000 / scale) {
				first := later(func() string { return idOf(m, opaqueToken) })
				land <- struct{}{}
				<-answered
				for range i % 64 * 8 { // not always at the same moment
					runtime.KeepAlive(i)
				}
				tc.forget(m)
				second := make(chan string, 1)
				go func() { second <- idOf(m, opaqueToken) }()
				select {
				case land <- struct{}{}:
				case <-second:
					t.Fatalf("round %d: served by the lookup from before", i)
				}
				<-answered
				expect(t, "first", first(), "id-1")
				expect(t, "second", <-second, "id-1")
				tc.forget(m)
			}
		})
	}
}
