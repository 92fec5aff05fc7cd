package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// Who comes after a logout is not served by a lookup that ends at that moment,
// whether it asked the server or the Store.
//
// Catalogue: H56.
func TestLogoutHoldsForLookupsThatEndAtThatMoment(t *testing.T) {
	for _, isCopy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := &oracle{}
			o.ask = func(_ context.Context, token string) (*phantom.Introspection, error) {
				return unsigned(map[string]any{"jti": fmt.Sprint(o.calls.Load()), "sid": token}), nil
			}
			shared := phantom.WithStore(phantomtest.NewStore(), fleetSecret)
			if isCopy {
				expect(t, "the other replica", idOf(o.middleware(t, shared), "session-1"), "1")
				synctest.Wait()
			}
			var m *phantom.Middleware
			var late func() string
			m = o.middleware(t, shared, phantom.WithTrace(&phantom.Trace{
				LookupDone: func(_ context.Context, l phantom.Lookup) {
					if late != nil {
						return
					}
					expect(t, "a copy", l.Shared, isCopy)
					time.Sleep(500 * time.Millisecond) // all of it is shorter than the timeout
					if err := m.ForgetSession("session-1"); err != nil {
						t.Error(err)
					}
					late = later(func() string { return idOf(m, "session-1") })
					time.Sleep(500 * time.Millisecond) // until it waits
				},
			}))
			idOf(m, "session-1")
			expect(t, "who came after the logout", late(), "2")
		})
	}
}

// A logout looks through the memory without reading what is there: an end of
// one session must not cost as much as all the others.
//
// Catalogue: H57.
func TestLogoutReadsNoOtherToken(t *testing.T) {
	if scale > 1 {
		t.Skip("the race detector allocates")
	}
	o := &oracle{ask: func(_ context.Context, token string) (*phantom.Introspection, error) {
		return unsigned(map[string]any{"sid": token}), nil
	}}
	m := o.middleware(t)
	for i := range 1000 {
		idOf(m, fmt.Sprint("session-", i))
	}
	for name, forget := range map[string]func() error{
		"ForgetSession": func() error { return m.ForgetSession("another") },
		"ForgetSubject": func() error { return m.ForgetSubject("another") },
	} {
		allocs := testing.AllocsPerRun(10, func() {
			if err := forget(); err != nil {
				t.Error(err)
			}
		})
		if allocs > 200 {
			t.Errorf("%s: %v allocations with 1,000 tokens", name, allocs)
		}
	}
}

// A watched is a Context that tells when a lookup is to begin: the token was not
// found in the memory then.
type watched struct {
	context.Context
	begins func()
}

func (c watched) Err() error { c.begins(); return nil }

// A lookup can find the token that an earlier one remembered, while a logout is
// on its way through the memory. Who comes after the logout is not served by
// that either.
//
// Catalogue: H68.
func TestLogoutHoldsForWhatIsFoundInTheMemoryMeanwhile(t *testing.T) {
	o := &oracle{}
	var answers, ends atomic.Pointer[chan struct{}] // nil: at once
	hold := func(c *atomic.Pointer[chan struct{}]) (release func()) {
		held := make(chan struct{})
		c.Store(&held)
		return func() { c.Store(nil); close(held) }
	}
	wait := func(c *atomic.Pointer[chan struct{}]) {
		if held := c.Load(); held != nil {
			<-*held
		}
	}
	var isOver atomic.Bool
	o.ask = func(_ context.Context, token string) (*phantom.Introspection, error) {
		if isOver.Load() {
			return inactive, nil
		}
		wait(&answers)
		return unsigned(map[string]any{"sid": token}), nil
	}
	m := o.middleware(t, phantom.WithCacheSize(40_000), phantom.WithNegativeTTL(0), phantom.WithTrace(&phantom.Trace{
		LookupDone: func(context.Context, phantom.Lookup) { wait(&ends) },
	}))
	verify := func(token string, begins func()) func() error {
		return later(func() error {
			_, err := m.Verify(watched{t.Context(), sync.OnceFunc(begins)}, token)
			return err
		})
	}
	for i := range 20_000 { // the way through the memory takes a few milliseconds
		idOf(m, fmt.Sprint("another-", i))
	}
	for i := range 10 {
		token := fmt.Sprint("session-", i)
		isOver.Store(false)
		answer, calls := hold(&answers), o.calls.Load()
		first := verify(token, func() {})
		for o.calls.Load() == calls {
			runtime.Gosched()
		}
		begins, goOn := make(chan struct{}), make(chan struct{})
		second := verify(token, func() { close(begins); <-goOn })
		<-begins
		answer()
		if err := first(); err != nil {
			t.Error(err)
		}
		isOver.Store(true)
		end := hold(&ends)
		logout := later(func() error { return m.ForgetSession(token) })
		time.Sleep(time.Duration(i) * 100 * time.Microsecond)
		close(goOn)
		if err := logout(); err != nil {
			t.Error(err)
		}
		begins = make(chan struct{})
		third := verify(token, func() { close(begins) })
		<-begins
		time.Sleep(time.Millisecond) // until it waits for the second one
		end()
		_ = second()
		if err := third(); !errors.Is(err, phantom.ErrInvalidToken) {
			t.Errorf("attempt %d: who came after the logout: %v, want %v", i, err, phantom.ErrInvalidToken)
		}
	}
}
