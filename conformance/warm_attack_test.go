package conformance_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// Warm ends in time also if an Introspector is deaf to its context, or ends its
// goroutine, and when its caller leaves.
//
// Catalogue: O13.
func TestWarmWaitsForNoDeafIntrospector(t *testing.T) {
	for name, ask := range map[string]func(){
		"deaf":   func() { time.Sleep(time.Minute) },
		"Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
					ask()
					return inactive, nil
				}}
				m := o.middleware(t)
				for _, patience := range []time.Duration{time.Hour, time.Second} {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					began := time.Now()
					ended := make(chan string, 1)
					go func() {
						defer func() { ended <- "the goroutine" }()
						ended <- warmCode(m.Warm(ctx))
					}()
					expect(t, "Warm", <-ended, code503A)
					expect(t, "after", time.Since(began), min(patience, 2*time.Second))
					cancel()
				}
				time.Sleep(2 * time.Minute) // until it has woken up
			})
		})
	}
}
