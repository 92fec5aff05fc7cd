package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// A traceRecorder is what a Trace was told.
type traceRecorder struct {
	mu        sync.Mutex
	starts    int
	lookups   []phantom.Lookup
	decisions []phantom.Decision
}

// option returns the Trace as an option.
func (r *traceRecorder) option() phantom.Option {
	return phantom.WithTrace(&phantom.Trace{
		LookupStart: func(context.Context) context.Context {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.starts++
			return context.Background()
		},
		LookupDone: func(_ context.Context, l phantom.Lookup) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.lookups = append(r.lookups, l)
		},
		Decided: func(_ context.Context, d phantom.Decision) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.decisions = append(r.decisions, d)
		},
	})
}

// told returns what was decided, in order, as "outcome reason".
func (r *traceRecorder) told() (texts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.decisions {
		text := string(d.Outcome)
		if d.Err != nil {
			text += " " + string(d.Err.Reason)
		}
		texts = append(texts, text)
	}
	return texts
}

// rejected returns the reasons that were counted.
func rejected(s phantom.Stats) map[phantom.Reason]uint64 {
	counted := maps.Clone(s.Rejected)
	maps.DeleteFunc(counted, func(_ phantom.Reason, n uint64) bool { return n == 0 })
	return counted
}

// Each token, each rejection and each lookup counts once. Every reason is
// there from the start, so that the first rejection is a step from 0.
//
// Catalogue: T1.
func TestStatsCountEachRequestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			switch r.PostForm.Get("token") {
			case "good":
				answerJWT(mint("ES256", claims(nil)))(w, r)
			case "junk":
				w.WriteHeader(http.StatusNoContent)
			default:
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}
		rec := &traceRecorder{}
		m := as.middleware(rec.option())
		expect(t, "reasons before the first request", len(m.Stats().Rejected), 12)
		for _, token := range []string{"good", "good", "junk", "junk"} {
			as.try(m, token)
		}
		as.send(m.Handler, get())
		as.try(m, "while-it-is-down")

		s := m.Stats()
		expect(t, "hits", s.Hits, 1)
		expect(t, "misses", s.Misses, 3)
		expect(t, "negative", s.Negative, 1)
		expect(t, "stale", s.Stale, 0)
		expect(t, "joined", s.Joined, 0)
		expect(t, "entries", s.Entries, 1)
		expect(t, "negative entries", s.NegativeEntries, 1)
		expect(t, "active", s.Active, 0)
		expect(t, "keys", s.Keys > 0, true)
		want := map[phantom.Reason]uint64{
			phantom.ReasonInactive: 2, phantom.ReasonNoCredentials: 1, phantom.ReasonUnavailable: 1,
		}
		if got := rejected(s); !maps.Equal(got, want) {
			t.Errorf("rejected %v, want %v", got, want)
		}
		expect(t, "lookups started", rec.starts, 3)
		expect(t, "lookups done", len(rec.lookups), 3)
		wantTold := []string{"miss", "hit", "miss inactive", "negative inactive", "none no_credentials", "miss as_unavailable"}
		if got := rec.told(); !slices.Equal(got, wantTold) {
			t.Errorf("decided %q, want %q", got, wantTold)
		}
	})
}

// Verify and Authenticate count like requests. Only requests are decided on.
//
// Catalogue: T1.
func TestVerifyCountsAndIsNotDecided(t *testing.T) {
	as, rec := newAS(t), &traceRecorder{}
	m := as.middleware(rec.option(), phantom.WithRequirements(func(tok *phantom.Token) error {
		if tok.Subject() == "alice" {
			return &phantom.Error{Reason: "made up"}
		}
		return nil
	}))
	_, errVerify := m.Verify(t.Context(), as.secret(opaqueToken))
	_, errAuthenticate := m.Authenticate(get("Bearer " + opaqueToken))
	_, errNone := m.Authenticate(get())
	if errVerify == nil || errAuthenticate == nil || errNone == nil {
		t.Fatal("no error")
	}
	s := m.Stats()
	expect(t, "misses", s.Misses, 1)
	expect(t, "hits", s.Hits, 1)
	want := map[phantom.Reason]uint64{phantom.ReasonScope: 2, phantom.ReasonNoCredentials: 1}
	if got := rejected(s); !maps.Equal(got, want) {
		t.Errorf("rejected %v, want %v", got, want)
	}
	expect(t, "decisions", len(rec.decisions), 0)
	expect(t, "lookups", len(rec.lookups), 1)
}

// A hundred requests at once take one lookup. Who joins counts as a miss, and
// as one who joined.
//
// Catalogue: T2.
func TestJoinersAreCountedAndStartNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, rec := newAS(t), &traceRecorder{}
		as.introspect = wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		m := as.middleware(rec.option())
		join := throng(100, func(int) string { return as.try(m, opaqueToken) })
		synctest.Wait()
		expect(t, "active", m.Stats().Active, 1)
		expectEndings(t, join(), map[ending]int{{codeOK, 100 * time.Millisecond}: 100})
		s := m.Stats()
		expect(t, "misses", s.Misses, 100)
		expect(t, "joined", s.Joined, 99)
		expect(t, "started", rec.starts, 1)
		expect(t, "done", len(rec.lookups), 1)
		expect(t, "duration", rec.lookups[0].Duration, 100*time.Millisecond)
		expect(t, "active", m.Stats().Active, 0)
	})
}

// What waits for a place is counted by its class, and the lookup says how long
// it waited.
//
// Catalogue: T2.
func TestLookupsThatWaitAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, rec := newAS(t), &traceRecorder{}
		as.introspect = wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		m := as.middleware(rec.option(), phantom.WithMaxInFlight(1), phantom.WithMaxTTL(0))
		as.try(m, "known")
		join := throng(4, func(i int) string {
			time.Sleep(time.Duration(i) * time.Millisecond)
			return as.try(m, []string{"first", "second", "known", "third"}[i])
		})
		time.Sleep(10 * time.Millisecond)
		s := m.Stats()
		expect(t, "active", s.Active, 1)
		expect(t, "waiting", s.Waiting, 2)
		expect(t, "waiting, known", s.WaitingKnown, 1)
		join()
		expect(t, "lookups", len(rec.lookups), 5)
		expect(t, "the first waited", rec.lookups[0].Waited, 0)
		expect(t, "the last waited", rec.lookups[4].Waited > 290*time.Millisecond, true)
		expect(t, "and was answered", rec.lookups[4].Duration-rec.lookups[4].Waited, 100*time.Millisecond)
	})
}

// A refresh ahead is one lookup for which no request waits.
//
// Catalogue: T3.
func TestRefreshIsALookupThatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, rec := newAS(t), &traceRecorder{}
		m := as.middleware(rec.option())
		as.try(m, opaqueToken)
		time.Sleep(50 * time.Second)
		as.introspect = wait(time.Second, answerJWT(mint("ES256", claims(nil))))
		for range 3 {
			began := time.Now()
			as.try(m, opaqueToken)
			expect(t, "waited", time.Since(began), 0)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		expect(t, "lookups", len(rec.lookups), 2)
		expect(t, "the first refreshes", rec.lookups[0].Refresh, false)
		expect(t, "the second refreshes", rec.lookups[1].Refresh, true)
		expect(t, "hits", m.Stats().Hits, 3)
		expect(t, "misses", m.Stats().Misses, 1)
		if got, want := rec.told(), []string{"miss", "hit", "hit", "hit"}; !slices.Equal(got, want) {
			t.Errorf("decided %q, want %q", got, want)
		}
	})
}

// An entry that serves in an outage has an outcome of its own.
//
// Catalogue: T3.
func TestStaleIsAnOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, rec := newAS(t), &traceRecorder{}
		m := as.middleware(rec.option(), phantom.WithStaleIfError(time.Minute))
		as.try(m, opaqueToken)
		time.Sleep(70 * time.Second)
		as.introspect = reply(500, "")
		as.try(m, opaqueToken)
		expect(t, "stale", m.Stats().Stale, 1)
		expect(t, "misses", m.Stats().Misses, 1)
		if got, want := rec.told(), []string{"miss", "stale"}; !slices.Equal(got, want) {
			t.Errorf("decided %q, want %q", got, want)
		}
		expect(t, "the lookup failed", rec.lookups[1].Err != nil, true)
	})
}

type traceKey string

// What LookupStart puts into the context reaches the Introspector, the
// transport and LookupDone. Nothing else of the request does, and the lookup
// outlives it. Several Traces are chained.
//
// Catalogue: T4.
func TestLookupStartMakesTheContextOfTheLookup(t *testing.T) {
	seen := func(ctx context.Context) string {
		return fmt.Sprintln(ctx.Value(traceKey("a")), ctx.Value(traceKey("b")), ctx.Value(traceKey("request")))
	}
	for _, tc := range []struct {
		name   string
		traces int
		want   string
	}{
		{"no Trace", 0, "<nil> <nil> <nil>\n"},
		{"one", 1, "<nil> <nil> mine\n"},
		{"two", 2, "1 1 of mine <nil>\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				var mu sync.Mutex
				var order, contexts []string
				note := func(list *[]string, text string) {
					mu.Lock()
					defer mu.Unlock()
					*list = append(*list, text)
				}
				var opts []phantom.Option
				for i := range tc.traces {
					opts = append(opts, phantom.WithTrace(&phantom.Trace{
						LookupStart: func(ctx context.Context) context.Context {
							note(&order, fmt.Sprint("start ", i))
							if tc.traces == 1 { // the most that one can do wrong
								return ctx
							}
							if i == 0 {
								return context.WithValue(context.Background(), traceKey("a"), 1)
							}
							b := fmt.Sprint(ctx.Value(traceKey("a")), " of ", ctx.Value(traceKey("request")))
							return context.WithValue(context.Background(), traceKey("b"), b)
						},
						LookupDone: func(ctx context.Context, _ phantom.Lookup) {
							note(&order, fmt.Sprint("done ", i))
							note(&contexts, seen(ctx))
						},
					}))
				}
				i := &introspector{ask: func(ctx context.Context, _ string) (*phantom.Introspection, error) {
					note(&contexts, seen(ctx))
					return &phantom.Introspection{Active: true, JWT: mint("ES256", claims(nil))}, nil
				}}
				request, leave := context.WithCancel(context.WithValue(t.Context(), traceKey("request"), "mine"))
				defer leave()
				transport := roundTripper(func(r *http.Request) (*http.Response, error) {
					if r.URL.Path == endpointPath {
						note(&contexts, seen(r.Context()))
						leave()
						runtime.Gosched()
						if err := r.Context().Err(); err != nil {
							t.Errorf("the request's end ended the lookup: %v", err)
						}
					}
					return as.RoundTrip(r)
				})
				as.send(introspected(as, i, opts...).Handler, get("Bearer token-1").WithContext(request))
				m := as.middleware(append(opts, phantom.WithHTTPClient(&http.Client{Transport: transport}))...)
				_, _ = m.Verify(request, "token-2") // it leaves meanwhile
				synctest.Wait()
				must(m.Verify(t.Context(), "token-2"))
				for _, got := range contexts {
					if got != tc.want {
						t.Errorf("the context has %s, want %s", got, tc.want)
					}
				}
				expect(t, "contexts", len(contexts), 2+2*tc.traces)
				if want := []string{"start 0", "start 1", "done 1", "done 0"}; tc.traces == 2 &&
					!slices.Equal(order, slices.Concat(want, want)) {
					t.Errorf("order %q", order)
				}
			})
		})
	}
}

// A function of a Trace that panics, or ends its goroutine in a lookup, refuses
// its own request and no other. What was remembered stays.
//
// Catalogue: T5.
func TestTraceThatPanicsRefusesItsOwnRequestOnly(t *testing.T) {
	for _, tc := range []struct {
		name  string
		trace func(boom func()) *phantom.Trace
	}{
		{"LookupStart", func(boom func()) *phantom.Trace {
			return &phantom.Trace{LookupStart: func(ctx context.Context) context.Context { boom(); return ctx }}
		}},
		{"LookupStart that returns nil", func(boom func()) *phantom.Trace {
			return &phantom.Trace{LookupStart: func(ctx context.Context) (none context.Context) {
				defer func() {
					if recover() == nil {
						none = ctx
					}
				}()
				boom()
				return ctx
			}}
		}},
		{"LookupDone", func(boom func()) *phantom.Trace {
			return &phantom.Trace{LookupDone: func(context.Context, phantom.Lookup) { boom() }}
		}},
		{"Decided", func(boom func()) *phantom.Trace {
			return &phantom.Trace{Decided: func(context.Context, phantom.Decision) { boom() }}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				left := 0
				boom := func() {
					mu.Lock()
					defer mu.Unlock()
					if left > 0 {
						left--
						panic("a secret value")
					}
				}
				as := newAS(t)
				as.secret("a secret value")
				m := as.middleware(phantom.WithTrace(tc.trace(boom)))
				left = 1
				expect(t, "alone", as.try(m, "token-1"), code500I)
				expect(t, "the next", as.try(m, "token-1"), codeOK)
				hits := m.Stats().Hits
				left = 1
				as.introspect = wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
				join := throng(10, func(int) string { return as.try(m, "token-2") })
				got := join()
				refused, passed := 0, 0
				for e, n := range got {
					switch e.what {
					case code500I:
						refused += n
					case codeOK:
						passed += n
					}
				}
				expect(t, "refused of ten", refused, 1)
				expect(t, "passed of ten", passed, 9)
				expect(t, "lookups of two tokens", as.calls.Load() <= 3, true)
				if s := m.Stats(); s.Hits != hits || s.Rejected[phantom.ReasonInternal] != 2 {
					t.Errorf("%d hits, %d internal", s.Hits, s.Rejected[phantom.ReasonInternal])
				}
			})
		})
	}
}

// A panic while an entry is refreshed leaves the entry.
//
// Catalogue: T5.
func TestTraceThatPanicsInARefreshKeepsTheEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		armed := false
		m := as.middleware(
			phantom.WithTrace(&phantom.Trace{LookupDone: func(context.Context, phantom.Lookup) {
				if armed {
					panic("a secret value")
				}
			}}))
		as.secret("a secret value")
		as.try(m, opaqueToken)
		time.Sleep(50 * time.Second)
		armed = true
		expect(t, "while it is refreshed", as.try(m, opaqueToken), codeOK)
		synctest.Wait()
		expect(t, "refreshed", as.calls.Load(), 2)
		time.Sleep(30 * time.Second) // past the life of the first answer
		expect(t, "afterwards", as.try(m, opaqueToken), codeOK)
		expect(t, "not asked again", as.calls.Load(), 2)
		if !strings.Contains(as.logs.String(), "a Trace panicked") {
			t.Errorf("the log has %s", as.logs.String())
		}
	})
}

// A rejection is decided with what it will be, and a token that is verified and
// does not suffice is shown. A panic takes the rejection's place.
//
// Catalogue: T5.
func TestDecidedSeesTheRejection(t *testing.T) {
	as, rec := newAS(t), &traceRecorder{}
	m := as.middleware(rec.option())
	expect(t, "scope", as.send(m.RequireScopes("admin"), get("Bearer "+opaqueToken)), code403S)
	expect(t, "anonymous", as.send(m.Optional, get()), codeOK)
	if d := rec.decisions[0]; d.Token == nil || d.Token.Subject() != "alice" || d.Err.StatusCode() != 403 {
		t.Errorf("told %+v", d)
	}
	if d := rec.decisions[1]; d.Token != nil || d.Err != nil || d.Outcome != phantom.OutcomeNone {
		t.Errorf("told %+v", d)
	}
	calls := 0
	panics := as.middleware(phantom.WithTrace(&phantom.Trace{
		Decided: func(context.Context, phantom.Decision) { calls++; panic("a secret value") },
	}))
	expect(t, "let through before", as.try(panics, opaqueToken), code500I)
	expect(t, "calls", calls, 1)
	expect(t, "rejected before", as.send(panics.Handler, get()), code500I)
	expect(t, "calls", calls, 2)
	extractor := phantom.WithTokenExtractor(func(*http.Request) (string, error) { panic("a secret value") })
	m = as.middleware(rec.option(), extractor)
	expect(t, "a hook that panics", as.send(m.Handler, get()), code500I)
	if d := rec.decisions[2]; d.Outcome != phantom.OutcomeNone || d.Err.Reason != phantom.ReasonInternal {
		t.Errorf("told %+v", d)
	}
}

// Stats that are read during a load never go back, and all adds up at the end.
//
// Catalogue: T12.
func TestTotalsNeverGoBack(t *testing.T) {
	as := newAS(t)
	m := as.middleware(phantom.WithCacheSize(8), (&traceRecorder{}).option())
	const workers, each = 4, 500
	done := make(chan struct{})
	var load, reader sync.WaitGroup
	reader.Go(func() {
		for before := m.Stats(); ; {
			now := m.Stats()
			if now.Hits < before.Hits || now.Misses < before.Misses || now.Joined < before.Joined ||
				now.Evicted < before.Evicted || now.Rejected[phantom.ReasonNoCredentials] < before.Rejected[phantom.ReasonNoCredentials] ||
				now.Joined > now.Misses {
				t.Errorf("%+v, then %+v", before, now)
			}
			before = now
			select {
			case <-done:
				return
			default:
			}
		}
	})
	handler := m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for w := range workers {
		load.Go(func() {
			for i := range each {
				r := get(fmt.Sprintf("Bearer token-%d", (w+i)%20))
				if i%10 == 0 {
					r = get()
				}
				handler.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
	load.Wait()
	close(done)
	reader.Wait()
	s := m.Stats()
	expect(t, "tokens", s.Hits+s.Misses, workers*each*9/10)
	expect(t, "without one", s.Rejected[phantom.ReasonNoCredentials], workers*each/10)
	expect(t, "entries", s.Entries, 8)
	expect(t, "evicted", s.Evicted > 0, true)
}

// What was evicted counts only if it would still have served.
//
// Catalogue: T12.
func TestEvictedAreThoseThatWereFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newAS(t).middleware(phantom.WithCacheSize(2))
		verify := func(token string) { must(m.Verify(t.Context(), token)) }
		verify("a")
		verify("b")
		time.Sleep(2 * time.Minute) // both are over, and keep their places
		verify("c")
		verify("d")
		expect(t, "of those that were over", m.Stats().Evicted, 0)
		verify("e")
		expect(t, "of those that were fresh", m.Stats().Evicted, 1)
	})
}

// The breaker shows while it keeps lookups out.
//
// Catalogue: T12.
func TestStatsShowTheBreakerAndTheKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.jwks = reply(500, "")
		m := as.middleware()
		as.try(m, "token-0")
		if s := m.Stats(); s.Keys != 0 || s.KeysAge != 0 || s.KeysFailed != 1 || s.BreakerOpen {
			t.Errorf("without keys: %+v", s)
		}
		time.Sleep(time.Minute)
		as.jwks = nil
		as.try(m, "token-0")
		time.Sleep(2 * time.Second)
		if s := m.Stats(); s.Keys == 0 || s.KeysAge != 2*time.Second || s.KeysFailed != 1 {
			t.Errorf("with keys: %+v", s)
		}
		as.introspect = nil
		down := as.middleware(phantom.WithHTTPClient(&http.Client{
			Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("down") }),
		}))
		for i := range 12 {
			as.try(down, fmt.Sprintf("token-%d", i))
		}
		expect(t, "open", down.Stats().BreakerOpen, true)
	})
}

// Attach gets Stats that do not keep the Middleware alive, once from each New
// that succeeds.
//
// Catalogue: T13.
func TestAttachDoesNotKeepAMiddlewareAlive(t *testing.T) {
	as := newAS(t)
	var stats []func() (phantom.Stats, bool)
	option := phantom.WithTrace(&phantom.Trace{Attach: func(s func() (phantom.Stats, bool)) { stats = append(stats, s) }})
	m := as.middleware(option)
	if _, err := phantom.New(as.options(option, phantom.WithLeeway(-1))...); err == nil {
		t.Fatal("no error")
	}
	expect(t, "attached", len(stats), 1)
	as.try(m, opaqueToken)
	s, ok := stats[0]()
	if !ok || s.Misses != 1 {
		t.Errorf("%+v, %v", s, ok)
	}
	runtime.KeepAlive(m)
	m = nil
	for range 100 {
		runtime.GC()
		if _, ok := stats[0](); !ok {
			return
		}
	}
	t.Error("the Middleware is still there")
}

// A dispatcher counts what it rejects, and its members what they find out. Its
// Trace is told of its requests, theirs of their lookups.
//
// Catalogue: T10.
func TestDispatcherCountsWhatItRejects(t *testing.T) {
	as, ofMember, ofAll := newAS(t), &traceRecorder{}, &traceRecorder{}
	member := as.middleware(ofMember.option())
	attached := 0
	all := must(phantom.Dispatch([]*phantom.Middleware{member}, func(token string) *phantom.Middleware {
		if token == "stray" {
			return nil
		}
		return member
	}, ofAll.option(), phantom.WithTrace(&phantom.Trace{Attach: func(func() (phantom.Stats, bool)) { attached++ }})))
	as.try(all, opaqueToken)
	as.try(all, opaqueToken)
	as.try(all, "stray")
	s, own := all.Stats(), member.Stats()
	if got := rejected(s); !maps.Equal(got, map[phantom.Reason]uint64{phantom.ReasonTokenRejected: 1}) || s.Hits+s.Misses != 0 {
		t.Errorf("the dispatcher: %+v", s)
	}
	if own.Hits != 1 || own.Misses != 1 || len(rejected(own)) != 0 {
		t.Errorf("the member: %+v", own)
	}
	if got, want := ofAll.told(), []string{"miss", "hit", "none token_rejected"}; !slices.Equal(got, want) {
		t.Errorf("decided %q, want %q", got, want)
	}
	expect(t, "lookups of the dispatcher", len(ofAll.lookups), 0)
	expect(t, "lookups of the member", len(ofMember.lookups), 1)
	expect(t, "decisions of the member", len(ofMember.decisions), 0)
	expect(t, "attached", attached, 1)
}

// A copy out of the Store is a lookup that says so, and the Store's calls are
// counted.
//
// Catalogue: T3.
func TestACopyIsALookupThatIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, rec := newAS(t), &traceRecorder{}
		store := phantomtest.NewStore()
		secret := []byte(strings.Repeat("k", 32))
		a := as.middleware(phantom.WithStore(store, secret))
		b := as.middleware(phantom.WithStore(store, secret), rec.option())
		as.try(a, opaqueToken)
		synctest.Wait()
		as.try(b, opaqueToken)
		expect(t, "asked", as.calls.Load(), 1)
		expect(t, "shared", rec.lookups[0].Shared, true)
		expect(t, "of A", a.Stats().Store, phantom.StoreStats{Misses: 1})
		expect(t, "of B", b.Stats().Store, phantom.StoreStats{Hits: 1})
		if err := a.Forget(opaqueToken); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, "notes", b.Stats().Store.Notes, 1)
	})
}

// Catalogue: T15.
func TestTraceMustNotBeNil(t *testing.T) {
	_, err := phantom.New(newAS(t).options(phantom.WithTrace(nil))...)
	var mistake *phantom.ConfigError
	if !errors.As(err, &mistake) || mistake.Option != "WithTrace" {
		t.Errorf("%v", err)
	}
}

// A hit allocates as much with a Trace that does nothing as without.
//
// Catalogue: T9.
func TestTraceAllocatesNothingForAHit(t *testing.T) {
	if scale > 1 {
		t.Skip("the race detector allocates")
	}
	as := newAS(t)
	allocations := func(m *phantom.Middleware) float64 {
		h := m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		w, r := httptest.NewRecorder(), get("Bearer "+opaqueToken)
		h.ServeHTTP(w, r)
		return testing.AllocsPerRun(200, func() { h.ServeHTTP(w, r) })
	}
	trace := &phantom.Trace{
		LookupStart: func(ctx context.Context) context.Context { return ctx },
		LookupDone:  func(context.Context, phantom.Lookup) {},
		Decided:     func(context.Context, phantom.Decision) {},
	}
	expect(t, "allocations", allocations(as.middleware(phantom.WithTrace(trace))), allocations(as.middleware()))
}

// NewTransport is a transport like the default one, and each call makes another.
//
// Catalogue: T14.
func TestNewTransportIsTheDefaultOne(t *testing.T) {
	tr := phantom.NewTransport()
	if tr.Proxy != nil || tr.MaxIdleConnsPerHost != 64 || tr.Protocols.HTTP2() || !tr.DisableCompression {
		t.Errorf("%+v", tr)
	}
	if tr == phantom.NewTransport() {
		t.Error("it is the same")
	}
	// Trace context is for whoever wraps it to add.
	as := newAS(t)
	r := get("Bearer " + opaqueToken)
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	r.Header.Set("Baggage", "user=alice")
	as.send(as.middleware((&traceRecorder{}).option()).Handler, r)
	asked := as.recorded(endpointPath)[0]
	if len(asked.Header.Values("Traceparent"))+len(asked.Header.Values("Baggage")) > 0 {
		t.Errorf("the server got %v", asked.Header)
	}
}
