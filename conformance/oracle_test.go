package conformance_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// heap returns the size of what is alive.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

const opaqueToken = "opaque-token-of-alice"

// An oracle is an authorization server without HTTP and cryptography, for
// tests of many lookups: the Introspector and the KeySet of its Middleware.
type oracle struct {
	ask    func(ctx context.Context, token string) (*phantom.Introspection, error)
	verify func(jwt string) // what checking a signature does besides believing it
	calls  atomic.Int64
}

func (o *oracle) Introspect(ctx context.Context, token string) (*phantom.Introspection, error) {
	o.calls.Add(1)
	return o.ask(ctx, token)
}

func (o *oracle) VerifySignature(_ context.Context, jwt string) ([]byte, error) {
	if o.verify != nil {
		o.verify(jwt)
	}
	return base64.RawURLEncoding.DecodeString(strings.Split(jwt, ".")[1])
}

func (o *oracle) middleware(tb testing.TB, extra ...phantom.Option) *phantom.Middleware {
	tb.Helper()
	m, err := phantom.New(append([]phantom.Option{
		phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithTimeout(2 * time.Second),
		phantom.WithIntrospector(o), phantom.WithKeySet(o),
	}, extra...)...)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// unsigned returns an answer whose JWT has an invented signature.
func unsigned(changes map[string]any) *phantom.Introspection {
	header, payload := `{"alg":"ES256","typ":"at+jwt"}`, must(json.Marshal(claims(changes)))
	jwt := b64([]byte(header)) + "." + b64(payload) + "." + b64(make([]byte, 64))
	return &phantom.Introspection{Active: true, JWT: jwt}
}

// says makes an oracle's answers: the jti tells the lookup that it came from.
func says(id int64) (*phantom.Introspection, error) {
	return unsigned(map[string]any{"jti": fmt.Sprint(id)}), nil
}

var inactive = &phantom.Introspection{}

// idOf verifies the token and returns the ID of its JWT, or what kind of error
// came instead.
func idOf(m *phantom.Middleware, token string) string {
	tok, err := m.Verify(context.Background(), token)
	switch {
	case err == nil:
		return tok.ID()
	case errors.Is(err, phantom.ErrInvalidToken):
		return code401T
	case errors.Is(err, phantom.ErrUnavailable):
		return code503A
	case errors.Is(err, phantom.ErrUpstream):
		return code502A
	}
	return err.Error()
}

// later runs f in a goroutine; the returned function waits for its result.
func later[T any](f func() T) func() T {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return func() T { return <-result }
}

// An ending is how a request ended, and how long after its start.
type ending struct {
	what  string
	after time.Duration
}

// throng runs n requests at once; the returned function waits for them and
// counts how they ended.
func throng(n int, request func(i int) string) func() map[ending]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	endings := map[ending]int{}
	for i := range n {
		wg.Go(func() {
			start := time.Now()
			what := request(i)
			mu.Lock()
			defer mu.Unlock()
			endings[ending{what, time.Since(start)}]++
		})
	}
	return func() map[ending]int {
		wg.Wait()
		return endings
	}
}

func expectEndings(tb testing.TB, got, want map[ending]int) {
	tb.Helper()
	if !maps.Equal(got, want) {
		tb.Errorf("endings %v, want %v", got, want)
	}
}

func expect[T comparable](tb testing.TB, what string, got, want T) {
	tb.Helper()
	if got != want {
		tb.Errorf("%s: %v, want %v", what, got, want)
	}
}

// countGoroutines returns how many goroutines there are. If these seem to be
// more than limit, it stops the world and counts again: the runtime's number is
// off while it moves dead ones from list to list.
func countGoroutines(limit int) int {
	if n := runtime.NumGoroutine(); n <= limit {
		return n
	}
	stacks := make([]byte, 16<<20)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("\n\ngoroutine ")) + 1
}

// active is says for an answer that is made in advance.
func active(id int64) *phantom.Introspection {
	answer, _ := says(id)
	return answer
}
