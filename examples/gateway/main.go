// Gateway is a reverse proxy that lets no request through without a valid
// opaque token and hands the token's JWT to the service behind it. -h shows its
// flags, and docs/gateway.md says how to run it.
//
// flags.go has the flags; config.go makes options of phantom from them;
// proxy.go stands between a client and the upstream; operate.go has what
// operators look at; this file serves.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// main exits with status 2 for wrong flags, and 1 if serving fails.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	c := configure(os.Args[1:])
	for _, err := range c.mistakes {
		fmt.Fprintln(os.Stderr, "gateway:", err)
	}
	if len(c.mistakes) > 0 {
		os.Exit(2)
	}
	if err := serve(ctx, c); err != nil {
		c.logger.Error("cannot serve", "error", err)
		os.Exit(1)
	}
}

// serve serves until ctx is done, and then until what is under way is answered.
func serve(ctx context.Context, c *config) error {
	state := &state{logger: c.logger}
	proxy := newServer(state.observe(newGateway(c)), c.logger)
	attrs, failed := []any{"upstream", c.upstream.String(), "tls", c.tls != nil, "no_token", c.public}, make(chan error)
	for name, server := range map[string]*http.Server{
		"listen":         proxy,
		"health-listen":  newServer(state.probes(), c.logger),
		"forget-listen":  newServer(forgetting(c.auth), c.logger),
		"metrics-listen": newServer(c.measured, c.logger),
	} {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.text(name))
		if err != nil {
			return fmt.Errorf("-%s: %w", name, err)
		}
		attrs = append(attrs, name, listener.Addr().String())
		if server == proxy && c.tls != nil {
			listener = tls.NewListener(listener, &tls.Config{
				MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.tls.get,
			})
		}
		go func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		}()
	}
	c.logger.Info("serving", attrs...)
	go state.warm(ctx, c.auth)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	c.logger.Info("stopping")
	state.stopping.Store(true)
	time.Sleep(get[time.Duration](c, "drain")) // until no more requests are sent here
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), get[time.Duration](c, "shutdown-timeout"))
	defer cancel()
	if err := proxy.Shutdown(grace); err != nil {
		c.logger.Warn("requests are cut off", "error", err)
	}
	return nil
}

// newServer limits the time for a header and of an idle connection, no body's.
func newServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               64 << 10, // a token may have 16 KiB
		DisableGeneralOptionsHandler: true,     // OPTIONS * is a request like any other
		ErrorLog:                     slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}
