package conformance_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

func TestC203AskedOnce(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	for range 1000 {
		if got := as.try(m, opaqueToken); got != codeOK {
			t.Fatal(got)
		}
	}
	expect(t, "lookups", as.calls.Load(), 1)
}

// TestC214RevocationIsSeen: however a token is used, its last OK lies no
// further than the maximal lifetime behind the last lookup that found it
// active.
func TestC214RevocationIsSeen(t *testing.T) {
	for name, opts := range map[string][]phantom.Option{
		"default":               nil,
		"no refresh ahead":      {phantom.WithRefreshAhead(0)},
		"refreshed very early":  {phantom.WithRefreshAhead(0.01)},
		"a slow server":         {phantom.WithRefreshAhead(0)},
		"stale during outages":  {phantom.WithStaleIfError(time.Hour)},
		"not cached":            {phantom.WithMaxTTL(0)},
		"cached for a second":   {phantom.WithMaxTTL(time.Second)},
		"cached for an instant": {phantom.WithMaxTTL(1)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				revoked := start.Add(100 * time.Second)
				var lastActive atomic.Int64
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					now := time.Now()
					if now.After(revoked) {
						return inactive, nil
					}
					lastActive.Store(int64(now.Sub(start)))
					if name == "a slow server" {
						time.Sleep(1900 * time.Millisecond)
					}
					return says(1)
				}}
				m := o.middleware(t, opts...)
				var lastOK time.Duration
				for time.Since(start) < 200*time.Second {
					switch got := idOf(m, opaqueToken); {
					case got == "1":
						lastOK = time.Since(start)
					case time.Now().Before(revoked):
						t.Fatalf("%s after %v", got, time.Since(start))
					}
					time.Sleep(100 * time.Millisecond)
				}
				limit := time.Minute
				switch name {
				case "not cached", "cached for an instant":
					limit = time.Nanosecond
				case "cached for a second":
					limit = time.Second
				}
				if unseen := lastOK - time.Duration(lastActive.Load()); unseen >= limit {
					t.Errorf("OK %v after the last lookup that found it active", unseen)
				}
			})
		})
	}
}

// TestC215ExpiryWhileCached: from its exp on nothing is served from the cache,
// and from exp plus leeway on nothing at all, although the server still says
// that it is active.
func TestC215ExpiryWhileCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		answer := unsigned(map[string]any{"exp": start.Add(20 * time.Second).Unix()})
		o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return answer, nil }}
		m := o.middleware(t, phantom.WithStaleIfError(time.Hour), phantom.WithRefreshAhead(0))
		for time.Since(start) < 40*time.Second {
			calls, age := o.calls.Load(), time.Since(start)
			want := "id-1"
			if age >= 30*time.Second {
				want = code401T
			}
			if got := idOf(m, opaqueToken); got != want {
				t.Fatalf("%s after %v", got, age)
			}
			if age >= 20*time.Second && o.calls.Load() == calls {
				t.Fatalf("not asked after %v", age)
			}
			time.Sleep(250 * time.Millisecond)
		}
	})
}

// lifetime returns how long a token is served without another lookup, counted
// from the lookup that was made before.
func lifetime(t *testing.T, o *oracle, m *phantom.Middleware, step time.Duration) time.Duration {
	start, calls := time.Now(), o.calls.Load()
	for o.calls.Load() == calls {
		if time.Since(start) > 10*time.Minute {
			t.Fatal("cached for ever")
		}
		time.Sleep(step)
		idOf(m, opaqueToken)
	}
	return time.Since(start)
}

// TestCacheLifetime: the earliest bound counts, less an eighth at most.
func TestCacheLifetime(t *testing.T) {
	type answer struct{ exp, answerExp, maxAge time.Duration }
	const none = -time.Second
	for name, test := range map[string]struct {
		answer answer
		ttl    time.Duration
		want   time.Duration
	}{
		"the cap":                     {answer{300, none, none}, 60, 60},
		"a longer cap":                {answer{300, none, none}, 200, 200},
		"exp":                         {answer{30, none, none}, 60, 30},
		"the answer's exp":            {answer{300, 20, none}, 60, 20},
		"the answer's exp, later":     {answer{30, 200, none}, 60, 30},
		"max-age":                     {answer{300, none, 5}, 60, 5},
		"max-age, larger":             {answer{300, none, 3600}, 60, 60},
		"max-age 0":                   {answer{300, none, 0}, 60, 0},
		"exp has passed, in leeway":   {answer{-5, none, none}, 60, 0},
		"the answer's exp ends first": {answer{300, 5, none}, 60, 5},
		"all at once":                 {answer{30, 25, 20}, 60, 20},
		"far beyond what fits":        {answer{1e9, none, none}, 60, 60},
		"the end of the calendar":     {answer{2e11, 2e11, none}, 60, 60},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					a := unsigned(map[string]any{"exp": time.Now().Unix() + int64(test.answer.exp)})
					if test.answer.answerExp != none {
						a.Expiry = time.Unix(time.Now().Unix()+int64(test.answer.answerExp), 0)
					}
					if test.answer.maxAge != none {
						a.MaxAge = test.answer.maxAge * time.Second
					}
					return a, nil
				}}
				m := o.middleware(t, phantom.WithMaxTTL(test.ttl*time.Second), phantom.WithRefreshAhead(0))
				const step = 50 * time.Millisecond
				seen := map[time.Duration]bool{}
				expect(t, "first", idOf(m, opaqueToken), "id-1")
				for range 5 {
					got, want := lifetime(t, o, m, step), test.want*time.Second
					// An exp is in whole seconds.
					if got > want+step || got < (want-time.Second)*7/8 {
						t.Errorf("served for %v, want %v", got, want)
					}
					seen[got] = true
				}
				if test.want > 0 && len(seen) == 1 {
					t.Errorf("always the same: %v", seen)
				}
			})
		})
	}
}

// TestC231StaleEndsWithTheAnswer: an outage is bridged up to the limit, the
// JWT's exp and the answer's own exp, whichever comes first.
func TestC231StaleEndsWithTheAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		exp, answerExp time.Duration // 0: none
		from, to       time.Duration // the last OK lies between
	}{
		"the limit":               {300, 0, 52500, 70000},
		"exp":                     {35, 0, 34900, 35000},
		"the answer's exp":        {300, 25, 24900, 25000},
		"exp that is too far off": {1e10, 0, 52500, 70000},
		"the end of the calendar": {2e11, 2e11, 52500, 70000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log lockedBuffer
				start := time.Now()
				o := &oracle{}
				o.ask = func(context.Context, string) (*phantom.Introspection, error) {
					if o.calls.Load() > 1 {
						return nil, errors.New("outage")
					}
					a := unsigned(map[string]any{"exp": start.Unix() + int64(test.exp)})
					if test.answerExp > 0 {
						a.Expiry = time.Unix(start.Unix()+int64(test.answerExp), 0)
					}
					return a, nil
				}
				m := o.middleware(t, phantom.WithMaxTTL(20*time.Second), phantom.WithStaleIfError(50*time.Second),
					phantom.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				var last time.Duration
				for time.Since(start) < 90*time.Second {
					if idOf(m, opaqueToken) == "id-1" {
						last = time.Since(start)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if last < test.from*time.Millisecond || last >= test.to*time.Millisecond {
					t.Errorf("last OK after %v", last)
				}
				if !strings.Contains(log.String(), "level=WARN") {
					t.Errorf("no warning: %s", log.String())
				}
			})
		})
	}
}

func TestC220InactiveAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answer(204, "", "")
		m := as.middleware()
		for range 1000 {
			expect(t, "within 5 s", as.try(m, opaqueToken), code401T)
			time.Sleep(5 * time.Millisecond)
		}
		expect(t, "lookups", as.calls.Load(), 1)
		expect(t, "after 5 s", as.try(m, opaqueToken), code401T)
		expect(t, "lookups", as.calls.Load(), 2)
	})
}

func TestC221ActiveAfterAll(t *testing.T) {
	for name, test := range map[string]struct {
		opts  []phantom.Option
		after func(*phantom.Middleware)
		limit time.Duration
	}{
		"by default":            {nil, nil, 5 * time.Second},
		"negative TTL of 1 min": {[]phantom.Option{phantom.WithNegativeTTL(time.Minute)}, nil, time.Minute},
		"C222 negative TTL 0":   {[]phantom.Option{phantom.WithNegativeTTL(0)}, nil, time.Second},
		"C222 TTL 0":            {[]phantom.Option{phantom.WithMaxTTL(0)}, nil, time.Second},
		"C222 size 0":           {[]phantom.Option{phantom.WithCacheSize(0)}, nil, time.Second},
		"Forget":                {nil, func(m *phantom.Middleware) { m.Forget(opaqueToken) }, time.Second},
		"Purge":                 {nil, (*phantom.Middleware).Purge, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					if time.Since(start) < time.Second {
						return inactive, nil
					}
					return says(1)
				}}
				m := o.middleware(t, test.opts...)
				expect(t, "on first sight", idOf(m, opaqueToken), code401T)
				time.Sleep(time.Second)
				if test.after != nil {
					test.after(m)
				}
				for idOf(m, opaqueToken) != "1" {
					time.Sleep(100 * time.Millisecond)
				}
				if got := time.Since(start); got > test.limit {
					t.Errorf("OK after %v", got)
				}
			})
		})
	}
}

// TestC222Off: what is turned off remembers nothing; a negative number is a
// mistake; nothing means unlimited or for ever.
func TestC222Off(t *testing.T) {
	for name, test := range map[string]struct {
		option           phantom.Option
		active, inactive int64 // lookups for ten requests one second apart
		refused          bool
	}{
		"size 0":          {option: phantom.WithCacheSize(0), active: 10, inactive: 10},
		"size -1":         {option: phantom.WithCacheSize(-1), refused: true},
		"TTL 0":           {option: phantom.WithMaxTTL(0), active: 10, inactive: 10},
		"TTL -1":          {option: phantom.WithMaxTTL(-1), refused: true},
		"negative TTL 0":  {option: phantom.WithNegativeTTL(0), active: 1, inactive: 10},
		"negative TTL -1": {option: phantom.WithNegativeTTL(-1), refused: true},
		"size 1":          {option: phantom.WithCacheSize(1), active: 1, inactive: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{}
				if test.refused {
					_, err := phantom.New(phantom.WithIssuer(issuer), phantom.WithAudience(audience),
						phantom.WithIntrospector(o), phantom.WithKeySet(o), test.option)
					var mistake *phantom.ConfigError
					if !errors.As(err, &mistake) {
						t.Error(err)
					}
					return
				}
				m := o.middleware(t, test.option)
				for token, want := range map[string]int64{"active": test.active, "inactive": test.inactive} {
					o.calls.Store(0)
					o.ask = func(context.Context, string) (*phantom.Introspection, error) {
						if token == "active" {
							return says(1)
						}
						return inactive, nil
					}
					for range 10 {
						idOf(m, token)
						time.Sleep(time.Second)
					}
					expect(t, token, o.calls.Load(), want)
				}
			})
		})
	}
}

// TestC223NoSharedEntries: tokens that resemble one another in any way that a
// careless key would overlook never share an entry.
func TestC223NoSharedEntries(t *testing.T) {
	base := strings.Repeat("abcdefghij", 6)
	tokens := []string{
		base, base + "a", "a" + base, base[:20] + "." + base[21:], base[:59] + "J", "A" + base[1:], strings.ToUpper(base),
		base[1:], base[:59], base[:20], base[40:], base + "=", base + "==", base + "/", base + "~", base + "_", base + "-",
		"0", "00", "000", "a", "A", "a.b", "a-b", "ab", "b.a", strings.Repeat("x", 344), strings.Repeat("x", 345), strings.Repeat("x", 8192),
	}
	for i := range base { // one byte changed, each in turn
		tokens = append(tokens, base[:i]+"0"+base[i+1:])
	}
	slices.Sort(tokens)
	tokens = slices.Compact(tokens)
	o := &oracle{ask: func(_ context.Context, token string) (*phantom.Introspection, error) {
		if len(token)%5 == 4 {
			return inactive, nil
		}
		return unsigned(map[string]any{"jti": token}), nil
	}}
	m := o.middleware(t)
	for range 2 { // the second time from the cache
		for _, token := range tokens {
			want := token
			if len(token)%5 == 4 {
				want = code401T
			}
			expect(t, "token", idOf(m, token), want)
		}
		expect(t, "lookups", o.calls.Load(), int64(len(tokens)))
	}
	// Forget reaches the token that it names and no other.
	m.Forget(base)
	for _, token := range tokens {
		idOf(m, token)
	}
	expect(t, "lookups after Forget", o.calls.Load(), int64(len(tokens))+1)
	for _, token := range []string{base + "|", "|" + base, base[:30] + "|" + base[30:], "a|b"} {
		if _, err := m.Verify(t.Context(), token); !errors.Is(err, phantom.ErrInvalidRequest) {
			t.Errorf("%q: %v", token, err)
		}
	}
}

func TestC225EachRouteItsScopes(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(mint("ES256", claims(map[string]any{"scope": "a"})))
	m := as.middleware()
	r := get("Bearer " + as.secret(opaqueToken))
	for range 3 {
		expect(t, "route A", as.send(m.RequireScopes("a"), r), codeOK)
		expect(t, "route B", as.send(m.RequireScopes("b"), r), code403S)
	}
	expect(t, "lookups", as.calls.Load(), 1)
}

// A reference is what a cache of the given size should hold: the most recent
// last.
type reference struct {
	size int
	keys []string
}

// use looks a key up and reports whether it was there.
func (l *reference) use(key string) bool {
	i := slices.Index(l.keys, key)
	if i >= 0 {
		l.keys = slices.Delete(l.keys, i, i+1)
	}
	l.keys = append(l.keys, key)
	if len(l.keys) > l.size {
		l.keys = l.keys[1:]
	}
	return i >= 0
}

func (l *reference) drop(key string) {
	l.keys = slices.DeleteFunc(l.keys, func(k string) bool { return k == key })
}

// TestCacheEvictsTheLeastRecent: a small cache holds exactly as many tokens as
// it should, and exactly the right ones, active and inactive ones each on their
// own; through Forget, Purge, and tokens that change sides.
func TestCacheEvictsTheLeastRecent(t *testing.T) {
	for _, size := range []int{1, 2, 3, 7, 64} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			seed := rand.Uint64()
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			random := rand.New(rand.NewPCG(seed, 0))
			isInactive := map[string]bool{}
			o := &oracle{ask: func(_ context.Context, token string) (*phantom.Introspection, error) {
				if isInactive[token] {
					return inactive, nil
				}
				return says(1)
			}}
			m := o.middleware(t, phantom.WithCacheSize(size), phantom.WithMaxTTL(time.Hour),
				phantom.WithNegativeTTL(time.Hour), phantom.WithRefreshAhead(0))
			actives, inactives := &reference{size: size}, &reference{size: size}
			for step := range 20_000 / scale {
				token := fmt.Sprintf("token-%d", random.IntN(2*size+2))
				switch random.IntN(20) {
				case 0:
					m.Forget(token)
					actives.drop(token)
					inactives.drop(token)
					isInactive[token] = !isInactive[token]
				case 1:
					if random.IntN(size+1) == 0 {
						m.Purge()
						actives.keys, inactives.keys = nil, nil
					}
				default:
					list, want := actives, "1"
					if isInactive[token] {
						list, want = inactives, code401T
					}
					calls := o.calls.Load()
					if got := idOf(m, token); got != want {
						t.Fatalf("step %d: %s", step, got)
					}
					if hit := o.calls.Load() == calls; hit != list.use(token) {
						t.Fatalf("step %d: %s hit: %v, the others %v", step, token, hit, list.keys)
					}
				}
			}
		})
	}
}

// TestCacheUsesAllOfItsSize: whatever the number of shards, a cache takes as
// many tokens as it should, and no more, and so again after a Purge.
func TestCacheUsesAllOfItsSize(t *testing.T) {
	for _, size := range []int{1, 2, 63, 64, 65, 100, 129, 1000, 5000 / scale} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				down := false
				o := &oracle{ask: func(_ context.Context, token string) (*phantom.Introspection, error) {
					switch {
					case down:
						return nil, errors.New("outage")
					case strings.HasPrefix(token, "junk"):
						return inactive, nil
					}
					return says(1)
				}}
				m := o.middleware(t, phantom.WithCacheSize(size), phantom.WithMaxTTL(time.Hour), phantom.WithNegativeTTL(time.Hour))
				// held counts the tokens that are remembered; an outage leaves
				// the cache as it is.
				held := func(kind string, n int, want string) (held int) {
					synctest.Wait()
					down = true
					for i := range n {
						if idOf(m, fmt.Sprintf("%s-%d", kind, i)) == want {
							held++
						}
					}
					synctest.Wait()
					down = false
					time.Sleep(2 * time.Second) // the breaker has opened
					return held
				}
				for _, n := range []int{size, 2*size + 10} {
					for i := range n {
						expect(t, "active", idOf(m, fmt.Sprintf("token-%d", i)), "1")
						expect(t, "inactive", idOf(m, fmt.Sprintf("junk-%d", i)), code401T)
					}
					expect(t, "active ones held", held("token", n, "1"), size)
					expect(t, "inactive ones held", held("junk", n, code401T), size)
					m.Purge()
					expect(t, "active ones held after Purge", held("token", n, "1"), 0)
					expect(t, "inactive ones held after Purge", held("junk", n, code401T), 0)
				}
			})
		})
	}
}

// TestC219Junk: random tokens, however many, cost valid users nothing and take
// no more memory than the cache's size allows.
func TestC219Junk(t *testing.T) {
	for name, junk := range map[string]int{ // for each valid request
		"C219 L286 nine in ten": 9,
		"L287 half":             1,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const users, capacity = 1000, 10_000
				total := 100_000 / scale
				o := &oracle{ask: func(_ context.Context, token string) (*phantom.Introspection, error) {
					time.Sleep(time.Millisecond)
					if strings.HasPrefix(token, "user") {
						return says(1)
					}
					return inactive, nil
				}}
				m := o.middleware(t, phantom.WithCacheSize(capacity))
				var hits, valid atomic.Int64
				use := func(i int) {
					start := time.Now()
					expect(t, "user", idOf(m, fmt.Sprintf("user-%d", i%users)), "1")
					if valid.Add(1); time.Since(start) == 0 {
						hits.Add(1)
					}
				}
				for i := range users {
					use(i)
				}
				hits.Store(0)
				valid.Store(0)
				before := heap()
				var wg sync.WaitGroup
				for worker := range 10 {
					wg.Go(func() {
						random := rand.New(rand.NewPCG(1, uint64(worker)))
						for i := range total / 10 / (junk + 1) {
							use(worker + 10*i)
							for range junk {
								expect(t, "junk", idOf(m, fmt.Sprintf("junk-%x", random.Uint64())), code401T)
							}
						}
					})
				}
				wg.Wait()
				if hits.Load()*1000 < valid.Load()*999 {
					t.Errorf("%d of %d valid requests were hits", hits.Load(), valid.Load())
				}
				if grown := heap() - before; grown > capacity*1024 {
					t.Errorf("the heap grew by %d bytes", grown)
				}
				runtime.KeepAlive(m)
			})
		})
	}
}

// heap returns the size of what is alive.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// TestCacheL289Memory: large tokens and JWTs cost what the JWTs weigh and little
// more. Go's allocator has blocks of 28 KiB and of 32 KiB and none between.
func TestCacheL289Memory(t *testing.T) {
	const capacity, weight = 300, 30 << 10
	padding := strings.Repeat("x", weight*3/4-300)
	answer := unsigned(map[string]any{"padding": padding})
	o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return answer, nil }}
	m := o.middleware(t, phantom.WithCacheSize(capacity))
	before := heap()
	for i := range 2 * capacity {
		expect(t, "token", idOf(m, fmt.Sprintf("%08d", i)+strings.Repeat("t", 8<<10-8)), "id-1")
	}
	if grown := heap() - before; grown > capacity*(32<<10+1024) {
		t.Errorf("%d bytes for each entry", grown/capacity)
	}
	runtime.KeepAlive(m)
}

// TestCacheL290SlowServer: a crowd of tokens that the server cannot cope with
// costs two goroutines a request, not much memory, and ends in time.
func TestCacheL290SlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const crowd, each = 5000, 32 << 10
		o := &oracle{ask: func(ctx context.Context, _ string) (*phantom.Introspection, error) {
			select {
			case <-time.After(1900 * time.Millisecond):
				return says(1)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		m := o.middleware(t)
		memory := func() uint64 {
			var stats runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&stats)
			return stats.HeapInuse + stats.StackInuse
		}
		goroutines, bytes := runtime.NumGoroutine(), memory()
		join := throng(crowd, func(i int) string { return idOf(m, fmt.Sprintf("token-%d", i)) })
		time.Sleep(time.Second)
		synctest.Wait()
		if n := countGoroutines(goroutines + 2*crowd); n > goroutines+2*crowd {
			t.Errorf("%d goroutines, %d before", n, goroutines)
		}
		if n := memory(); n > bytes+crowd*each {
			t.Errorf("%d bytes a request", (n-bytes)/crowd)
		}
		expectEndings(t, join(), map[ending]int{
			{"1", 1900 * time.Millisecond}:      64,
			{code503A, 1900 * time.Millisecond}: 32 * 64, // too late to be answered
			{code503A, 0}:                       crowd - 33*64,
		})
	})
}

// TestCacheL285HotTokens: ten minutes of tokens in constant use: no error, no
// wait, and the server is asked once in each token's life.
func TestCacheL285HotTokens(t *testing.T) {
	for name, test := range map[string]struct {
		opts []phantom.Option
		life time.Duration // between two lookups
		wait time.Duration // of a hit
	}{
		"no refresh ahead": {[]phantom.Option{phantom.WithRefreshAhead(0)}, 60 * time.Second, 20 * time.Millisecond},
		"refresh ahead":    {nil, 48 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const tokens, minutes = 200 / scale, 10
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					time.Sleep(20 * time.Millisecond)
					return says(1)
				}}
				m := o.middleware(t, test.opts...)
				var wg sync.WaitGroup
				for i := range tokens {
					wg.Go(func() {
						token := fmt.Sprintf("token-%d", i)
						expect(t, "first", idOf(m, token), "1")
						for range minutes * 60 * 2 {
							start := time.Now()
							expect(t, "hit", idOf(m, token), "1")
							if took := time.Since(start); took > test.wait {
								t.Errorf("took %v", took)
							}
							time.Sleep(500 * time.Millisecond)
						}
					})
				}
				wg.Wait()
				want := float64(tokens * minutes * time.Minute / test.life)
				if got := float64(o.calls.Load()); got < want*0.9 || got > want*1.1+tokens {
					t.Errorf("%v lookups, want %v", got, want)
				}
				time.Sleep(time.Second) // for the last refreshes
			})
		})
	}
}

// A careless transport answers like an authorization server and keeps nothing.
type careless struct{ jwt, keys string }

func (c *careless) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/jwt"}}, Request: r}
	body := c.jwt
	if r.URL.Path == jwksPath {
		resp.Header.Set("Content-Type", "application/jwk-set+json")
		body = c.keys
	} else if form, err := io.ReadAll(r.Body); err != nil || len(form)%7 == 0 {
		resp.StatusCode, body = 204, ""
	}
	resp.Body = io.NopCloser(strings.NewReader(body))
	return resp, nil
}

// TestC234NoTokenInMemory: a dump of the heap after many requests has no byte
// of an opaque token in it. The dump takes the mark bits at the end of some
// spans for an object, with whatever was there when the span was another one,
// so that one clean dump of a few is what counts: what is remembered is in each.
func TestC234NoTokenInMemory(t *testing.T) {
	for attempt := 1; ; attempt++ {
		switch found, foundKept := tokensInMemory(t); {
		case !foundKept:
			t.Fatal("the search finds nothing")
		case !found:
			return
		case attempt == 10:
			t.Fatal("an opaque token is in the heap")
		}
	}
}

// tokensInMemory reports whether an opaque token is in the heap after many
// requests, and whether one is that the test itself then keeps there.
func tokensInMemory(t *testing.T) (found, foundKept bool) {
	transport := &careless{mint("EdDSA", claims(nil)), jwks(jwk("k-EdDSA", "EdDSA", edKey().Public()))}
	as := newAS(t)
	m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: transport}), phantom.WithMaxTTL(time.Hour))
	// The text to look for is not in the heap until it is looked for.
	var hidden [24]byte
	for i := range hidden {
		hidden[i] = byte(rand.IntN(26)+'a') ^ 0xff
	}
	marker := func() []byte {
		text := make([]byte, len(hidden))
		for i := range hidden {
			text[i] = hidden[i] ^ 0xff
		}
		return text
	}
	search := func() bool {
		runtime.GC()
		runtime.GC() // empties the pools too
		path := filepath.Join(t.TempDir(), "heap")
		f := must(os.Create(path))
		debug.WriteHeapDump(f.Fd())
		_ = f.Close()
		dump := must(os.ReadFile(path))
		return bytes.Contains(dump, marker()) || bytes.Contains(dump, []byte(base64.StdEncoding.EncodeToString(marker())))
	}
	statuses := map[int]int{}
	h := m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	var sent sync.WaitGroup
	sent.Go(func() { // whose stack is gone afterwards
		for i := range 10_000 {
			token := fmt.Sprintf("%s.%d", marker(), i%3000)
			statuses[serve(h, get("Bearer "+token)).Code]++
		}
	})
	sent.Wait()
	if statuses[200] == 0 || statuses[401] == 0 || len(statuses) != 2 {
		t.Fatalf("statuses %v", statuses)
	}
	found = search()
	kept := get("Bearer " + string(marker()) + ".0")
	foundKept = search()
	expect(t, "still remembered", serve(h, kept).Code, 200)
	return found, foundKept
}

// TestC235AbortedLookups: callers who leave leave nothing behind.
func TestC235AbortedLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const crowd = 1000
		o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
			time.Sleep(50 * time.Millisecond)
			return says(1)
		}}
		m := o.middleware(t, phantom.WithCacheSize(100))
		goroutines := runtime.NumGoroutine()
		const rounds = 100 / scale
		var first int64
		for round := range rounds {
			ctx, leave := context.WithTimeout(t.Context(), 10*time.Millisecond)
			join := throng(crowd, func(i int) string {
				_, err := m.Verify(ctx, fmt.Sprintf("token-%d-%d", round, i))
				return fmt.Sprint(errors.Is(err, context.DeadlineExceeded))
			})
			expectEndings(t, join(), map[ending]int{{"true", 10 * time.Millisecond}: crowd})
			leave()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if n := countGoroutines(goroutines + 10); n > goroutines+10 {
				t.Fatalf("round %d: %d goroutines, %d before", round, n, goroutines)
			}
			if round == rounds/5 {
				first = heap()
			}
		}
		if last := heap(); last > first+100<<10 {
			t.Errorf("the heap grew from %d to %d bytes", first, last)
		}
		expect(t, "lookups", o.calls.Load(), crowd*rounds)
	})
}
