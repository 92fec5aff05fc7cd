package conformance_test

import (
	"context"
	"fmt"
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
