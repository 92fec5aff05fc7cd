package phantomtest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

func TestStoreInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := phantomtest.NewStore()
		phantomtest.TestStore(t, func() phantom.Store { return store })
	})
}

// Faults and delays come when they are asked for, and a call ends with its
// context.
func TestStoreFailsOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := phantomtest.NewStore()
		get := func(ctx context.Context) (ok bool, took time.Duration) {
			start := time.Now()
			_, _, err := store.Get(ctx, "key")
			return err == nil, time.Since(start)
		}
		store.Fail(2)
		for i, want := range []bool{false, false, true} {
			if ok, _ := get(t.Context()); ok != want {
				t.Errorf("call %d: %v", i+1, ok)
			}
		}
		store.Fail(-1)
		for range 10 {
			if ok, _ := get(t.Context()); ok {
				t.Error("no failure")
			}
		}
		store.Fail(0)
		store.Delay(time.Second)
		if ok, took := get(t.Context()); !ok || took != time.Second {
			t.Errorf("%v after %v", ok, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if ok, took := get(ctx); ok || took != time.Millisecond {
			t.Errorf("%v after %v", ok, took)
		}
	})
}
