package conformance_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
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

// A small cache holds exactly as many tokens as it should, and exactly the
// right ones. Active and inactive ones count apart. Forget, Purge and tokens
// that change sides do not upset this.
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

// A cache of any size takes as many tokens as it should and no more. It does
// so again after a Purge.
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

// Random tokens cost valid users nothing and take no more memory than the
// size of the cache allows.
func TestCacheWithstandsJunk(t *testing.T) {
	for _, tc := range []struct {
		name string
		junk int // for each valid request
	}{
		{"nine in ten", 9}, // C219, L286
		{"half", 1},        // L287
	} {
		t.Run(tc.name, func(t *testing.T) {
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
						for i := range total / 10 / (tc.junk + 1) {
							use(worker + 10*i)
							for range tc.junk {
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

// Large tokens and JWTs cost what the JWTs weigh and little more. Go's
// allocator has blocks of 28 KiB and of 32 KiB and none between.
//
// Catalogue: L289.
func TestCacheMemoryIsWhatTheJWTsWeigh(t *testing.T) {
	const capacity, weight = 300, 30 << 10
	padding := strings.Repeat("x", weight*3/4-300)
	answer := unsigned(map[string]any{"padding": padding})
	o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return answer, nil }}
	m := o.middleware(t, phantom.WithCacheSize(capacity))
	before := heap()
	for i := range 2 * capacity {
		expect(t, "token", idOf(m, fmt.Sprintf("%08d", i)+strings.Repeat("t", 16<<10-8)), "id-1")
	}
	if grown := heap() - before; grown > capacity*(32<<10+1024) {
		t.Errorf("%d bytes for each entry", grown/capacity)
	}
	runtime.KeepAlive(m)
}

// More tokens arrive than the server can cope with. They cost two goroutines
// a request and little memory, and all end in time.
//
// Catalogue: L290.
func TestCacheCrowdAtASlowServerIsBounded(t *testing.T) {
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
			{"1", 1900 * time.Millisecond}: 64,
			{code503A, 2 * time.Second}:    32 * 64, // too late to be answered
			{code503A, 0}:                  crowd - 33*64,
		})
	})
}

// Tokens are in constant use for ten minutes. There is no error and no wait,
// and the server is asked once in each token's life.
//
// Catalogue: L285.
func TestCacheAsksOncePerLifeOfAHotToken(t *testing.T) {
	for _, test := range []struct {
		name string
		opts []phantom.Option
		life time.Duration // between two lookups
		wait time.Duration // of a hit
	}{
		{"no refresh ahead", []phantom.Option{phantom.WithRefreshAhead(0)}, 60 * time.Second, 20 * time.Millisecond},
		{"refresh ahead", nil, 48 * time.Second, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
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

// A dump of the heap after many requests has no byte of an opaque token in
// it. The dump takes the mark bits at the end of some spans for an object
// and shows what an earlier span left there, so one clean dump of a few is
// enough: what is remembered is in each.
//
// Catalogue: C234.
func TestCacheKeepsNoTokenInMemory(t *testing.T) {
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
