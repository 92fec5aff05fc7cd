package conformance_test

import (
	"context"
	"errors"
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

// An undropped is a Store in which nothing can be dropped.
type undropped struct{ *tap }

func (undropped) Drop(context.Context, string, time.Duration) error { return context.DeadlineExceeded }

// A replica that was told that a token is inactive takes no older copy of it,
// though the Store still has one.
//
// Catalogue: H59.
func TestTheWordInactiveHoldsWhateverTheStoreHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		as.admits(t, "B", as.replica(store), codeOK)
		a := as.replica(undropped{store}, phantom.WithNegativeTTL(time.Second))
		as.admits(t, "A", a, codeOK)
		as.introspect = answer(204, "", "")
		for as.calls.Load() < 2 { // until A's entry is refreshed
			time.Sleep(time.Second)
			as.try(a, opaqueToken)
			synctest.Wait()
		}
		expect(t, "values", len(store.Values()), 1)
		for range 5 {
			as.admits(t, "A", a, code401T)
			time.Sleep(1100 * time.Millisecond)
		}
	})
}

// So does one that could not look into the Store when it was told: a copy may be
// there, and comes to light when the Store answers again.
//
// Catalogue: H61.
func TestTheWordInactiveHoldsForCopiesThatWereNotSeen(t *testing.T) {
	for name, fail := range map[string]func() error{
		"fails":     func() error { return errors.New("down") },
		"is silent": func() error { time.Sleep(time.Second); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				as.admits(t, "A", as.replica(store), codeOK)
				b := as.replica(store, phantom.WithNegativeTTL(time.Second))
				as.introspect = answer(204, "", "")
				down := true
				store.get = func(_ context.Context, value []byte, left time.Duration, err error) ([]byte, time.Duration, error) {
					if down {
						return nil, 0, fail()
					}
					return value, left, err
				}
				as.admits(t, "B, which is told", b, code401T)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				down = false
				expect(t, "values", len(store.Values()), 1)
				for range 5 {
					as.admits(t, "B later", b, code401T)
					time.Sleep(1100 * time.Millisecond)
				}
				as.introspect = nil
				as.admits(t, "B, and the token is good again", b, codeOK)
			})
		})
	}
}

// A replica that starts so late that it is not told any more what was forgotten
// takes no copy from that time, however long answers serve.
//
// Catalogue: H62.
func TestALateReplicaTakesNothingThatMayBeForgotten(t *testing.T) {
	for _, tc := range []struct {
		name   string
		forget func(m *phantom.Middleware) error // nil: nothing is forgotten
		starts []time.Duration
		want   string
	}{
		{"session", func(m *phantom.Middleware) error { return m.ForgetSession("s1") }, []time.Duration{5, 11, 30}, code401T},
		{"subject", func(m *phantom.Middleware) error { return m.ForgetSubject("alice") }, []time.Duration{5, 11, 30}, code401T},
		{"all", (*phantom.Middleware).Purge, []time.Duration{5, 11, 30}, code401T},
		{"none, young", nil, []time.Duration{9}, codeOK},
		{"none, old", nil, []time.Duration{11}, code401T},
	} {
		for _, start := range tc.starts {
			t.Run(fmt.Sprint(tc.name, " after ", int(start), " min"), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					as, store := newAS(t), newTap()
					exp := time.Now().Unix() + 7200
					as.introspect = answerJWT(mint("ES256", claims(map[string]any{"exp": exp, "sid": "s1"})))
					hour := phantom.WithMaxTTL(time.Hour)
					a := as.replica(store, hour)
					as.admits(t, "A", a, codeOK)
					time.Sleep(time.Second)
					as.introspect = answer(204, "", "")
					if tc.forget != nil {
						if err := tc.forget(a); err != nil {
							t.Error(err)
						}
					}
					time.Sleep(start * time.Minute)
					as.admits(t, "C", as.replica(store, hour), tc.want)
				})
			})
		}
	}
}

// The answer for which a JWT was minted is judged anew as well: the JWT does not
// say for whom the token was.
//
// Catalogue: H60.
func TestTheAnswerBehindAMintedJWTIsJudgedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		as.introspect = answerMembers(nil)
		shared := phantom.WithStore(store, fleetSecret)
		as.admits(t, "A", as.minting(newMinter(), shared), codeOK)
		expect(t, "writes", store.sets.Load(), 1)
		as.admits(t, "B", as.minting(newMinter(), shared, phantom.WithAudience("https://other.test")), code401T)
		expect(t, "lookups", as.calls.Load(), 2)
	})
}
