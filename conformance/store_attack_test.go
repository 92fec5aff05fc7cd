package conformance_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A refresh has more time than a request that waits. That it succeeds does not
// keep a Store in use that is too slow for requests.
//
// Catalogue: H45.
func TestRefreshesKeepNoSlowStoreInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, store := &oracle{}, newTap()
		o.ask = func(context.Context, string) (*phantom.Introspection, error) {
			return unsigned(map[string]any{"exp": time.Now().Unix() + 3600}), nil
		}
		m := o.middleware(t, phantom.WithStore(store, fleetSecret), phantom.WithMaxTTL(10*time.Second))
		const used = 100
		for i := range used {
			idOf(m, fmt.Sprint("used-", i))
		}
		synctest.Wait()
		store.Delay(100 * time.Millisecond)
		waited := 0
		for i := range 600 {
			for j := range used {
				idOf(m, fmt.Sprint("used-", j))
			}
			start := time.Now()
			idOf(m, fmt.Sprint("new-", i))
			if time.Since(start) > 0 {
				waited++
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second) // until the last call is over
		if waited > 5+61 {      // the first five, and one a second
			t.Errorf("%d of 600 requests waited for the Store", waited)
		}
	})
}
