package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A client leaves while its token is looked up. It gets a 503 at once, the
// lookup goes on, and the next request profits from it.
//
// Catalogue: R40.
func TestClientLeavesDuringTheLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(100*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		m := as.middleware()
		next := &spy{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		begin := time.Now()
		rec := serve(m.Handler(next), get("Bearer "+as.secret("opaque-token")).WithContext(ctx))
		if got := as.outcome(rec, next, 0); got != code503A {
			t.Errorf("%s", got)
		}
		if d := time.Since(begin); d != 10*time.Millisecond {
			t.Errorf("answered after %v", d)
		}
		time.Sleep(time.Second)
		if got := as.try(m, "opaque-token"); got != codeOK {
			t.Errorf("next request: %s", got)
		}
		if n := as.calls.Load(); n != 1 {
			t.Errorf("the server was asked %d times", n)
		}
	})
}

// A request whose context has ended starts no lookup. Cached tokens and
// malformed requests are judged as ever.
//
// Catalogue: R41.
func TestContextEndedOnEntry(t *testing.T) {
	synctest.Test(t, contextEndedOnEntry)
}

// contextEndedOnEntry is the body of that test.
func contextEndedOnEntry(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("an explanation"))
	if got := as.send(m.Handler, get("Bearer "+as.secret("opaque-token")).WithContext(ended)); got != code503A {
		t.Errorf("%s", got)
	}
	synctest.Wait() // for a lookup in the background, if there is one
	if n := as.calls.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
	tok, err := m.Verify(ended, "opaque-token")
	if tok != nil || !errors.Is(err, phantom.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Verify: %v, %v", tok, err)
	}
	// What needs no lookup needs no time.
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Errorf("%s", got)
	}
	if got := as.send(m.Handler, get("Bearer opaque-token").WithContext(ended)); got != codeOK {
		t.Errorf("cached: %s", got)
	}
	// A verdict on the request itself needs none either.
	if got := as.send(m.Handler, get("Bearer a b").WithContext(ended)); got != code400R {
		t.Errorf("malformed: %s", got)
	}
}

// Ten thousand clients leave while their tokens are looked up. No goroutine
// stays behind, and the limit of lookups in flight holds.
//
// Catalogue: R42.
func TestManyClientsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(time.Second, answerJWT(mint("ES256", claims(nil))))
		next := &spy{}
		h := as.middleware().Handler(next)
		before := runtime.NumGoroutine()
		const waves, clients = 20, 500 // not all at once: the race detector has a limit
		for wave := range waves {
			ctx, cancel := context.WithCancel(t.Context())
			for i := range clients {
				go func() {
					r := get(fmt.Sprintf("Bearer t-%d-%d", wave, i)).WithContext(ctx)
					if rec := serve(h, r); rec.Code != http.StatusServiceUnavailable {
						t.Errorf("status %d", rec.Code)
					}
				}()
			}
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
			cancel()
			synctest.Wait()
			time.Sleep(90 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		if n := runtime.NumGoroutine() - before; n > 10 {
			t.Errorf("%d goroutines are left", n)
		}
		if n := as.peak.Load(); n > 64 {
			t.Errorf("%d lookups at once", n)
		}
		if next.calls() != 0 {
			t.Errorf("next ran %d times", next.calls())
		}
	})
}
