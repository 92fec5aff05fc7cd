package phantomtest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
)

// A transport hands requests to the server in the goroutine of the caller, so
// that there is nothing to close and nothing that a bubble would wait for.
type transport struct{ server *AuthorizationServer }

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer func() { _ = req.Body.Close() }()
	}
	// Answering a request for another server would hide a mistake in the
	// configuration under test.
	if origin := req.URL.Scheme + "://" + req.URL.Host; origin != t.server.origin {
		return nil, fmt.Errorf("phantomtest: there is no %s here, only %s", origin, t.server.origin)
	}
	ctx := req.Context()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}

	in := req.Clone(ctx)
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "192.0.2.1:1234"
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	t.server.ServeHTTP(rec, in)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	resp := rec.Result()
	resp.ContentLength = int64(rec.Body.Len())
	resp.Request = req
	return resp, nil
}
