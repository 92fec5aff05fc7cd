package dpop_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/phantomtest"
)

// A recorder is a store that remembers all calls.
type recorder struct {
	mu     sync.Mutex
	keys   map[[32]byte]time.Time
	err    error
	answer func(ctx context.Context) (bool, error)
}

func (s *recorder) Add(ctx context.Context, key [32]byte, until time.Time) (bool, error) {
	if s.answer != nil {
		return s.answer(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.keys[key]
	if s.keys == nil {
		s.keys = map[[32]byte]time.Time{}
	}
	s.keys[key] = until
	return !known, s.err
}

// Two replicas with one store are one. It keeps a proof for as much longer as
// their clocks may differ.
func TestAStoreServesAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := phantomtest.NewProofKey()
		store := &recorder{}
		one, two := newBinding(t, dpop.WithReplayStore(store)), newBinding(t, dpop.WithReplayStore(store))
		p := good()
		p.Claims = claims{"iat": time.Now().Add(-5 * time.Second).Unix()}
		proof := key.Sign(p)
		if got := outcome(t, one.Check(get(proof), opaque, key.Thumbprint())); got != "OK" {
			t.Error(got)
		}
		if got := outcome(t, two.Check(get(proof), opaque, key.Thumbprint())); got != "401D replay" {
			t.Error(got)
		}
		for _, until := range store.keys {
			if want := time.Now().Add((65 + 10) * time.Second); !until.Equal(want) {
				t.Errorf("remembered until %v, want %v", until, want)
			}
		}
	})
}

// Catalogue: E13.
func TestWithoutAStoreNoRequestPasses(t *testing.T) {
	key := phantomtest.NewProofKey()
	broken := errors.New("secret of the store")
	for _, tc := range []struct {
		name   string
		answer func(ctx context.Context) (bool, error)
	}{
		{"error", func(context.Context) (bool, error) { return false, broken }},
		{"error and fresh", func(context.Context) (bool, error) { return true, broken }},
		{"blocks", func(ctx context.Context) (bool, error) { <-ctx.Done(); return false, ctx.Err() }},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBinding(t, dpop.WithReplayStore(&recorder{answer: tc.answer}))
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			err := b.Check(get(key.Sign(good())).WithContext(ctx), opaque, key.Thumbprint())
			if got := outcome(t, err); got != "503A replay store" || strings.Contains(fmt.Sprintf("%+v", err), "secret") {
				t.Errorf("%s: %s, %v", tc.name, got, err)
			}
		})
	}
}

// Catalogue: E13.
func TestAFloodByOneKeyLeavesRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const capacity = 16
		b := newBinding(t, dpop.WithCapacity(capacity))
		check := func(key *phantomtest.ProofKey) string {
			return outcome(t, b.Check(get(key.Sign(good())), opaque, key.Thumbprint()))
		}
		flood := phantomtest.NewProofKey()
		first := flood.Sign(good())
		if got := outcome(t, b.Check(get(first), opaque, flood.Thumbprint())); got != "OK" {
			t.Fatal(got)
		}
		for i := range 2 * capacity {
			want := "OK"
			if i+1 >= capacity/4 {
				want = "503A replay store: full for one key"
			}
			if got := check(flood); got != want {
				t.Fatalf("proof %d of one key: %s, want %s", i+2, got, want)
			}
		}
		for i := range capacity - capacity/4 {
			if got := check(phantomtest.NewProofKey()); got != "OK" {
				t.Fatalf("key %d beside the flood: %s", i, got)
			}
		}
		if got := check(phantomtest.NewProofKey()); got != "503A replay store: full" {
			t.Errorf("beyond the capacity: %s", got)
		}
		if got := outcome(t, b.Check(get(first), opaque, flood.Thumbprint())); got != "401D replay" {
			t.Errorf("a replay while the store is full: %s", got)
		}

		time.Sleep(70*time.Second + time.Nanosecond) // all of them are over
		for i := range capacity / 4 {
			if got := check(flood); got != "OK" {
				t.Fatalf("proof %d after the flood: %s", i, got)
			}
		}
	})
}

// What has expired makes room, and nothing else does.
func TestEntriesLeaveWhenTheyExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBinding(t, dpop.WithCapacity(4))
		check := func(iat time.Duration) string {
			key := phantomtest.NewProofKey()
			p := good()
			p.Claims = claims{"iat": time.Now().Add(iat).Unix()}
			return outcome(t, b.Check(get(key.Sign(p)), opaque, key.Thumbprint()))
		}
		for _, iat := range []time.Duration{0, -20 * time.Second, 10 * time.Second, -40 * time.Second} {
			if got := check(iat); got != "OK" {
				t.Fatal(got)
			}
		}
		const full = "503A replay store: full"
		for _, step := range []struct {
			wait time.Duration
			want string
		}{
			{30 * time.Second, full}, // the last moment of the one of 40 s ago
			{time.Nanosecond, "OK"},
			{0, full},
			{20*time.Second - 2*time.Nanosecond, full},
			{2 * time.Nanosecond, "OK"},
			{0, full},
		} {
			time.Sleep(step.wait)
			if got := check(0); got != step.want {
				t.Errorf("after %v: %s, want %s", step.wait, got, step.want)
			}
		}
	})
}

func TestNewStartsNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 100 {
		newBinding(t)
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}
