package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A request does not join a lookup that was asked longer ago than a token is
// remembered: what it says may be from before a revocation that the request is to
// see.
//
// Catalogue: Z1.
func TestLateRequestsLookForThemselves(t *testing.T) {
	for _, ttl := range []time.Duration{0, 200 * time.Millisecond, time.Second} {
		t.Run(fmt.Sprint(ttl), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var revoked atomic.Bool
				o := &oracle{ask: func(ctx context.Context, _ string) (*phantom.Introspection, error) {
					was := revoked.Load() // the server decides at once and answers late
					time.Sleep(1500 * time.Millisecond)
					if was {
						return inactive, nil
					}
					return says(1)
				}}
				m := o.middleware(t, phantom.WithMaxTTL(ttl), phantom.WithRefreshAhead(0), phantom.WithNegativeTTL(0))
				verify := func() func() error {
					return later(func() error { _, err := m.Verify(t.Context(), opaqueToken); return err })
				}
				first := verify()
				synctest.Wait()
				revoked.Store(true)
				time.Sleep(ttl)
				inTime := verify() // at the very end of the bound
				synctest.Wait()
				time.Sleep(time.Millisecond)
				late := verify()
				synctest.Wait()
				expect(t, "lookups", o.calls.Load(), 2)
				if err := first(); err != nil {
					t.Errorf("the first: %v", err)
				}
				if err := inTime(); err != nil {
					t.Errorf("in time: %v", err)
				}
				if err := late(); !errors.Is(err, phantom.ErrInvalidToken) {
					t.Errorf("too late: %v", err)
				}
				if _, err := m.Verify(t.Context(), opaqueToken); !errors.Is(err, phantom.ErrInvalidToken) {
					t.Errorf("afterwards: %v", err)
				}
			})
		})
	}
}

// Forget concerns its own token alone, however many are forgotten: other tokens
// are asked about no more often. A lookup of the token that is under way is not
// remembered.
//
// Catalogue: Z3.
func TestForgetConcernsItsOwnTokenAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
			time.Sleep(100 * time.Millisecond)
			return says(1)
		}}
		m := o.middleware(t, phantom.WithRefreshAhead(0))
		var wg sync.WaitGroup
		stop := time.Now().Add(10 * time.Second)
		wg.Go(func() {
			for i := 0; time.Now().Before(stop); i++ {
				m.Forget(fmt.Sprint("junk-", i))
				time.Sleep(100 * time.Microsecond)
			}
		})
		for hot := range 100 {
			wg.Go(func() {
				for time.Now().Before(stop) {
					if _, err := m.Verify(t.Context(), fmt.Sprint("hot-", hot)); err != nil {
						t.Error(err)
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		expect(t, "lookups", o.calls.Load(), 100)
		go func() { _, _ = m.Verify(context.Background(), "token") }()
		time.Sleep(50 * time.Millisecond)
		m.Forget("token")
		time.Sleep(time.Second)
		if _, err := m.Verify(t.Context(), "token"); err != nil {
			t.Error(err)
		}
		expect(t, "lookups of a token that was forgotten meanwhile", o.calls.Load(), 102)
	})
}

// A late answer of an older lookup does not replace that of a younger one.
//
// Catalogue: Z1, Z2.
func TestOlderAnswersDoNotReplaceYoungerOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{}
		o.ask = func(context.Context, string) (*phantom.Introspection, error) {
			id := o.calls.Load()
			if id == 1 {
				time.Sleep(1900 * time.Millisecond)
				return says(1)
			}
			return inactive, nil
		}
		m := o.middleware(t, phantom.WithMaxTTL(time.Second), phantom.WithRefreshAhead(0), phantom.WithNegativeTTL(time.Minute))
		first := later(func() string { return idOf(m, opaqueToken) })
		time.Sleep(1001 * time.Millisecond)
		expect(t, "the second", codeOf(m.Verify(t.Context(), opaqueToken)), code401T)
		expect(t, "the first", first(), "1")
		expect(t, "then", codeOf(m.Verify(t.Context(), opaqueToken)), code401T)
		expect(t, "lookups", o.calls.Load(), 2)
	})
}
