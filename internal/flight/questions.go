package flight

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
)

// Questions are those that are under way, at most one of them current for each
// subject. An answer counts only for a question that is still valid when it
// comes in, and only for those who wanted to know before the question was too
// old: so what it says is never older than it may be.
type Questions[S comparable] struct {
	clock    clock.Clock
	lifetime time.Duration // of a question once it is put: later callers ask anew
	timeout  time.Duration // an answer that takes longer does not count

	mu      sync.Mutex
	last    uint64
	current map[S]*Question
}

// A Question is under way about one subject.
type Question struct {
	id       uint64
	began    clock.Instant
	put      clock.Instant // to the server
	isPut    bool
	answered bool          // by the server: what is left to do is ours
	until    clock.Instant // when the answer is too old; once there is one
	over     bool
	held     chan struct{}   // closed by Release; nil: it may be put at once
	base     context.Context // what Release said
	invalid  atomic.Bool
}

// NewQuestions returns no questions. Whoever comes later than the lifetime
// after a question was put must ask another one. An answer that takes longer
// than the timeout does not count.
func NewQuestions[S comparable](c clock.Clock, lifetime, timeout time.Duration) *Questions[S] {
	return &Questions[S]{clock: c, lifetime: lifetime, timeout: timeout, current: map[S]*Question{}}
}

// Join returns the current question about the subject, or a new one. A new one
// that is held waits for the caller to [Questions.Release] it.
func (q *Questions[S]) Join(subject S, hold bool) (question *Question, isNew bool) {
	now := q.clock.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if current := q.current[subject]; current != nil {
		tooOld := current.isPut && isAfter(now, current.put.Add(q.lifetime)) ||
			current.answered && isAfter(now, current.until)
		if !tooOld && !now.Reached(current.began.Add(q.timeout)) {
			return current, false
		}
		current.invalid.Store(true)
	}
	q.last++
	question = &Question{id: q.last, began: now}
	if hold {
		question.held = make(chan struct{})
	}
	q.current[subject] = question
	return question, true
}

// Release lets the flight of a held question begin, and hands it the context on
// which it is to be based. A nil one gives the question up.
func (q *Questions[S]) Release(subject S, question *Question, base context.Context) {
	if base == nil {
		q.End(subject, question)
	}
	question.base = base
	close(question.held)
}

// isAfter reports whether now is later than the deadline on either clock: who
// comes at the very moment comes in time.
func isAfter(now, deadline clock.Instant) bool {
	return now.Wall > deadline.Wall || now.Mono > deadline.Mono
}

// Put takes note that the question is put to the server, and returns when.
func (q *Questions[S]) Put(question *Question) clock.Instant {
	now := q.clock.Now()
	q.PutAt(question, now)
	return now
}

// PutAt is Put for a question that was put elsewhere, at an earlier time.
func (q *Questions[S]) PutAt(question *Question, at clock.Instant) {
	q.mu.Lock()
	defer q.mu.Unlock()
	question.put, question.isPut = at, true
}

// Answered takes note that there is an answer, and that whoever comes later
// than until must ask another question. What is known of that may change while
// the answer is verified.
func (q *Questions[S]) Answered(question *Question, until clock.Instant) {
	q.mu.Lock()
	defer q.mu.Unlock()
	question.answered, question.until = true, until
}

// InTime reports whether an answer that is there now came in time.
func (q *Questions[S]) InTime(question *Question) bool {
	now := q.clock.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	return question.isPut && !isAfter(now, question.put.Add(q.timeout))
}

// Timeout says why there was no result within the time of the flight: the
// question was not put, not answered, or there were no keys for the answer.
func (q *Questions[S]) Timeout(question *Question) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case !question.isPut:
		return failure.Because(failure.Unavailable, "no place in time", context.DeadlineExceeded)
	case question.answered:
		return failure.Because(failure.NoKeys, "key set: timeout", context.DeadlineExceeded)
	}
	f := failure.Because(failure.Unavailable, "timeout", context.DeadlineExceeded)
	f.Unanswered = !isAfter(question.put, question.began.Add(q.timeout/2)) // it had time
	return f
}

// ErrOver says that a question ended after Join and before its flight began.
// The caller must join again: Forget would not know of a question that is put
// after its end.
var ErrOver error = failure.New(failure.Unavailable, "forgotten again and again")

// Begin waits until the question is no longer held, and returns what Release
// said; nil for one that was never held. If the question has ended, the error
// is [ErrOver].
func (q *Questions[S]) Begin(ctx context.Context, question *Question) (base context.Context, err error) {
	if question.held != nil {
		select {
		case <-question.held:
			base = question.base
		case <-ctx.Done():
			return nil, ErrTimeout
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if question.over {
		return nil, ErrOver
	}
	return base, nil
}

// End takes note that the question is answered or given up.
func (q *Questions[S]) End(subject S, question *Question) {
	q.mu.Lock()
	defer q.mu.Unlock()
	question.over = true
	question.invalid.Store(true)
	if q.current[subject] == question {
		delete(q.current, subject)
	}
}

// Forget makes the current question about the subject invalid.
func (q *Questions[S]) Forget(subject S) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if current := q.current[subject]; current != nil {
		current.invalid.Store(true)
		delete(q.current, subject)
	}
}

// Purge makes all questions invalid.
func (q *Questions[S]) Purge() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, current := range q.current {
		current.invalid.Store(true)
	}
	clear(q.current)
}

// IsValid reports whether the answer may be remembered.
func (q *Question) IsValid() bool { return !q.invalid.Load() }

// Key names the question in a [Group].
func (q *Question) Key() string { return string(binary.BigEndian.AppendUint64(nil, q.id)) }
