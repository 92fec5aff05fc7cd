package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom"
)

// state is what the probes of the platform that runs the gateway ask for.
type state struct {
	logger          *slog.Logger
	ready, stopping atomic.Bool
}

// warm waits until the authorization server has answered once. Later outages
// do not count: restarting or bypassing the gateway does not end them, and the
// tokens that it remembers still work.
func (s *state) warm(ctx context.Context, auth *phantom.Middleware) {
	for why, err := "", auth.Warm(ctx); err != nil && ctx.Err() == nil; err = auth.Warm(ctx) {
		if err.Error() != why { // one line for each cause, not for each try
			why = err.Error()
			s.logger.Warn("not ready", "error", err)
		}
		time.Sleep(time.Second)
	}
	s.ready.Store(ctx.Err() == nil)
}

func (s *state) probes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.ready.Load() || s.stopping.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		}
	})
	return mux
}

// forgetting ends tokens early: for a webhook with the form field token, and
// for the authorization server with its logout tokens.
func forgetting(auth *phantom.Middleware) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/backchannel-logout", auth.BackchannelLogout())
	mux.HandleFunc("POST /forget", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		switch token := r.PostFormValue("token"); { // never of the query, which is logged
		case token == "":
			http.Error(w, "the form has no token", http.StatusBadRequest)
		case auth.Forget(token) != nil:
			http.Error(w, "forgotten here; the other replicas could not be told", http.StatusServiceUnavailable)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	return mux
}

// observe writes a line about each request when it is over, of at most 2 KiB.
// It has neither the query nor anything from the header, where tokens are.
func (s *state) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, complete := time.Now(), false
		rec := &recorder{ResponseWriter: w, Context: r.Context()}
		if s.stopping.Load() && r.Header.Get("Upgrade") == "" {
			w.Header().Set("Connection", "close") // come again to another replica
		}
		defer func() { // a panic, when an answer breaks off, passes through
			if r.ContentLength != 0 {
				// net/http would wait for a body that nobody reads, also at the end.
				_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second))
			}
			if !s.logger.Enabled(rec, slog.LevelInfo) {
				return
			}
			attrs := []slog.Attr{
				slog.String("method", fmt.Sprintf("%.32s", r.Method)), slog.String("client", r.RemoteAddr),
				slog.String("path", fmt.Sprintf("%.1024s", r.URL.EscapedPath())), slog.Int("status", cmp.Or(rec.status, 101)),
				slog.Int64("bytes", rec.bytes), slog.Bool("complete", complete),
				slog.Float64("seconds", time.Since(start).Seconds()),
			}
			s.logger.LogAttrs(context.WithoutCancel(rec), slog.LevelInfo, "request", append(attrs, rec.why...)...)
		}()
		next.ServeHTTP(rec, r.WithContext(rec))
		complete = true
	})
}

// A recorder remembers what was answered. It is also the request's context, in
// which explain finds it.
type recorder struct {
	http.ResponseWriter
	context.Context
	status int
	bytes  int64
	why    []slog.Attr // it was not served
}

func (r *recorder) Value(key any) any {
	if key == (*recorder)(nil) {
		return r
	}
	return r.Context.Value(key)
}

func (r *recorder) WriteHeader(status int) {
	if status >= http.StatusOK && r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// explain says in the access log why a request was not served. token are digits
// by which to find the token in phantom's lines.
func explain(r *http.Request, reason, token string) {
	rec, _ := r.Context().Value((*recorder)(nil)).(*recorder)
	if rec.why = []slog.Attr{slog.String("reason", reason)}; token != "" {
		rec.why = append(rec.why, slog.String("token", token))
	}
}

// rejected leaves the answer to phantom.
func rejected(_ http.ResponseWriter, r *http.Request, e *phantom.Error) {
	explain(r, string(e.Reason), e.TokenDigest())
}
