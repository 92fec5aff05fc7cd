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
					time.Sleep(time.Second)
					if err := m.ForgetSession("session-1"); err != nil {
						t.Error(err)
					}
					late = later(func() string { return idOf(m, "session-1") })
					time.Sleep(time.Second) // until it waits
				},
			}))
			idOf(m, "session-1")
			expect(t, "who came after the logout", late(), "2")
		})
	}
}
