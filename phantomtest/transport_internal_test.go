package phantomtest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A body knows whether it was closed.
type body struct {
	io.Reader

	closed bool
}

func (b *body) Close() error {
	b.closed = true
	return nil
}

func TestTransport(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name   string
		ctx    context.Context //nolint:containedctx // a case of the table
		target string
		delay  time.Duration

		err            error // nil for any, if status is 0
		status         int
		introspections int
	}{
		{"answered", t.Context(), "https://as.test/introspect", 0, nil, 200, 1},
		{"no such path", t.Context(), "https://as.test/", 0, nil, 404, 0},
		{"other scheme", t.Context(), "http://as.test/introspect", 0, nil, 0, 0},
		{"other host", t.Context(), "https://as.test:8443/introspect", 0, nil, 0, 0},
		{"canceled before", canceled, "https://as.test/introspect", 0, context.Canceled, 0, 0},
		{"too slow", nil, "https://as.test/introspect", time.Hour, context.DeadlineExceeded, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := test.ctx
				if ctx == nil {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(t.Context(), time.Second)
					defer cancel()
				}
				s := New()
				s.Delay(test.delay)
				b := &body{Reader: strings.NewReader(url.Values{"token": {s.Issue(nil)}}.Encode())}
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, test.target, b)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				req.SetBasicAuth(s.clients[0].id, s.clients[0].secret)

				resp, err := transport{s}.RoundTrip(req)
				if !b.closed {
					t.Error("the request's body was not closed")
				}
				if req.RequestURI != "" || req.Form != nil {
					t.Error("the request was changed")
				}
				if n := s.Introspections(); n != test.introspections {
					t.Errorf("%d introspections, want %d", n, test.introspections)
				}
				if test.status == 0 {
					if err == nil || test.err != nil && !errors.Is(err, test.err) {
						t.Errorf("error %v, want %v", err, test.err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != test.status || resp.Request != req || resp.ContentLength != int64(len(answer)) {
					t.Errorf("status %d, request %p, length %d of %d", resp.StatusCode, resp.Request, resp.ContentLength, len(answer))
				}
			})
		})
	}
}
