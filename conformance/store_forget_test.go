package conformance_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// A plainStore is a Store that is no Broadcaster.
type plainStore struct{ store *tap }

func (s plainStore) Get(ctx context.Context, key string) ([]byte, time.Duration, error) {
	return s.store.Get(ctx, key)
}

func (s plainStore) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return s.store.Set(ctx, key, value, ttl)
}

func (s plainStore) Drop(ctx context.Context, key string, hold time.Duration) error {
	return s.store.Drop(ctx, key, hold)
}

// What one replica forgets, no other serves, from memory, from the Store, or
// from a lookup under way.
//
// Catalogue: H12.
func TestForgetReachesTheOtherReplicas(t *testing.T) {
	for _, tc := range []struct {
		name   string
		forget func(m *phantom.Middleware, tok *phantom.Token) error
	}{
		{"Forget", func(m *phantom.Middleware, _ *phantom.Token) error { return m.Forget(opaqueToken) }},
		{"Token.Forget", func(_ *phantom.Middleware, tok *phantom.Token) error { return tok.Forget() }},
		{"Purge", func(m *phantom.Middleware, _ *phantom.Token) error { return m.Purge() }},
		{"Purge of a dispatcher", func(m *phantom.Middleware, _ *phantom.Token) error {
			d := must(phantom.Dispatch([]*phantom.Middleware{m}, func(string) *phantom.Middleware { return m }))
			return d.Purge()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, o := newTap(), &oracle{}
				var slow time.Duration
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					n := o.calls.Load()
					time.Sleep(slow)
					return says(n)
				}
				shared := phantom.WithStore(store, fleetSecret)
				a, b, c := o.middleware(t, shared), o.middleware(t, shared), o.middleware(t, shared)
				tok := must(a.Verify(t.Context(), opaqueToken))
				synctest.Wait()
				expect(t, "B", idOf(b, opaqueToken), "1")
				if err := tc.forget(a, tok); err != nil {
					t.Error(err)
				}
				slow = 500 * time.Millisecond
				underWay := later(func() string { return idOf(b, opaqueToken) })
				time.Sleep(250 * time.Millisecond)
				if err := tc.forget(a, tok); err != nil {
					t.Error(err)
				}
				expect(t, "B, which began before", underWay(), "2")
				synctest.Wait()
				expect(t, "C", idOf(c, opaqueToken), "3")
				expect(t, "B", idOf(b, opaqueToken), "4") // what C stored so soon is held back
				expect(t, "A", idOf(a, opaqueToken), "5")
			})
		})
	}
}

// Without a Broadcaster, Forget removes what is stored. Purge makes this
// replica take nothing from before.
//
// Catalogue: H13.
func TestForgetWithoutBroadcaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		a := as.replica(plainStore{store})
		as.admits(t, "A", a, codeOK)
		expect(t, "values", len(store.Values()), 1)
		if err := a.Purge(); err != nil {
			t.Error(err)
		}
		as.admits(t, "A after Purge", a, codeOK)
		expect(t, "lookups", as.calls.Load(), 2)
		as.admits(t, "B", as.replica(plainStore{store}), codeOK)
		expect(t, "lookups", as.calls.Load(), 2)
		if err := a.Forget(opaqueToken); err != nil {
			t.Error(err)
		}
		expect(t, "values", len(store.Values()), 0)
		as.admits(t, "C", as.replica(plainStore{store}), codeOK)
		expect(t, "lookups", as.calls.Load(), 3)
	})
}

// If the Store fails, Forget says so, and holds here all the same.
//
// Catalogue: H14.
func TestForgetWhileTheStoreIsDown(t *testing.T) {
	for _, tc := range []struct {
		name string
		fail func(*tap)
		want time.Duration // until Forget returns
	}{
		{"refuses", func(s *tap) { s.Fail(-1) }, 0},
		{"hangs", func(s *tap) { s.Delay(time.Hour) }, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				a, b := as.replica(store), as.replica(store, phantom.WithRefreshAhead(0))
				as.admits(t, "A", a, codeOK)
				as.admits(t, "B", b, codeOK)
				tc.fail(store)
				for _, forget := range []func() error{func() error { return a.Forget(opaqueToken) }, a.Purge} {
					start := time.Now()
					var e *phantom.Error
					if err := forget(); !errors.As(err, &e) || !errors.Is(err, phantom.ErrUnavailable) {
						t.Errorf("%v", err)
					}
					expect(t, "time", time.Since(start), tc.want)
				}
				store.Fail(0)
				store.Delay(0)
				time.Sleep(time.Second) // until it is tried again
				as.introspect = answer(204, "", "")
				as.admits(t, "A asks, and takes nothing from the Store", a, code401T)
			})
		})
	}
}

// The first replica that learns of a revocation tells the rest.
//
// Catalogue: H18.
func TestTheWordInactiveReachesTheOtherReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		a, b := as.replica(store, phantom.WithMaxTTL(10*time.Second)), as.replica(store)
		as.admits(t, "A", a, codeOK)
		as.admits(t, "B", b, codeOK)
		as.introspect = answer(204, "", "")
		time.Sleep(10 * time.Second)
		as.admits(t, "A asks", a, code401T)
		expect(t, "values", len(store.Values()), 0)
		as.admits(t, "B", b, code401T)
		expect(t, "lookups", as.calls.Load(), 3)
	})
}

// A replica that starts later takes nothing from before a Purge, and neither
// does one that was told nothing but a note.
//
// Catalogue: H16.
func TestPurgeHoldsForReplicasThatStartLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		a := as.replica(store)
		as.admits(t, "A", a, codeOK)
		time.Sleep(20 * time.Second)
		if err := a.Purge(); err != nil {
			t.Error(err)
		}
		expect(t, "values", len(store.Values()), 1)
		time.Sleep(15 * time.Second)
		c := as.replica(store)
		as.admits(t, "C", c, codeOK)
		expect(t, "lookups", as.calls.Load(), 2)
		time.Sleep(10 * time.Second)
		as.admits(t, "D", as.replica(store), codeOK) // C's answer is younger
		expect(t, "lookups", as.calls.Load(), 2)
	})
}

// Notes that no replica wrote, and those that were there before, do nothing.
//
// Catalogue: H17.
func TestForgedAndRecordedNotesAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		var recorded [][]byte
		store.Receive(func(note []byte) { recorded = append(recorded, note) })
		a, b := as.replica(store), as.replica(store)
		other := as.replica(store, phantom.WithIntrospectionEndpoint(issuer+endpointPath+"?tenant=2"))
		if err := errors.Join(a.Purge(), a.Forget(opaqueToken), other.Purge()); err != nil {
			t.Fatal(err)
		}
		as.admits(t, "A", a, codeOK)
		as.admits(t, "B", b, codeOK)
		lookups := as.calls.Load()
		notes := [][]byte{nil, {0}, make([]byte, 64), make([]byte, 66), make([]byte, 1000)}
		for _, note := range recorded {
			notes = append(notes, note, note[:len(note)-1], append(bytes.Clone(note), 0))
			for i := range note {
				flipped := bytes.Clone(note)
				flipped[i] ^= 1
				notes = append(notes, flipped)
			}
		}
		for i, note := range notes {
			if err := store.Broadcast(t.Context(), note); err != nil {
				t.Error(err)
			}
			as.admits(t, fmt.Sprint("A after note ", i), a, codeOK)
			as.admits(t, fmt.Sprint("B after note ", i), b, codeOK)
		}
		expect(t, "lookups", as.calls.Load(), lookups)
		// To see that the test is right: this one counts.
		if err := other.Purge(); err != nil {
			t.Error(err)
		}
		expect(t, "notes", len(recorded) > 3, true)
		if err := a.Purge(); err != nil {
			t.Error(err)
		}
		as.admits(t, "B", b, codeOK)
		expect(t, "lookups", as.calls.Load(), lookups+1)
	})
}

// A Store that does not answer costs the first few requests 20 ms each, and
// then nothing.
//
// Catalogue: H20.
func TestASilentStoreCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		never := make(chan struct{})
		store.get = func(context.Context, []byte, time.Duration, error) ([]byte, time.Duration, error) {
			<-never
			return nil, 0, nil
		}
		m := as.replica(store)
		waited := 0
		for i := range 50 {
			start := time.Now()
			expect(t, "outcome", as.try(m, fmt.Sprint("token-", i)), codeOK)
			switch took := time.Since(start); took {
			case 0:
			case 20 * time.Millisecond:
				waited++
			default:
				t.Errorf("%v", took)
			}
		}
		expect(t, "who waited", waited, 5)
		for i := range 100 {
			time.Sleep(100 * time.Millisecond)
			as.try(m, fmt.Sprint("later-", i))
		}
		if got := store.gets.Load(); got > 5+11 {
			t.Errorf("%d calls in ten seconds", got-5)
		}
		synctest.Wait() // for the last probe to hang
		store.get = nil
		close(never)
		time.Sleep(time.Second)
		as.try(m, "probe")
		synctest.Wait()
		before := store.gets.Load()
		for i := range 5 {
			as.try(m, fmt.Sprint("again-", i))
		}
		expect(t, "calls after its return", store.gets.Load()-before, 5)
	})
}

// Writes that work do not make up for reads that hang, and a stall in which
// many calls fail at once is one failure.
//
// Catalogue: H21, H22.
func TestEachKindOfCallHasItsOwnGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // H21
		as, store := newAS(t), newTap()
		store.get = func(ctx context.Context, _ []byte, _ time.Duration, _ error) ([]byte, time.Duration, error) {
			<-ctx.Done()
			return nil, 0, ctx.Err()
		}
		m := as.replica(store)
		for i := range 50 {
			as.try(m, fmt.Sprint("token-", i))
			synctest.Wait()
		}
		expect(t, "reads", store.gets.Load(), 5)
		expect(t, "writes", store.sets.Load(), 50)
	})
	synctest.Test(t, func(t *testing.T) { // H22
		as, store := newAS(t), newTap()
		store.Delay(time.Minute)
		m := as.replica(store)
		join := throng(50, func(i int) string { return as.try(m, fmt.Sprint("token-", i)) })
		expectEndings(t, join(), map[ending]int{{codeOK, 20 * time.Millisecond}: 50})
		store.Delay(0)
		before := store.gets.Load()
		for i := range 10 {
			as.try(m, fmt.Sprint("later-", i))
		}
		expect(t, "reads after the stall", store.gets.Load()-before, 10)
		time.Sleep(time.Minute) // until the last call is over
	})
}

// What a Store does wrong costs a lookup.
//
// Catalogue: H23.
func TestAStoreThatMisbehavesHarmsNobody(t *testing.T) {
	for _, tc := range []struct {
		name string
		get  func(context.Context, []byte, time.Duration, error) ([]byte, time.Duration, error)
	}{
		{"panics", func(context.Context, []byte, time.Duration, error) ([]byte, time.Duration, error) {
			panic("secret of the Store")
		}},
		{"ends its goroutine", func(context.Context, []byte, time.Duration, error) ([]byte, time.Duration, error) {
			runtime.Goexit()
			return nil, 0, nil
		}},
		{"a value and an error", func(_ context.Context, v []byte, left time.Duration, _ error) ([]byte, time.Duration, error) {
			return v, left, errors.New("secret of the Store")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				as.secret("secret of the Store")
				as.admits(t, "A", as.replica(store), codeOK)
				store.get = tc.get
				as.admits(t, "B", as.replica(store), codeOK)
				expect(t, "lookups", as.calls.Load(), 2)
			})
		})
	}
}

// Replicas that use a token all the time ask little more often than one would.
//
// Catalogue: H26, H27.
func TestReplicasShareRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // H26
		o := &oracle{}
		o.ask = func(context.Context, string) (*phantom.Introspection, error) {
			time.Sleep(5 * time.Millisecond)
			return unsigned(map[string]any{"exp": time.Now().Unix() + 3600}), nil
		}
		store := phantomtest.NewStore()
		var fleet []*phantom.Middleware
		for range 4 {
			fleet = append(fleet, o.middleware(t, phantom.WithStore(store, fleetSecret), phantom.WithMaxTTL(10*time.Second)))
		}
		const tokens, lives = 20, 10
		for range lives * 10 * 20 {
			for _, m := range fleet {
				for i := range tokens {
					if _, err := m.Verify(t.Context(), fmt.Sprint("token-", i)); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		if got := float64(o.calls.Load()) / tokens / lives; got > 1.7 {
			t.Errorf("%.2f lookups per token and life", got)
		}
	})
	synctest.Test(t, func(t *testing.T) { // H27
		as, store := newAS(t), newTap()
		a, b := as.replica(store), as.replica(store)
		as.admits(t, "A", a, codeOK)
		as.admits(t, "B", b, codeOK)
		for as.calls.Load() < 2 {
			time.Sleep(time.Second)
			as.admits(t, "A", a, codeOK)
		}
		for range 45 { // B's own would have been due
			time.Sleep(time.Second)
			as.admits(t, "B", b, codeOK)
			if as.calls.Load() > 2 {
				t.Fatal("B asked too")
			}
			if time.Now().Second() == 59 {
				break
			}
		}
	})
}

// A copy serves while the server does not answer, and lookups are held back.
//
// Catalogue: H28.
func TestCopiesServeWhileTheServerIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		as.admits(t, "A", as.replica(store), codeOK)
		as.introspect = answer(503, "", "")
		b := as.replica(store)
		for i := range 30 {
			expect(t, "others", as.try(b, fmt.Sprint("other-", i)), code503A)
		}
		before := as.calls.Load()
		as.admits(t, "B", b, codeOK)
		expect(t, "lookups", as.calls.Load()-before, 0)
	})
}

// Many notes in a short time harm nobody.
//
// Catalogue: H30.
func TestManyNotesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		a, b := as.replica(store), as.replica(store)
		as.admits(t, "A", a, codeOK)
		as.admits(t, "B", b, codeOK)
		for i := range 10_000 {
			if err := a.Forget(fmt.Sprint("token-", i)); err != nil {
				t.Fatal(err)
			}
		}
		as.admits(t, "B", b, codeOK)
		expect(t, "lookups", as.calls.Load(), 1)
	})
}

// An entry is renewed in the background from the server, although the Store
// still has the copy that it was made of.
//
// Catalogue: H41.
func TestTheStoreKeepsNoEntryFromItsRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, store := &oracle{}, newTap()
		o.ask = func(context.Context, string) (*phantom.Introspection, error) {
			time.Sleep(time.Second)
			return unsigned(map[string]any{"exp": time.Now().Unix() + 3600}), nil
		}
		o.middleware(t, phantom.WithStore(store, fleetSecret)).Verify(t.Context(), opaqueToken)
		synctest.Wait()
		m := o.middleware(t, phantom.WithStore(store, fleetSecret))
		for range 3000 {
			start := time.Now()
			if _, err := m.Verify(t.Context(), opaqueToken); err != nil || time.Since(start) > 0 {
				t.Fatalf("%v after %v", err, time.Since(start))
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got := o.calls.Load(); got < 5 || got > 9 {
			t.Errorf("%d lookups in five minutes", got)
		}
	})
}
