// Package flight lets concurrent calls with the same key share one call of a
// function: a flight.
//
// No waiter owns a flight. The flight keeps the values of the context that
// started it, but not its cancellation, and ends by its own deadline. Each
// waiter leaves when its own context ends.
package flight

import (
	"context"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/phantom-token/phantom/internal/failure"
)

// A Group holds the flights of one kind.
type Group[T any] struct {
	group   singleflight.Group
	timeout time.Duration
}

// New returns a Group whose flights end after the timeout.
func New[T any](timeout time.Duration) *Group[T] { return &Group[T]{timeout: timeout} }

// Do joins or starts the flight of the key and waits for its end. The error is
// fn's, or a [*failure.Error].
func (g *Group[T]) Do(ctx context.Context, key string, fn func(context.Context) (T, error)) (T, error) {
	results := g.Start(ctx, key, fn)
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
		return *new(T), failure.Because(failure.Unavailable, "caller left", ctx.Err())
	case <-timer.C:
		return *new(T), failure.Because(failure.Unavailable, "timeout", context.DeadlineExceeded)
	}
}

// Start joins or starts the flight of the key and does not wait.
func (g *Group[T]) Start(
	ctx context.Context, key string, fn func(context.Context) (T, error),
) <-chan singleflight.Result {
	ctx = context.WithoutCancel(ctx)
	return g.group.DoChan(key, func() (value any, err error) {
		ctx, cancel := context.WithTimeout(ctx, g.timeout)
		defer cancel()
		// A panic that leaves this function would end the process.
		decided := false
		defer failure.Recover(&decided, &err)
		result, err := fn(ctx)
		decided = true
		return result, err
	})
}
