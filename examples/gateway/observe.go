package main

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom"
)

// accessLog writes a line about each request when it is over. The line has
// neither the query nor anything from the header, where tokens are.
func accessLog(logger *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		complete := false
		defer func() { // a panic, when an answer breaks off, passes through
			logger.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelInfo, "request",
				slog.String("method", r.Method),
				slog.String("path", r.URL.EscapedPath()),
				slog.Int("status", rec.status),
				slog.Int64("bytes", rec.bytes),
				slog.Bool("complete", complete),
				slog.Float64("seconds", time.Since(start).Seconds()),
				slog.String("client", r.RemoteAddr),
			)
		}()
		next.ServeHTTP(rec, r)
		complete = true
	})
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
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

// Hijack is how a protocol upgrade takes over the connection.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r.status = http.StatusSwitchingProtocols
	return http.NewResponseController(r.ResponseWriter).Hijack()
}

// Unwrap serves [http.ResponseController], which flushes.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// health answers the probes of the platform that runs the gateway. It has a
// listener of its own, so it takes no path from the upstream and needs no
// token.
type health struct {
	auth            *phantom.Middleware
	logger          *slog.Logger
	ready, stopping atomic.Bool
}

func (h *health) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if h.stopping.Load() || !h.isReady(r.Context()) {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		}
	})
	return mux
}

// isReady reports whether the authorization server's metadata and keys have
// been fetched once. It does not report later outages: restarting or bypassing
// the gateway does not end them, and the tokens that it remembers still work.
func (h *health) isReady(ctx context.Context) bool {
	if h.ready.Load() {
		return true
	}
	if err := h.auth.Warm(ctx); err != nil {
		h.logger.Warn("not ready", "error", err)
		return false
	}
	h.ready.Store(true)
	return true
}
