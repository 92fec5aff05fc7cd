package conformance_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// keySetLimit is how many bytes of a key set are read.
const keySetLimit = 256 << 10

// keySetOf returns a key set of n keys: the fixture's ten, behind others of a
// kind that we do not know.
func keySetOf(n int) string {
	good := allKeys()
	return `{"keys":[` + strings.Repeat(`{"kty":"X"},`, n-10) + good[len(`{"keys":[`):]
}

// A strangeBody is an answer that is too large, or never ends.
type strangeBody struct {
	name   string
	header http.Header
	body   func(context.Context) io.Reader
	length int64
	took   time.Duration // until a first request is refused
}

func strangeBodies() []strangeBody {
	good := allKeys()
	bomb := func() []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(good))
		_, _ = z.Write(make([]byte, 64<<20))
		_ = z.Close()
		return b.Bytes()
	}()
	zipped := http.Header{"Content-Encoding": {"gzip"}}
	text := func(s string) func(context.Context) io.Reader {
		return func(context.Context) io.Reader { return strings.NewReader(s) }
	}
	return []strangeBody{
		{"50 MiB", nil, func(context.Context) io.Reader {
			return io.MultiReader(strings.NewReader(good), io.LimitReader(spaces{}, 50<<20))
		}, -1, 0},
		{"50 MiB announced", nil, func(context.Context) io.Reader {
			return io.LimitReader(spaces{}, 50<<20)
		}, 50 << 20, 0},
		{"endless", nil, func(context.Context) io.Reader { return spaces{} }, -1, 0},
		{"one byte too long", nil, text(good + strings.Repeat(" ", keySetLimit+1-len(good))), -1, 0},
		{"100,000 keys", nil, text(keySetOf(100_000)), -1, 0},
		{"101 keys", nil, text(keySetOf(101)), -1, 0},
		{"gzip bomb", zipped, func(context.Context) io.Reader { return bytes.NewReader(bomb) }, -1, 0},
		{"gzip", zipped, text(good), -1, 0},
		{"drip", nil, func(ctx context.Context) io.Reader { return drip{ctx} }, -1, 2 * time.Second},
		{"broken off", nil, func(context.Context) io.Reader {
			return io.MultiReader(strings.NewReader(good), failing{io.ErrUnexpectedEOF})
		}, -1, 0},
		{"nested deep", nil, text(`{"keys":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}"), -1, 0},
	}
}

// A key set that is too large, too deep or without end is a failed fetch. No
// more of it is read than the limit, and its body is closed.
//
// Catalogue: K195.
func TestOversizedKeySetIsRefused(t *testing.T) {
	for _, tc := range strangeBodies() {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = newToken
				host := &keyHost{fakeAS: as}
				m := as.middleware(host.client())
				var bodies []*countedBody
				broken := func(r *http.Request) (*http.Response, error) {
					body := &countedBody{Reader: tc.body(r.Context())}
					bodies = append(bodies, body)
					resp := response(r, tc.header, body)
					resp.ContentLength = tc.length
					return resp, nil
				}
				host.keys = broken
				start := time.Now()
				if got := as.tries(m, 1); got != code503A {
					t.Errorf("at the start: %s", got)
				}
				if took := time.Since(start); took != tc.took {
					t.Errorf("after %v", took)
				}
				synctest.Wait()
				host.keys = nil
				time.Sleep(2 * time.Second)
				if got := as.tries(m, 1); got != codeOK {
					t.Errorf("recovered: %s", got)
				}
				synctest.Wait()
				host.keys = broken
				time.Sleep(5*time.Minute + time.Second)
				if got := as.tries(m, 1); got != codeOK {
					t.Errorf("during the refresh: %s", got)
				}
				time.Sleep(3 * time.Second)
				if got := as.tries(m, 5); got != codeOK || len(bodies) != 2 {
					t.Errorf("with the old keys: %s, %d bodies", got, len(bodies))
				}
				for _, body := range bodies {
					if body.read.Load() > keySetLimit+1 || body.closed.Load() == 0 {
						t.Errorf("%d bytes read, closed %d times", body.read.Load(), body.closed.Load())
					}
				}
			})
		})
	}
}

// The largest key set has 100 keys and 256 KiB.
//
// Catalogue: K195.
func TestLargestKeySetFits(t *testing.T) {
	good := allKeys()
	for _, tc := range []struct{ name, document string }{
		{"100 keys", keySetOf(100)},
		{"256 KiB", good + strings.Repeat(" ", keySetLimit-len(good))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.jwks = answer(200, "application/json", tc.document)
			if got := as.try(as.middleware(), "opaque"); got != codeOK {
				t.Error(got)
			}
		})
	}
}

// spaces are endless.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
