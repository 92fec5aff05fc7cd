package phantom_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// A line is a Store that keeps nothing. It hands notes to the function that is
// set, or to who receives.
type line struct {
	send    func(note []byte)
	receive func(note []byte)
}

func (*line) Get(context.Context, string) ([]byte, time.Duration, error) { return nil, 0, nil }
func (*line) Set(context.Context, string, []byte, time.Duration) error   { return nil }
func (*line) Drop(context.Context, string, time.Duration) error          { return nil }
func (l *line) Broadcast(_ context.Context, note []byte) error           { l.send(note); return nil }
func (l *line) Receive(f func(note []byte))                              { l.receive = f }

// BenchmarkHitAmongNotes is a hit while other replicas forget many tokens, or
// sessions, in each second.
func BenchmarkHitAmongNotes(b *testing.B) {
	const known, notesMade = 10_000, 20_000
	server := phantomtest.New()
	from, to := &line{}, &line{}
	replica := func(l *line) *phantom.Middleware {
		secret := []byte("the secret of the fleet: 32 bytes or more")
		m, err := phantom.New(append(server.Options(), phantom.WithStore(l, secret))...)
		if err != nil {
			b.Fatal(err)
		}
		return m
	}
	other, m := replica(from), replica(to)
	var token string
	for i := range known {
		token = server.Issue(map[string]any{"sid": fmt.Sprint("session-", i)})
		if _, err := m.Verify(context.Background(), token); err != nil {
			b.Fatal(err)
		}
	}
	for _, bc := range []struct {
		name   string
		rate   int // a second
		forget func(name string) error
	}{
		{"none", 0, func(string) error { return nil }},
		{"tokens", 10_000, other.Forget},
		{"sessions", 1_000, other.ForgetSession},
	} {
		b.Run(bc.name, func(b *testing.B) {
			var notes [][]byte
			from.send = func(note []byte) { notes = append(notes, note) }
			for i := range notesMade {
				if err := bc.forget(fmt.Sprint("other-", i)); err != nil {
					b.Fatal(err)
				}
			}
			var over atomic.Bool
			sent := make(chan int)
			go func() {
				n := 0
				for start := time.Now(); !over.Load(); time.Sleep(time.Millisecond) {
					for due := int(time.Since(start).Seconds() * float64(bc.rate)); n < min(due, len(notes)); n++ {
						to.receive(notes[n])
					}
				}
				sent <- n
			}()
			h := m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			r, w := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
			r.Header.Set("Authorization", "Bearer "+token)
			start := time.Now()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
			over.Store(true)
			b.ReportMetric(float64(<-sent)/time.Since(start).Seconds(), "notes/s")
		})
	}
}
