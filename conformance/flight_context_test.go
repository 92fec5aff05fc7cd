package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/phantom-token/phantom"
)

// Callers who leave leave neither goroutines nor memory behind.
//
// Catalogue: C235.
func TestFlightAbortedByItsCallersLeavesNothing(t *testing.T) {
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

// The lookup sees no value of the context that began it: a router may use its
// context for the next request by then. It does not end with that context.
//
// Catalogue: Q6.
func TestFlightSeesNoContextValues(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		var seen []any
		o := &oracle{}
		o.ask = func(ctx context.Context, _ string) (*phantom.Introspection, error) {
			time.Sleep(100 * time.Millisecond)
			seen = append(seen, ctx.Value(key{}), ctx.Err())
			_, limited := ctx.Deadline()
			seen = append(seen, limited)
			return says(1)
		}
		m := o.middleware(t)
		ctx, leave := context.WithCancel(context.WithValue(t.Context(), key{}, "trace"))
		first := later(func() error { _, err := m.Verify(ctx, opaqueToken); return err })
		synctest.Wait()
		second := later(func() string { return idOf(m, opaqueToken) })
		leave()
		if err := first(); !errors.Is(err, phantom.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("leader: %v", err)
		}
		expect(t, "follower", second(), "1")
		if fmt.Sprint(seen) != "[<nil> <nil> true]" {
			t.Errorf("the lookup saw %v", seen)
		}
	})
}

// The library keeps nothing of a request whose caller has left: not while
// the lookup goes on, and not with its remembered result.
func TestFlightKeepsNoRequest(t *testing.T) {
	proceed := make(chan struct{})
	o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
		<-proceed
		return says(1)
	}}
	m := o.middleware(t, phantom.WithTimeout(time.Minute))
	leave := leaveDuringLookup(m, o)
	if kept := leave.kept(); kept != "" {
		t.Errorf("kept during the lookup: %s", kept)
	}
	close(proceed)
	served := leaveAfterLookup(m)
	if kept := served.kept(); kept != "" {
		t.Errorf("kept after the lookup: %s", kept)
	}
	expect(t, "lookups", o.calls.Load(), 1)
	runtime.KeepAlive(m)
}

// remains are weak pointers to the parts of a request.
type remains struct {
	request weak.Pointer[http.Request]
	header  weak.Pointer[string] // a value in its header map
	body    weak.Pointer[bytesBody]
	writer  weak.Pointer[plainWriter]
}

type bytesBody struct {
	io.Reader
	_ [1 << 10]byte // too large for the allocator of tiny objects
}

func (*bytesBody) Close() error { return nil }

type plainWriter struct {
	http.ResponseWriter
	status int
}

func (*plainWriter) Header() http.Header { return http.Header{} }

func (w *plainWriter) WriteHeader(status int) { w.status = status }

func (*plainWriter) Write(p []byte) (int, error) { return len(p), nil }

// kept names what the garbage collector could not free.
func (r remains) kept() string {
	var kept string
	for range 100 {
		runtime.GC()
		kept = ""
		for _, part := range []struct {
			name  string
			alive bool
		}{
			{"request ", r.request.Value() != nil},
			{"header ", r.header.Value() != nil},
			{"body ", r.body.Value() != nil},
			{"writer ", r.writer.Value() != nil},
		} {
			if part.alive {
				kept += part.name
			}
		}
		if kept == "" {
			break
		}
		runtime.Gosched()
	}
	return kept
}

// sendOff sends a request and keeps nothing of it but weak pointers.
//
//nolint:revive // a test's context comes where it is used
//go:noinline
func sendOff(m *phantom.Middleware, ctx context.Context) remains {
	body, w, values := &bytesBody{Reader: strings.NewReader("x")}, &plainWriter{}, []string{strings.Repeat("x", 100)}
	r := get("Bearer " + strings.Clone(opaqueToken)).WithContext(ctx)
	r.Body, r.Header["X-Marker"] = body, values
	m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
	return remains{weak.Make(r), weak.Make(&values[0]), weak.Make(body), weak.Make(w)}
}

func leaveDuringLookup(m *phantom.Middleware, o *oracle) remains {
	ctx, leave := context.WithCancel(context.Background())
	sent := later(func() remains { return sendOff(m, ctx) })
	for o.calls.Load() == 0 {
		runtime.Gosched()
	}
	leave()
	return sent()
}

func leaveAfterLookup(m *phantom.Middleware) remains { return sendOff(m, context.Background()) }
