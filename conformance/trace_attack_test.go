package conformance_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A LookupDone that panics costs its own request alone. It does not make those
// who have joined miss a logout that came while the lookup ended.
//
// Catalogue: T16.
func TestLogoutHoldsAfterALookupDoneThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{}
		o.ask = func(_ context.Context, token string) (*phantom.Introspection, error) {
			time.Sleep(time.Second)
			if o.calls.Load() > 1 {
				return inactive, nil // as its session has ended
			}
			return unsigned(map[string]any{"sid": token}), nil
		}
		done := 0
		var m *phantom.Middleware
		m = o.middleware(t, phantom.WithTrace(&phantom.Trace{LookupDone: func(context.Context, phantom.Lookup) {
			if done++; done > 1 {
				return
			}
			if err := m.ForgetSession("session-1"); err != nil {
				t.Error(err)
			}
			panic("broken")
		}}))
		starter := later(func() string { return idOf(m, "session-1") })
		synctest.Wait()
		joiner := later(func() string { return idOf(m, "session-1") })
		expect(t, "who joined", joiner(), code401T)
		expect(t, "who started", starter(), "phantom: internal: panic: panic in a hook")
	})
}
