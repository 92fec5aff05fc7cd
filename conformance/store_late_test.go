package conformance_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
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

// A cutOff is a Broadcaster that a replica does not reach at first. When it
// does, it gets the notes of the last ten minutes, and only then anything else.
type cutOff struct {
	*phantomtest.Store
	mu        sync.Mutex
	isReached bool
	receive   func(note []byte)
}

func (s *cutOff) Receive(f func(note []byte)) { s.receive = f }

func (s *cutOff) reach() {
	s.Store.Receive(s.receive)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isReached = true
}

func (s *cutOff) Get(ctx context.Context, key string) ([]byte, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isReached {
		return nil, 0, errors.New("not connected")
	}
	return s.Store.Get(ctx, key)
}

// A replica that starts before it reaches the Store hears the notes of ten
// minutes then, and takes no copy that may have been forgotten before these.
//
// Catalogue: H67.
func TestALateConnectionBringsBackNothing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		forget bool
		age    time.Duration // of the copy
		want   string
	}{
		{"forgotten", true, 11 * time.Minute, code401T},
		{"young", false, 9 * time.Minute, codeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), phantomtest.NewStore()
				exp := time.Now().Unix() + 7200
				as.introspect = answerJWT(mint("ES256", claims(map[string]any{"exp": exp, "sid": "s1"})))
				hour := phantom.WithMaxTTL(time.Hour)
				a := as.replica(store, hour)
				as.admits(t, "A", a, codeOK)
				time.Sleep(time.Second)
				as.introspect = answer(204, "", "")
				if tc.forget {
					if err := a.ForgetSession("s1"); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(tc.age - 2*time.Minute)
				late := &cutOff{Store: store}
				c := as.replica(late, hour)
				time.Sleep(2 * time.Minute)
				late.reach()
				as.admits(t, "C", c, tc.want)
			})
		})
	}
}
