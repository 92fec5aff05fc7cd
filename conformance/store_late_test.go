package conformance_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A replica that was told that a token is inactive takes no copy of an older
// answer, also if that comes into the Store only afterwards: another replica
// may have asked just before.
//
// Catalogue: H66.
func TestTheWordInactiveHoldsForCopiesThatAreStillToCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, store := &oracle{}, newTap()
		revoked := time.Now().Add(time.Second)
		o.ask = func(context.Context, string) (*phantom.Introspection, error) {
			if !time.Now().Before(revoked) {
				return inactive, nil
			}
			time.Sleep(1500 * time.Millisecond) // a slow way back
			return says(1)
		}
		shared := phantom.WithStore(store, fleetSecret)
		a := o.middleware(t, shared, phantom.WithNegativeTTL(time.Second))
		b := o.middleware(t, shared)
		early := later(func() string { return idOf(b, opaqueToken) })
		time.Sleep(1100 * time.Millisecond)
		expect(t, "A, which is told", idOf(a, opaqueToken), code401T)
		expect(t, "B", early(), "1")
		synctest.Wait()
		expect(t, "values", len(store.Values()), 1)
		for range 5 {
			time.Sleep(1100 * time.Millisecond)
			expect(t, "A later", idOf(a, opaqueToken), code401T)
		}
	})
}
