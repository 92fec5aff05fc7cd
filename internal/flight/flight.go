// Package flight lets concurrent calls with the same key share one call of a
// function, a flight (see [Group]), and knows which answer still counts when a
// flight lands (see [Questions]).
package flight

import (
	"context"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/phantom-token/phantom/internal/failure"
)

// A Group holds the flights of one kind. No waiter owns a flight: it has none
// of a waiter's context, neither cancellation nor values, and ends by its own
// deadline. Each waiter leaves when its own context ends.
type Group[T any] struct {
	group   singleflight.Group
	timeout time.Duration
}

// New returns a Group whose flights end after the timeout.
func New[T any](timeout time.Duration) *Group[T] { return &Group[T]{timeout: timeout} }

// ErrTimeout says that a flight did not end within its time.
var ErrTimeout error = failure.Because(failure.Unavailable, "timeout", context.DeadlineExceeded)

// Do joins or starts the flight of the key and waits for its end. The error is
// fn's, or a [*failure.Error].
func (g *Group[T]) Do(ctx context.Context, key string, fn func(context.Context) (T, error)) (T, error) {
	results := g.start(key, fn)
	// A well-behaved fn ends by the flight's own deadline. The timer is for a
	// hook that ignores its context, or that ends its goroutine, which
	// singleflight never reports.
	timer := time.NewTimer(g.timeout)
	defer timer.Stop()
	select {
	case r := <-results:
		v, _ := r.Val.(T)
		return v, r.Err
	case <-ctx.Done():
		return *new(T), failure.Because(failure.Unavailable, failure.CallerLeft, ctx.Err())
	case <-timer.C:
		return *new(T), ErrTimeout
	}
}

// Start joins or starts the flight of the key and does not wait.
func (g *Group[T]) Start(key string, fn func(context.Context) (T, error)) { g.start(key, fn) }

func (g *Group[T]) start(key string, fn func(context.Context) (T, error)) <-chan singleflight.Result {
	return g.group.DoChan(key, func() (value any, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), g.timeout)
		defer cancel()
		// A panic that leaves this function would end the process.
		decided := false
		defer failure.Recover(&decided, &err)
		result, err := fn(ctx)
		decided = true
		return result, err
	})
}
