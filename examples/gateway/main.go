// Gateway is a reverse proxy that lets no request through without a valid
// opaque token and hands the token's JWT to the service behind it.
//
//	PHANTOM_CLIENT_SECRET=… go -C examples/gateway run . \
//	    -upstream http://127.0.0.1:9000 \
//	    -issuer https://login.example.com/oauth/v2/oauth-anonymous \
//	    -audience https://api.example.com \
//	    -client-id gateway_client
//
// Every flag can be given in the environment too: -client-id is
// PHANTOM_CLIENT_ID. A flag wins, and an empty variable counts as none. The
// secret comes from a file or from PHANTOM_CLIENT_SECRET, never from a flag,
// which everyone on the machine could read. -help shows all of them.
//
// To try it, run "go run ./examples/quickstart -serve": it prints the URLs of
// an issuer and of an API to put behind the gateway. The audience there is
// https://api.example.com, the client gateway and its secret gateway-secret.
//
// Where the JWT comes from is -mode: the introspection endpoint (jwt), a key of
// the gateway's own (mint), or the token endpoint (exchange). With claims the
// service gets no credentials at all. docs/servers.md says which server needs
// which.
//
// What to look at: config.go and mode.go turn flags into options of phantom;
// proxy.go stands between a client and the upstream, and keeps the upstream
// from believing what a client made up; observe.go has the access log and the
// health endpoint; this file serves and stops.
//
// What it leaves to you: the way to the upstream carries JWTs and needs TLS or
// a private network; behind a load balancer the address in the log and in
// X-Forwarded-For is the balancer's; a renewed certificate or a new key needs a
// restart, and a restart cuts off websockets; nothing limits the size of bodies
// or the number of requests.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
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
	c, mistakes := configure(args, getenv, logger)
	if slices.Contains(mistakes, flag.ErrHelp) {
		_, _ = fmt.Fprint(stdout, usage())
		return 0
	}
	for _, err := range mistakes {
		_, _ = fmt.Fprintln(stderr, "gateway:", err)
	}
	if len(mistakes) > 0 {
		return 2
	}
	if err := serve(ctx, c, logger); err != nil {
		logger.Error("cannot serve", "error", err)
		return 1
	}
	return 0
}

// serve serves until ctx is done, and then until the requests that are under
// way are answered.
func serve(ctx context.Context, c *config, logger *slog.Logger) error {
	var listen net.ListenConfig
	proxyListener, err := listen.Listen(ctx, "tcp", c.listen)
	if err != nil {
		return err
	}
	healthListener, err := listen.Listen(ctx, "tcp", c.healthListen)
	if err != nil {
		return errors.Join(err, proxyListener.Close())
	}

	state := &health{auth: c.auth, logger: logger}
	proxy := newServer(accessLog(logger, newGateway(c, logger)), logger)
	probes := newServer(state.handler(), logger)
	failed := make(chan error, 2)
	go func() {
		if c.certificate == nil {
			failed <- proxy.Serve(proxyListener)
			return
		}
		proxy.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*c.certificate}}
		failed <- proxy.ServeTLS(proxyListener, "", "")
	}()
	go func() { failed <- probes.Serve(healthListener) }()
	logger.Info("serving",
		"address", proxyListener.Addr().String(), "tls", c.certificate != nil,
		"health", healthListener.Addr().String(), "upstream", c.upstream.String())
	go state.isReady(ctx) // shows at once in the log what is wrong

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	logger.Info("stopping")
	state.stopping.Store(true)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.shutdownTimeout)
	defer cancel()
	if err := proxy.Shutdown(grace); err != nil {
		logger.Warn("requests are cut off", "error", err)
		_ = proxy.Close()
	}
	return probes.Close()
}

// newServer returns a server that limits the time for a header and for an idle
// connection, but not the time to read and write a body.
func newServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10, // a token may have 16 KiB
		// OPTIONS * is a request like any other.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}
