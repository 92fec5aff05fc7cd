package phantom

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sync/singleflight"
)

// flights coalesces concurrent calls with the same key into one flight. A
// flight belongs to nobody who waits for it: it keeps the values of the
// context that started it but not its cancellation, and ends by its own
// deadline. Each waiter leaves when its own context ends.
type flights[T any] struct {
	group   singleflight.Group
	timeout time.Duration
}

// do joins the flight of key, or starts it, and waits for its end.
func (f *flights[T]) do(ctx context.Context, key string, fn func(context.Context) (T, error)) (T, error) {
	results := f.start(ctx, key, fn)
	// The flight's own deadline ends a well-behaved fn. The timer is for the
	// others: a hook that ignores its context, or ends its goroutine, which
	// singleflight never reports.
	timer := time.NewTimer(f.timeout)
	defer timer.Stop()
	select {
	case r := <-results:
		v, _ := r.Val.(T)
		return v, r.Err
	case <-ctx.Done():
		return *new(T), rejectionOf(ReasonUnavailable, "caller left", ctx.Err())
	case <-timer.C:
		return *new(T), rejectionOf(ReasonUnavailable, "timeout", context.DeadlineExceeded)
	}
}

// start joins the flight of key, or starts it, without waiting.
func (f *flights[T]) start(ctx context.Context, key string, fn func(context.Context) (T, error)) <-chan singleflight.Result {
	ctx = context.WithoutCancel(ctx)
	return f.group.DoChan(key, func() (v any, err error) {
		ctx, cancel := context.WithTimeout(ctx, f.timeout)
		defer cancel()
		// A panic that leaves this function would end the process.
		decided := false
		defer refusePanic(&decided, &err)
		landed, err := fn(ctx)
		decided = true
		return landed, err
	})
}

// A panicError stands for a recovered panic. The value of the panic is shown
// only if the runtime made it, because nobody can say what is in any other.
type panicError struct {
	text  string
	stack []byte
}

func (e *panicError) Error() string { return e.text }

// panicked makes the rejection for a recovered panic; call it in the deferred
// function that recovered, so that the stack is the right one.
func panicked(p any) *Error {
	text := "panic in a hook"
	if re, ok := p.(runtime.Error); ok {
		text = re.Error()
	}
	return rejectionOf(ReasonInternal, "panic", &panicError{text, debug.Stack()})
}

// refusePanic is to be deferred: what panics on the way to a decision, with nil
// too where that is permitted, admits nobody.
func refusePanic(decided *bool, err *error) {
	if p := recover(); !*decided {
		*err = panicked(p)
	}
}
