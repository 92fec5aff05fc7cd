package flight_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/flight"
)

// newSeeds is for finding what the usual histories do not show.
var newSeeds = flag.Bool("newseeds", false, "histories of questions that no run has seen before")

// unit is what all times are multiples of, so that bounds are met exactly.
const unit = 50 * time.Millisecond

// A happening is what was done to the questions, at which time.
type happening struct {
	at       time.Duration
	what     string
	subject  int
	question *flight.Question
}

// A past is the plain history of some questions. It knows what is so now only
// from looking back.
type past []happening

func (p past) began(q *flight.Question) (i int, subject int) {
	i = slices.IndexFunc(p, func(h happening) bool { return h.what == "join" && h.question == q })
	return i, p[i].subject
}

// isCurrent reports whether nothing has made an end to the question: it was not
// ended, forgotten or purged, and no other one about its subject came later.
func (p past) isCurrent(q *flight.Question) bool {
	i, subject := p.began(q)
	return !slices.ContainsFunc(p[i:], func(h happening) bool {
		switch h.what {
		case "join":
			return h.subject == subject && h.question != q
		case "end":
			return h.question == q
		case "forget":
			return h.subject == subject
		}
		return h.what == "purge"
	})
}

// put is when the question was last put to the server.
func (p past) put(q *flight.Question) (at time.Duration, isPut bool) {
	for _, h := range slices.Backward(p) {
		if h.what == "put" && h.question == q {
			return h.at, true
		}
	}
	return 0, false
}

// toJoin is the question that one who comes now has to join; nil: a new one.
func (p past) toJoin(subject int, now, lifetime, timeout time.Duration) *flight.Question {
	for _, h := range slices.Backward(p) {
		if h.what != "join" || h.subject != subject {
			continue
		}
		i, _ := p.began(h.question)
		put, isPut := p.put(h.question)
		if p.isCurrent(h.question) && now < p[i].at+timeout && !(isPut && now > put+lifetime) {
			return h.question
		}
		return nil
	}
	return nil
}

// all are the questions in the order in which they were first asked.
func (p past) all() (questions []*flight.Question) {
	for _, h := range p {
		if h.what == "join" && !slices.Contains(questions, h.question) {
			questions = append(questions, h.question)
		}
	}
	return questions
}

// In random histories each question is joined as long as it is current, young
// and not put too long ago; its answer counts within the timeout; and it may be
// remembered only as long as nothing has made an end to it.
func TestQuestionsAreJoinedAnsweredAndRememberedAsTheirHistoryPermits(t *testing.T) {
	for i := range 2000 / scale {
		seed := uint64(i)
		if *newSeeds {
			seed = rand.Uint64()
		}
		synctest.Test(t, func(t *testing.T) { runQuestions(t, rand.New(rand.NewPCG(seed, 0)), seed) })
	}
}

func runQuestions(t *testing.T, random *rand.Rand, seed uint64) {
	timeout := unit * time.Duration(2+random.IntN(20))
	lifetime := []time.Duration{0, unit, 4 * unit, timeout, time.Minute}[random.IntN(5)]
	q := flight.NewQuestions[int](clock.New(), lifetime, timeout)
	start, history := time.Now(), past{}
	for range 120 {
		if random.IntN(2) == 0 {
			time.Sleep(unit * time.Duration(random.IntN(5)))
		}
		h := happening{at: time.Since(start), subject: random.IntN(3)}
		if questions := history.all(); len(questions) > 0 {
			h.question = questions[max(0, len(questions)-1-random.IntN(6))]
		}
		switch what := random.IntN(20); {
		case what < 8 || h.question == nil:
			want := history.toJoin(h.subject, h.at, lifetime, timeout)
			h.what = "join"
			h.question, _ = q.Join(h.subject, false)
			isOld := slices.Contains(history.all(), h.question)
			if isOld != (want != nil) || isOld && h.question != want {
				t.Fatalf("seed %d: at %v subject %d joins %v, want %v, after %v",
					seed, h.at, h.subject, h.question, want, history)
			}
			if put, isPut := history.put(h.question); isPut && put < h.at-lifetime {
				t.Fatalf("seed %d: at %v one joins a question put at %v", seed, h.at, put)
			}
		case what < 14:
			h.what = "put"
			if at := q.Put(h.question); at.Mono != int64(h.at) {
				t.Fatalf("put at %v, not at %v", time.Duration(at.Mono), h.at)
			}
		case what < 17:
			h.what = "end"
			_, h.subject = history.began(h.question)
			q.End(h.subject, h.question)
		case what < 19:
			h.what = "forget"
			q.Forget(h.subject)
		default:
			h.what = "purge"
			q.Purge()
		}
		history = append(history, h)
		for _, question := range history.all() {
			checkQuestion(t, seed, q, history, question, timeout, h.at)
		}
	}
}

func checkQuestion(
	t *testing.T, seed uint64, q *flight.Questions[int], history past, question *flight.Question,
	timeout, now time.Duration,
) {
	if got, want := question.IsValid(), history.isCurrent(question); got != want {
		t.Fatalf("seed %d: %v is valid: %v, after %v", seed, question, got, history)
	}
	put, isPut := history.put(question)
	if got, want := q.InTime(question), isPut && now <= put+timeout; got != want {
		t.Fatalf("seed %d: at %v an answer is in time: %v, after %v", seed, now, got, history)
	}
	i, _ := history.began(question)
	detail, unanswered := "no place in time", false
	if isPut {
		detail, unanswered = "timeout", put <= history[i].at+timeout/2
	}
	f, ok := q.Timeout(question).(*failure.Error)
	if !ok || f.Class != failure.Unavailable || f.Detail != detail || f.Unanswered != unanswered ||
		f.Cause != context.DeadlineExceeded {
		t.Fatalf("seed %d: %+v, want %q, unanswered: %v, after %v", seed, f, detail, unanswered, history)
	}
}

// Each question has a key of its own, whatever it is about.
func TestEachQuestionHasItsOwnKey(t *testing.T) {
	q := flight.NewQuestions[int](clock.New(), 0, time.Hour)
	keys := map[string]bool{}
	for i := range 1000 {
		question, _ := q.Join(i%7, false)
		if again, _ := q.Join(i%7, false); again != question || again.Key() != question.Key() {
			t.Fatal("the same question has another key")
		}
		if keys[question.Key()] {
			t.Fatal("two questions have the same key")
		}
		keys[question.Key()] = true
		q.Forget(i % 7)
	}
}

// The end of a question that another one has replaced leaves that one alone.
func TestTheEndOfAReplacedQuestionLeavesTheNewOneAlone(t *testing.T) {
	for _, replace := range []struct {
		name string
		do   func(q *flight.Questions[int], old *flight.Question)
	}{
		{"forgotten", func(q *flight.Questions[int], _ *flight.Question) { q.Forget(1) }},
		{"purged", func(q *flight.Questions[int], _ *flight.Question) { q.Purge() }},
		{"too old", func(q *flight.Questions[int], old *flight.Question) { q.Put(old); time.Sleep(2 * time.Second) }},
		{"timed out", func(*flight.Questions[int], *flight.Question) { time.Sleep(3 * time.Second) }},
	} {
		t.Run(replace.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := flight.NewQuestions[int](clock.New(), time.Second, 3*time.Second)
				old, _ := q.Join(1, false)
				replace.do(q, old)
				current, _ := q.Join(1, false)
				q.End(1, old)
				if again, _ := q.Join(1, false); current == old || old.IsValid() || !current.IsValid() || again != current {
					t.Errorf("the old one is valid: %v, the new one: %v", old.IsValid(), current.IsValid())
				}
			})
		})
	}
}

// A crowd asks about few subjects through flights, as lookups do. What a
// subject was changes all the time: an answer is when its question was put.
type crowd struct {
	questions *flight.Questions[int]
	flights   *flight.Group[time.Duration]
	lifetime  time.Duration
	start     time.Time
	random    func(n int) int

	mu        sync.Mutex
	forgotten [4]time.Duration
	kept      [4]time.Duration // when the question of the remembered answer was put
	answers   int
}

// ask asks as the root package does, and checks the answer.
func (c *crowd) ask(t *testing.T, subject int) {
	joined := time.Since(c.start)
	question, _ := c.questions.Join(subject, false)
	put, err := c.flights.Do(context.Background(), question.Key(), func(context.Context) (time.Duration, error) {
		defer c.questions.End(subject, question)
		time.Sleep(unit * time.Duration(c.random(4))) // for a place
		put := time.Duration(c.questions.Put(question).Mono)
		time.Sleep(unit * time.Duration(c.random(12))) // deaf to its context
		if !c.questions.InTime(question) {
			return 0, failure.New(failure.Unavailable, "too late")
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if question.IsValid() {
			if put < c.forgotten[subject] {
				t.Errorf("what was known at %v is remembered after Forget at %v", put, c.forgotten[subject])
			}
			c.kept[subject] = put
		}
		return put, nil
	})
	if err != nil {
		return
	}
	c.mu.Lock()
	c.answers++
	c.mu.Unlock()
	if put < joined-c.lifetime {
		t.Errorf("who came at %v learns what was so at %v, lifetime %v", joined, put, c.lifetime)
	}
}

// Who wants to know at some time is never answered by a question that was put
// longer than the lifetime before; what a question says that was there before
// Forget is not remembered after it.
func TestNoAnswerIsOlderThanItsLifetime(t *testing.T) {
	for _, lifetime := range []time.Duration{0, unit, 4 * unit, 20 * unit} {
		t.Run(fmt.Sprint(lifetime), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const timeout = 10 * unit
				c := &crowd{
					questions: flight.NewQuestions[int](clock.New(), lifetime, timeout),
					flights:   flight.New[time.Duration](timeout),
					lifetime:  lifetime, start: time.Now(),
				}
				var lock sync.Mutex
				random := rand.New(rand.NewPCG(1, uint64(lifetime)))
				c.random = func(n int) int {
					lock.Lock()
					defer lock.Unlock()
					return random.IntN(n)
				}
				var callers sync.WaitGroup
				for range 5000 {
					time.Sleep(time.Duration(c.random(int(unit / 2))))
					subject := c.random(4)
					callers.Go(func() { c.ask(t, subject) })
					if c.random(20) == 0 {
						c.mu.Lock()
						c.forgotten[subject] = time.Since(c.start)
						c.questions.Forget(subject)
						c.mu.Unlock()
					}
				}
				callers.Wait()
				time.Sleep(time.Minute) // until the last flight has landed
				if c.answers < 2000 {
					t.Errorf("only %d answers", c.answers)
				}
			})
		})
	}
}

// On the machine's clock and under real scheduling: who comes after Forget
// joins no question that was there before, and none of those is valid again.
func TestNobodyJoinsAForgottenQuestion(t *testing.T) {
	q := flight.NewQuestions[int](clock.New(), time.Hour, time.Hour)
	var order atomic.Int64
	var forgotten [3]atomic.Int64 // the order of the last Forget that began
	var seen sync.Map             // by question: the order in which it was first returned
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			for range 2000 {
				subject := random.IntN(3)
				before := forgotten[subject].Load() // a Forget that is over
				question, _ := q.Join(subject, false)
				first, _ := seen.LoadOrStore(question, order.Add(1))
				if first.(int64) < before {
					t.Error("a question is joined that was forgotten before")
				}
				switch random.IntN(4) {
				case 0:
					began := order.Add(1)
					q.Forget(subject)
					if question.IsValid() {
						t.Error("a forgotten question is valid")
					}
					for last := forgotten[subject].Load(); last < began; last = forgotten[subject].Load() {
						if forgotten[subject].CompareAndSwap(last, began) {
							break
						}
					}
				case 1:
					q.Put(question)
					q.End(subject, question)
				}
			}
		})
	}
	all.Wait()
}
