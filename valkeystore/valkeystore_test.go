package valkeystore_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/phantomtest"
	"github.com/phantom-token/phantom/valkeystore"
)

var _ dpop.ReplayStore = (*valkeystore.Store)(nil)

func TestStoreKeepsTheContract(t *testing.T) {
	s := newServer(t)
	phantomtest.TestStore(t, func() phantom.Store { return open(t, s.addr) })
}

// The commands in the package comment are enough.
func TestStoreNeedsTheseCommandsOnly(t *testing.T) {
	s := newServer(t, strings.Fields("--user default off "+appUser+" +cluster")...)
	phantomtest.TestStore(t, func() phantom.Store {
		store := valkeystore.New(valkey.ClientOption{
			InitAddress: []string{s.addr}, Username: "app", Password: "secret",
		}, valkeystore.WithPrefix("app:"))
		t.Cleanup(store.Close)
		return store
	})
}

// A service is a replica that counts the lookups of all.
type service struct {
	as *phantomtest.AuthorizationServer
}

func newService() *service { return &service{as: phantomtest.New()} }

var secret = bytes.Repeat([]byte("s"), 32)

func (s *service) replica(t *testing.T, store phantom.Store, opts ...phantom.Option) *phantom.Middleware {
	t.Helper()
	m, err := phantom.New(append(append(s.as.Options(), phantom.WithStore(store, secret)), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (s *service) verify(t *testing.T, m *phantom.Middleware, token string) {
	t.Helper()
	tok, err := m.Verify(t.Context(), token)
	if err != nil || tok.Subject() == "" {
		t.Fatalf("%v, %v", tok, err)
	}
}

func (s *service) expect(t *testing.T, what string, want int) {
	t.Helper()
	if got := s.as.Introspections(); got != want {
		t.Errorf("%s: %d introspections, want %d", what, got, want)
	}
}

// stored waits until the server has so many values.
func (s *server) stored(n int) {
	s.t.Helper()
	eventually(s.t, "values", 2*time.Second, func() bool {
		size, _ := s.do("DBSIZE").AsInt64()
		return size >= int64(n)
	})
}

// Replicas share answers and revocations on the real engine, and nothing can be
// read there.
func TestReplicasShareOnTheEngine(t *testing.T) {
	s, svc := newServer(t), newService()
	storeA, storeB := open(t, s.addr), open(t, s.addr)
	a, b := svc.replica(t, storeA), svc.replica(t, storeB)
	eventually(t, "connected", 2*time.Second, func() bool { return works(storeA) && works(storeB) })
	token := svc.as.Issue(map[string]any{"sub": "alice"})
	svc.verify(t, a, token)
	s.stored(1)
	svc.verify(t, b, token)
	svc.expect(t, "shared", 1)
	if err := a.Forget(token); err != nil {
		t.Error(err)
	}
	eventually(t, "B asks", time.Second, func() bool {
		svc.verify(t, b, token)
		return svc.as.Introspections() == 2
	})
	keys, err := s.do("KEYS", "*").AsStrSlice()
	if err != nil || len(keys) < 2 {
		t.Fatalf("%q, %v", keys, err)
	}
	for _, key := range keys {
		dump, _ := s.do("DUMP", key).ToString()
		for _, found := range []string{token, "alice", "eyJ"} {
			if strings.Contains(key+dump, found) {
				t.Errorf("%s is in %q", found, key)
			}
		}
	}
}

// Catalogue: H24.
func TestStoreStartsWithoutAServer(t *testing.T) {
	s, svc := newServer(t), newService()
	s.kill()
	store := open(t, s.addr)
	a := svc.replica(t, store)
	token := svc.as.Issue(nil)
	start := time.Now()
	svc.verify(t, a, token)
	if took := time.Since(start); took > time.Second {
		t.Errorf("the first request took %v", took)
	}
	s.start()
	eventually(t, "connected", 2*time.Second, func() bool { return works(store) })
}

// The first calls wait until the Store is connected. Else a replica that starts
// under load takes it for broken, and asks about all tokens again.
func TestFirstCallsWaitForTheConnection(t *testing.T) {
	s := newServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	key := strings.Repeat("k", 32)
	for range 20 {
		store := open(t, s.addr)
		for range 3 { // the second and third Middleware come when it is connected
			store.Receive(func([]byte) {})
			if _, _, err := store.Get(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
		if err := open(t, s.addr).Broadcast(ctx, []byte("note")); err != nil {
			t.Fatal(err)
		}
	}

	s.kill()
	store := open(t, s.addr)
	store.Receive(func([]byte) {})
	if _, _, err := store.Get(ctx, key); err == nil || ctx.Err() != nil {
		t.Errorf("without a server: %v, %v", err, ctx.Err())
	}
}

// A replica that was cut off hears of what it missed.
//
// Catalogue: H15.
func TestReplicaThatWasCutOffHearsOfForget(t *testing.T) {
	s, svc := newServer(t), newService()
	line := newProxy(t, s.addr)
	storeA, storeB := open(t, s.addr), open(t, line.addr)
	a, b := svc.replica(t, storeA), svc.replica(t, storeB)
	eventually(t, "connected", 2*time.Second, func() bool { return works(storeA) && works(storeB) })
	token := svc.as.Issue(nil)
	svc.verify(t, a, token)
	s.stored(1)
	svc.verify(t, b, token)
	svc.expect(t, "before", 1)
	line.cut(true)
	eventually(t, "B is cut off", 3*time.Second, func() bool { return !works(storeB) })
	if err := a.Forget(token); err != nil {
		t.Error(err)
	}
	svc.verify(t, b, token) // it cannot know
	svc.expect(t, "while it is cut off", 1)
	if err := b.Forget("another"); err == nil {
		t.Error("B believes that it told the others")
	}
	line.cut(false)
	eventually(t, "B asks", 3*time.Second, func() bool {
		svc.verify(t, b, token)
		return svc.as.Introspections() == 2
	})
}

// A replica that starts takes no copy from before a Purge, from its first
// request on.
//
// Catalogue: H16.
func TestReplicaThatStartsHearsOfPurge(t *testing.T) {
	s, svc := newServer(t), newService()
	storeA := open(t, s.addr)
	a := svc.replica(t, storeA)
	eventually(t, "connected", 2*time.Second, func() bool { return works(storeA) })
	token := svc.as.Issue(nil)
	svc.verify(t, a, token)
	s.stored(1)
	if err := a.Purge(); err != nil {
		t.Error(err)
	}
	for i := range 10 {
		c := svc.replica(t, open(t, s.addr))
		for range i { // it is connecting
			runtime.Gosched()
			time.Sleep(time.Millisecond)
		}
		before := svc.as.Introspections()
		svc.verify(t, c, token)
		svc.expect(t, "C", before+1)
	}
	// Nor does a second Middleware on a Store that is connected.
	before := svc.as.Introspections()
	svc.verify(t, svc.replica(t, storeA, phantom.WithTimeout(2*time.Second)), token)
	svc.expect(t, "another on A's Store", before+1)
}

// What the engine loses costs nothing at that moment.
//
// Catalogue: H25.
func TestFlushCostsNothing(t *testing.T) {
	s, svc := newServer(t), newService()
	store := open(t, s.addr)
	a := svc.replica(t, store)
	eventually(t, "connected", 2*time.Second, func() bool { return works(store) })
	for i := range 50 {
		svc.verify(t, a, svc.as.Issue(map[string]any{"jti": fmt.Sprint(i)}))
	}
	token := svc.as.Issue(nil)
	svc.verify(t, a, token)
	before := svc.as.Introspections()
	if err := s.do("FLUSHALL").Error(); err != nil {
		t.Fatal(err)
	}
	svc.verify(t, a, token)
	svc.expect(t, "after FLUSHALL", before)
	b := svc.replica(t, open(t, s.addr))
	svc.verify(t, b, token)
	if err := b.Forget(token); err == nil {
		eventually(t, "A hears of it", 2*time.Second, func() bool {
			svc.verify(t, a, token)
			return svc.as.Introspections() > before+1
		})
	}
}

// An engine that is killed, silent or slow costs a few requests a little.
func TestTroubleWithTheEngineCostsLittle(t *testing.T) {
	for _, tc := range []struct {
		name        string
		begin, over func(s *server, line *proxy)
	}{
		{"killed", func(s *server, _ *proxy) { s.kill() }, func(s *server, _ *proxy) { s.start() }},
		{"silent", func(s *server, _ *proxy) { s.freeze() }, func(s *server, _ *proxy) { s.thaw() }},
		{"slow", func(_ *server, p *proxy) { p.slow(100 * time.Millisecond) }, func(_ *server, p *proxy) { p.slow(0) }},
		{"cut off", func(_ *server, p *proxy) { p.cut(true) }, func(_ *server, p *proxy) { p.cut(false) }},
		{"dropped", func(_ *server, p *proxy) { p.drop() }, func(*server, *proxy) {}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, svc := newServer(t), newService()
			line := newProxy(t, s.addr)
			store := open(t, line.addr)
			m := svc.replica(t, store)
			eventually(t, "connected", 2*time.Second, func() bool { return works(store) })
			svc.verify(t, m, svc.as.Issue(nil))
			tc.begin(s, line)
			slow := 0
			for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
				start := time.Now()
				svc.verify(t, m, svc.as.Issue(nil))
				if time.Since(start) > 15*time.Millisecond {
					slow++
				}
				time.Sleep(5 * time.Millisecond)
			}
			if slow > 40 { // of some hundred; the machine has pauses of its own
				t.Errorf("%d requests were slow", slow)
			}
			tc.over(s, line)
			eventually(t, "back in use", 5*time.Second, func() bool { return works(store) })
		})
	}
}

// A proof is new once, at all replicas, until then and a little longer.
func TestProofsAreNewOnce(t *testing.T) {
	s := newServer(t)
	stores := []*valkeystore.Store{open(t, s.addr), open(t, s.addr)}
	for _, store := range stores {
		eventually(t, "connected", 2*time.Second, func() bool { return works(store) })
	}
	var key [32]byte
	_, _ = rand.Read(key[:])
	until := time.Now().Add(time.Minute)
	results := make(chan bool, 64)
	for i := range cap(results) {
		go func() {
			fresh, err := stores[i%2].Add(t.Context(), key, until)
			if err != nil {
				t.Error(err)
			}
			results <- fresh
		}()
	}
	fresh := 0
	for range cap(results) {
		if <-results {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d of them were new", fresh)
	}
	if again, err := stores[0].Add(t.Context(), [32]byte{1}, time.Now().Add(-time.Second)); again || err != nil {
		t.Errorf("of the past: %v, %v", again, err)
	}
	names, _ := s.do("KEYS", "phantom:proof:*").AsStrSlice()
	if len(names) != 1 {
		t.Fatalf("%q", names)
	}
	if left, _ := s.do("PTTL", names[0]).AsInt64(); left < 60_000 || left > 71_000 {
		t.Errorf("%d ms left", left)
	}
	s.kill()
	if again, err := stores[0].Add(t.Context(), [32]byte{2}, until); again || err == nil {
		t.Errorf("without a server: %v, %v", again, err)
	}
}

// Close ends what New began, whether there is a server or not.
func TestCloseEndsTheGoroutine(t *testing.T) {
	s := newServer(t)
	for _, addr := range []string{s.addr, freeAddr(t)} {
		before := runtime.NumGoroutine()
		for range 5 {
			store := valkeystore.New(valkey.ClientOption{InitAddress: []string{addr}})
			time.Sleep(50 * time.Millisecond)
			store.Close()
			if works(store) {
				t.Error("it works after Close")
			}
		}
		eventually(t, "goroutines end", 3*time.Second, func() bool { return runtime.NumGoroutine() <= before+1 })
	}
}
