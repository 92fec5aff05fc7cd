package gate_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/gate"
)

// A server answers lookups, and writes down when each reached it.
type server struct {
	gate    *gate.Gate
	timeout time.Duration
	epoch   time.Time
	callers sync.WaitGroup
	tokens  atomic.Int64 // that came

	mu      sync.Mutex
	answer  func(ctx context.Context, class gate.Class) error
	reached [2][]time.Duration
	passed  [2][]time.Duration // when Do returned nil
	refused [2][]refusal
}

type refusal struct {
	at, took time.Duration
	*failure.Error
}

func newServer(places int, timeout time.Duration) *server {
	return &server{gate: gate.New(places, timeout), timeout: timeout, epoch: time.Now()}
}

func (s *server) will(answer func(context.Context, gate.Class) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// nextToken returns one that no lookup had.
func (s *server) nextToken() gate.Token { return tokenOf(int(s.tokens.Add(1))) }

// ask has one lookup come.
func (s *server) ask(class gate.Class) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	came, isSent := time.Since(s.epoch), false
	err := s.gate.Do(ctx, class, s.nextToken(), func(ctx context.Context) error {
		s.mu.Lock()
		isSent = true
		s.reached[class] = append(s.reached[class], time.Since(s.epoch))
		answer := s.answer
		s.mu.Unlock()
		return answer(ctx, class)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Since(s.epoch)
	if f, _ := err.(*failure.Error); err == nil {
		s.passed[class] = append(s.passed[class], now)
	} else if !isSent {
		s.refused[class] = append(s.refused[class], refusal{now, now - came, f})
	}
	return err
}

// crowd has a lookup come at each interval. It returns at once.
func (s *server) crowd(class gate.Class, every, lasts time.Duration) {
	s.callers.Go(func() {
		for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(every) {
			s.callers.Go(func() { s.ask(class) })
		}
	})
}

// seen returns what was written down so far.
func (s *server) seen() (reached [2][]time.Duration, refused [2][]refusal) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reached, s.refused
}

func after(took time.Duration, err error) func(context.Context, gate.Class) error {
	return func(ctx context.Context, _ gate.Class) error {
		if took == 0 { // timers due at once crash the race detector in a bubble (golang/go#78156)
			return err
		}
		select {
		case <-time.After(took):
			return err
		case <-ctx.Done():
			f := failure.Because(failure.Unavailable, "timeout", ctx.Err())
			f.Unanswered = true
			return f
		}
	}
}

func outage(change func(*failure.Error)) *failure.Error {
	f := failure.New(failure.Unavailable, "outage")
	f.Unanswered = true
	if change != nil {
		change(f)
	}
	return f
}

var (
	noConnection  = outage(nil)
	internalError = outage(func(f *failure.Error) { f.Faulted = true })
	tooManyOnes   = outage(func(f *failure.Error) { f.WaitAll, f.Unanswered, f.Wait = true, false, 30*time.Second })
	notNow        = outage(func(f *failure.Error) { f.WaitAll, f.Wait = true, 2*time.Minute })
)

// most is the greatest number of times in any stretch of the length.
func most(times []time.Duration, length time.Duration) (n int) {
	for i, first := range times {
		j, _ := slices.BinarySearch(times, first+length)
		n = max(n, j-i)
	}
	return n
}

func between(times []time.Duration, from, to time.Duration) (n int) {
	for _, at := range times {
		if from <= at && at < to {
			n++
		}
	}
	return n
}

// Of 1,000 new tokens a second, all of which fail at once, at most 60 lookups
// reach the server in any second, whether it was well before or not.
func TestNoMoreThan60LookupsASecondReachAServerThatAnswersNone(t *testing.T) {
	for _, test := range []struct {
		name      string
		wellFor   time.Duration
		knownToo  bool // come, and fail as well
		took      time.Duration
		failure   *failure.Error
		inASecond int
	}{
		{"never well, 500", 0, false, 0, internalError, 60},
		{"never well, reset", 0, false, 0, noConnection, 60},
		{"was well, 500", 3 * time.Second, false, 0, internalError, 60},
		{"was well, reset", 3 * time.Second, false, 0, noConnection, 60},
		{"was well, 500 after 1 ms", 3 * time.Second, false, time.Millisecond, internalError, 60},
		{"was well, known fail too, 500", 3 * time.Second, true, 0, internalError, 60},
		{"was well, known fail too, reset", 3 * time.Second, true, time.Millisecond, noConnection, 60},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(64, 3*time.Second)
				s.will(after(time.Millisecond, nil))
				s.crowd(gate.NewToken, 10*time.Millisecond, test.wellFor)
				s.crowd(gate.KnownToken, 10*time.Millisecond, test.wellFor)
				time.Sleep(test.wellFor + time.Millisecond)
				fails := time.Since(s.epoch)
				s.will(after(test.took, test.failure))
				s.crowd(gate.NewToken, time.Millisecond, 60*time.Second/min(scale, 4))
				if test.knownToo {
					s.crowd(gate.KnownToken, 10*time.Millisecond, 60*time.Second/min(scale, 4))
				}
				s.callers.Wait()
				reached := slices.Sorted(slices.Values(slices.Concat(s.reached[0], s.reached[1])))
				i, _ := slices.BinarySearch(reached, fails)
				if n := most(reached[i:], time.Second); n > test.inASecond {
					t.Errorf("%d lookups reached the server in a second", n)
				}
				// A second or two later it is one probe a second of each class.
				later, _ := slices.BinarySearch(reached, fails+2*time.Second)
				if n := most(reached[later:], 10*time.Second); n > 22 || n < 7 {
					t.Errorf("%d lookups reached the server in ten seconds", n)
				}
				for class := range s.refused {
					for _, r := range s.refused[class] {
						if r.took > 0 {
							t.Errorf("a refusal took %v", r.took)
							break
						}
					}
				}
			})
		})
	}
}

// Once the server is back, lookups pass within one probe interval; if it was
// silent, after the probe that was under way.
func TestLookupsPassWithinOneProbeIntervalOfTheServersReturn(t *testing.T) {
	const timeout = 3 * time.Second
	for _, test := range []struct {
		name   string
		down   func(context.Context, gate.Class) error
		within time.Duration
	}{
		{"closed port", after(0, noConnection), time.Second},
		{"500", after(5*time.Millisecond, internalError), time.Second + 5*time.Millisecond},
		{"silence", after(time.Hour, nil), timeout + time.Second},
	} {
		for _, class := range []gate.Class{gate.NewToken, gate.KnownToken} {
			t.Run(fmt.Sprint(test.name, " ", nameOf(class)), func(t *testing.T) {
				for lasts := 20 * time.Second; lasts < 26*time.Second; lasts += scale * 317 * time.Millisecond {
					synctest.Test(t, func(t *testing.T) {
						s := newServer(4, timeout)
						s.will(test.down)
						s.crowd(class, 10*time.Millisecond, lasts+10*time.Second)
						time.Sleep(lasts + time.Microsecond)
						s.will(after(time.Millisecond, nil))
						s.callers.Wait()
						back := lasts + time.Microsecond
						if n := between(s.passed[class], back, back+test.within+20*time.Millisecond); n == 0 {
							t.Errorf("none within %v", test.within)
						}
						// From then on all of them.
						if n := between(s.passed[class], back+5*time.Second, back+6*time.Second); n < 99 {
							t.Errorf("%d of 100 in a second", n)
						}
					})
				}
			})
		}
	}
}

// While the server asks to wait, about one lookup a second passes, and known
// tokens have half a second's lead. The first answer ends the wait.
func TestAboutOneLookupASecondPassesWhileTheServerAsksToWait(t *testing.T) {
	for _, asked := range []*failure.Error{tooManyOnes, notNow} {
		for _, classes := range [][]gate.Class{{gate.KnownToken}, {gate.NewToken}, {gate.NewToken, gate.KnownToken}} {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(64, 3*time.Second)
				s.will(after(time.Millisecond, asked))
				s.ask(gate.NewToken)
				s.reached, s.refused = [2][]time.Duration{}, [2][]refusal{}
				for _, class := range classes {
					s.crowd(class, 5*time.Millisecond, 20*time.Second)
				}
				time.Sleep(10 * time.Second)
				reached, refused := s.seen()
				all := slices.Sorted(slices.Values(slices.Concat(reached[0], reached[1])))
				if len(all) < 6 || len(all) > 11 || most(all, time.Second-time.Millisecond) > 1 {
					t.Errorf("%v of %v passed", all, classes)
				}
				if len(classes) == 2 && len(reached[gate.NewToken]) > 0 {
					t.Errorf("new tokens went first: %v", reached)
				}
				for class := range refused {
					for _, r := range refused[class] {
						if r.Detail != "breaker open" && (r.Wait < time.Second || r.Wait > 30*time.Second) {
							t.Errorf("a refusal says to wait %v", r.Wait)
							break
						}
					}
				}
				s.will(after(time.Millisecond, nil))
				back := time.Since(s.epoch)
				s.callers.Wait()
				for _, class := range classes {
					if n := between(s.passed[class], back+1200*time.Millisecond, back+2200*time.Millisecond); n < 199 {
						t.Errorf("%d of 200 passed in a second, though the server answers", n)
					}
				}
			})
		}
	}
}

// A single 429 among good answers keeps out no more than a second's worth of
// lookups; of known tokens none, if a new one got it.
func TestOneRequestToWaitCostsASecond(t *testing.T) {
	for _, class := range []gate.Class{gate.NewToken, gate.KnownToken} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(64, 3*time.Second)
			s.will(after(10*time.Millisecond, nil))
			s.crowd(gate.KnownToken, 5*time.Millisecond, 10*time.Second)
			s.crowd(gate.NewToken, 5*time.Millisecond, 10*time.Second)
			time.Sleep(2*time.Second + time.Millisecond)
			s.will(after(10*time.Millisecond, tooManyOnes))
			go s.ask(class)
			synctest.Wait()
			s.will(after(10*time.Millisecond, nil))
			s.callers.Wait()
			for held, refused := range s.refused {
				isHeld := gate.Class(held) == gate.NewToken || class == gate.KnownToken
				if isHeld != (len(refused) > 0) || len(refused) > 204 {
					t.Errorf("asked of class %d: %d lookups of class %d were refused", class, len(refused), held)
				}
			}
		})
	}
}

// While known tokens want more places than there are, new ones get about a
// quarter of what the server can do. While new ones want more than there are,
// known ones wait for no longer than it takes until a place is free.
func TestNewTokensGetAboutAQuarterWhileKnownOnesWantAll(t *testing.T) {
	for _, places := range []int{1, 2, 4, 16, 64 / min(scale, 2)} {
		t.Run(fmt.Sprint(places), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(places, 10*time.Second)
				s.will(after(time.Second, nil))
				interval := 500 * time.Millisecond / time.Duration(places)
				s.crowd(gate.KnownToken, interval, 2*time.Minute)
				s.crowd(gate.NewToken, interval, 2*time.Minute)
				s.callers.Wait()
				from, to := 20*time.Second, 110*time.Second
				known := between(s.reached[gate.KnownToken], from, to)
				fresh := between(s.reached[gate.NewToken], from, to)
				if all := known + fresh; fresh*5 < all || fresh*10 > all*3 || all < 85*places {
					t.Errorf("%d known and %d new tokens", known, fresh)
				}
			})
		})
	}
}

// What happens to new tokens keeps no known one out, who comes in his turn:
// known tokens come ten times a second, and each of them is answered.
func TestNothingThatHappensToNewTokensKeepsAKnownOneOut(t *testing.T) {
	for _, test := range []struct {
		name string
		junk func(context.Context, gate.Class) error
	}{
		{"500", after(5*time.Millisecond, internalError)},
		{"reset", after(0, noConnection)},
		{"slow", after(2900*time.Millisecond, nil)},
		{"silence", after(time.Hour, nil)},
		{"500 after 2.9 s", after(2900*time.Millisecond, internalError)},
		{"panic", func(context.Context, gate.Class) error { panic("a hook") }},
		{"429 with Retry-After", after(5*time.Millisecond, tooManyOnes)},
		{"503 with Retry-After", after(5*time.Millisecond, notNow)},
	} {
		for _, rate := range []int{10, 100, 1000 / scale} {
			t.Run(fmt.Sprint(test.name, " ", rate), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newServer(64, 3*time.Second)
					s.will(func(ctx context.Context, class gate.Class) error {
						if class == gate.NewToken {
							return test.junk(ctx, class)
						}
						return after(20*time.Millisecond, nil)(ctx, class)
					})
					s.callers.Go(func() {
						for range 30 * rate {
							s.callers.Go(func() {
								defer func() { _ = recover() }()
								s.ask(gate.NewToken)
							})
							time.Sleep(time.Second / time.Duration(rate))
						}
					})
					s.crowd(gate.KnownToken, 100*time.Millisecond, 30*time.Second)
					s.callers.Wait()
					if n := len(s.passed[gate.KnownToken]); n < 300 {
						t.Errorf("%d of 300, refused: %+v", n, s.refused[gate.KnownToken])
					}
				})
			})
		}
	}
}

// Up to twenty new tokens a second that fail keep no other one out, for the
// server answers known ones; of a hundred a second, at least two of three
// others pass.
func TestJunkLeavesRoomForNewTokens(t *testing.T) {
	for _, test := range []struct {
		rate int
		want float64
	}{{12, 1}, {20, 1}, {80, 1}, {100, 0.67}} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(64, 3*time.Second)
			s.will(func(ctx context.Context, class gate.Class) error {
				if class == gate.NewToken {
					return after(5*time.Millisecond, internalError)(ctx, class)
				}
				return after(20*time.Millisecond, nil)(ctx, class)
			})
			s.crowd(gate.KnownToken, 2*time.Second, 5*time.Minute)
			s.crowd(gate.NewToken, time.Second/time.Duration(test.rate), 5*time.Minute)
			s.callers.Wait()
			in, out := float64(len(s.reached[gate.NewToken])), float64(len(s.refused[gate.NewToken]))
			if in < test.want*(in+out) {
				t.Errorf("%d a second: %.0f of %.0f passed", test.rate, in, in+out)
			}
		})
	}
}

// However many come while all places are taken, only 32 of each class wait for
// each place; the others are refused at once, and every place comes back.
func TestNoMoreThan32OfEachClassWaitForEachPlace(t *testing.T) {
	for _, places := range []int{1, 2, 4, 64} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(places, 3*time.Second)
			s.will(after(time.Second, nil))
			for range places {
				s.callers.Go(func() { s.ask(gate.NewToken) })
			}
			synctest.Wait()
			for range 40 * places {
				s.callers.Go(func() { s.ask(gate.KnownToken) })
				s.callers.Go(func() { s.ask(gate.NewToken) })
			}
			_, refused := s.seen()
			for class, refused := range refused {
				if len(refused) != 8*places {
					t.Errorf("%d of class %d were refused, not %d", len(refused), class, 8*places)
				}
			}
			s.callers.Wait()
			for range places {
				s.callers.Go(func() {
					if err := s.ask(gate.NewToken); err != nil {
						t.Error(err)
					}
				})
			}
			s.callers.Wait()
		})
	}
}

// The first answer may take almost all the time that there is: if the server
// has become faster meanwhile, those who wait are answered, because a few of
// them find out.
func TestASlowFirstAnswerKeepsNobodyOut(t *testing.T) {
	for _, test := range []struct {
		timeout, first time.Duration
		callers        int
	}{
		{3 * time.Second, 2500 * time.Millisecond, 300},
		{3 * time.Second, 2500 * time.Millisecond, 1000},
		{500 * time.Millisecond, 350 * time.Millisecond, 300},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(64, test.timeout)
			slowUntil := time.Now().Add(test.first)
			s.will(func(ctx context.Context, class gate.Class) error {
				if now := time.Now(); now.Before(slowUntil) {
					return after(slowUntil.Sub(now), nil)(ctx, class)
				}
				return after(20*time.Millisecond, nil)(ctx, class)
			})
			for range test.callers {
				s.callers.Go(func() { s.ask(gate.NewToken) })
			}
			s.callers.Wait()
			if n := len(s.passed[gate.NewToken]); n < test.callers {
				t.Errorf("%v at first, %v at most: %d of %d", test.first, test.timeout, n, test.callers)
			}
		})
	}
}

// Nine known tokens that the server fails on, each time, keep out no other; each
// of them is held back to a probe a second. With the tenth, it is the server.
func TestAKnownTokenThatFailsAloneIsHeldBackAlone(t *testing.T) {
	for _, test := range []struct {
		failing int
		isDown  bool
	}{{1, false}, {9, false}, {10, true}} {
		synctest.Test(t, func(t *testing.T) {
			g := gate.New(64, 3*time.Second)
			var sent [10]int
			ask := func(token int, failed error) error {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				return g.Do(ctx, gate.KnownToken, tokenOf(token), func(context.Context) error {
					if failed != nil {
						sent[token]++
					}
					return failed
				})
			}
			for range 245 { // 4.9 s
				for token := range test.failing {
					err := ask(token, internalError)
					if f, _ := err.(*failure.Error); f == nil || !f.Unanswered {
						t.Fatalf("a failing token: %+v", err)
					}
				}
				time.Sleep(20 * time.Millisecond)
			}
			if err := ask(100, nil); (err != nil) != test.isDown {
				t.Errorf("%d fail, and another gets %v", test.failing, err)
			}
			for token, n := range sent[:test.failing] {
				if n > 15 || !test.isDown && n < 14 {
					t.Errorf("of %d, token %d was asked about %d times in 5 s", test.failing, token, n)
				}
			}
		})
	}
}

// A probe that ran out of what little time it had tells nothing, and the next
// one comes as soon as after any other.
func TestAProbeThatTellsNothingDoesNotDelayTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(4, 3*time.Second)
		s.will(after(0, noConnection))
		for range 10 {
			s.ask(gate.KnownToken) // the tenth closes the lane
		}
		time.Sleep(time.Second)
		// The probe waited in the queue: 100 ms are left, in which it hears nothing.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		s.gate.Do(ctx, gate.KnownToken, s.nextToken(), func(ctx context.Context) error {
			return after(time.Hour, nil)(ctx, gate.KnownToken)
		})
		// The server is back, and one probe interval passes.
		s.will(after(time.Millisecond, nil))
		time.Sleep(time.Second)
		if err := s.ask(gate.KnownToken); err != nil {
			t.Errorf("a probe interval after a probe that told nothing: %v", err)
		}
	})
}
