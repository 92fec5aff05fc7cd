// Forwardauth answers nginx, HAProxy, Caddy, Envoy, Traefik and Kubernetes
// gateways that ask whether a request may pass, and gives them the JWT for the
// service behind. docs/forward-auth.md has the whole of it.
//
//	PHANTOM_CLIENT_SECRET=… go run ./examples/forwardauth \
//	    -issuer https://login.example.com/oauth/v2/oauth-anonymous \
//	    -audience https://api.example.com \
//	    -client-id gateway_client
//
// The path of a question names the scopes that the route requires: "/" none,
// "/orders:read,orders:write" both. Some gateways put the client's path behind
// it. Ask those at an address of -listen-for, where each path is the same
// question:
//
//	-listen-for "127.0.0.1:9091=orders:read 127.0.0.1:9092=orders:write"
//
// Every flag can be given in the environment too: -client-id is
// PHANTOM_CLIENT_ID. A flag wins. The secret comes from a file or from
// PHANTOM_CLIENT_SECRET, never from a flag, which everyone on the machine could
// read.
//
// The files beside this one are the proxies' configurations. The module in
// proxies tests them with the proxies themselves.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/phantom-token/phantom/forwardauth"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is the whole program. It returns the exit status: 2 for mistakes in the
// configuration, 1 if serving fails.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	logger := slog.New(slog.NewJSONHandler(stdout, nil))
	c, err := configure(args, getenv, logger, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "forwardauth:", err)
		return 2
	}
	if err := serve(ctx, c, logger); err != nil {
		logger.Error("cannot serve", "error", err)
		return 1
	}
	return 0
}

// serve serves until ctx is done, and then until the questions that are under
// way are answered.
func serve(ctx context.Context, c *config, logger *slog.Logger) error {
	answer := forwardauth.Handler(c.auth)
	var servers []*http.Server
	failed := make(chan error, len(c.listeners))
	defer func() {
		for _, s := range servers {
			_ = s.Close()
		}
	}()
	for _, l := range c.listeners {
		var listen net.ListenConfig
		listener, err := listen.Listen(ctx, "tcp", l.address)
		if err != nil {
			return err
		}
		handler := answer
		if l.fixed {
			handler = always(l.question, answer)
		}
		server := &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10, // a token may have 16 KiB
			// OPTIONS * is a question like any other, and no good one.
			DisableGeneralOptionsHandler: true,
			ErrorLog:                     slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		}
		servers = append(servers, server)
		logger.Info("serving", "address", listener.Addr().String(), "question", l.question)
		go func() { failed <- server.Serve(listener) }()
	}
	go func() {
		if err := c.auth.Warm(ctx); err != nil && ctx.Err() == nil {
			logger.Warn("not ready", "error", err) // a question asks again
		}
	}()

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	logger.Info("stopping")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var errs []error
	for _, s := range servers {
		errs = append(errs, s.Shutdown(grace))
	}
	return errors.Join(errs...)
}

// always takes each request for the same question.
func always(question string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked := *r
		asked.URL = &url.URL{Path: question}
		next.ServeHTTP(w, &asked)
	})
}
