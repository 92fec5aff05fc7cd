package phantomcaddy

import (
	"context"
	"log/slog"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap/exp/zapslog"
)

// A currentLog writes to Caddy's default log as it is configured now: a
// Middleware outlives the configuration that it was made with.
type currentLog struct{}

func (currentLog) now() slog.Handler {
	return zapslog.NewHandler(caddy.Log().Core(),
		zapslog.WithName("http.handlers.phantom"), zapslog.AddStacktraceAt(slog.Level(127))) // no stacks of ours
}

func (l currentLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.now().Enabled(ctx, level)
}

func (l currentLog) Handle(ctx context.Context, record slog.Record) error {
	return l.now().Handle(ctx, record)
}

func (l currentLog) WithAttrs(attrs []slog.Attr) slog.Handler { return l.now().WithAttrs(attrs) }

func (l currentLog) WithGroup(name string) slog.Handler { return l.now().WithGroup(name) }
