// Quickstart shows the phantom token pattern at work, all of it on loopback:
// an authorization server that issues opaque tokens, a gateway that swaps them
// for JWTs, an API behind it, and a client in front of it.
//
//	go run ./examples/quickstart         walks through the pattern and exits
//	go run ./examples/quickstart -serve  stays up, to be tried with curl
//
// What to copy for a gateway of your own is in gateway.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// The clients of the authorization server. Real secrets do not belong in source
// code; these open nothing but this demonstration.
const (
	gatewayID, gatewaySecret = "gateway", "gateway-secret"
	appID, appSecret         = "app", "app-secret"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run is the whole program. It returns when the walk is over or, with -serve,
// when ctx is done.
func run(ctx context.Context, stdout io.Writer, args []string) (err error) {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(stdout)
	serve := flags.Bool("serve", false, "stay up until interrupted, to be tried with curl")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}

	var seen journal
	if *serve {
		seen.console = stdout
	}
	s, err := start(ctx, &seen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()

	if _, err := fmt.Fprintf(stdout, intro, s.issuer, s.gateway, s.api); err != nil {
		return err
	}
	if !*serve {
		return walk(ctx, stdout, s)
	}
	if _, err := fmt.Fprint(stdout, curlLines(s)); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

const intro = `The phantom token pattern: opaque tokens outside, JWTs inside.

  authorization server  %s
  gateway with phantom  %s
  API behind it         %s
`

// A site is everything that runs.
type site struct {
	issuer, gateway, api string // URLs
	as                   *phantomtest.AuthorizationServer
	auth                 *phantom.Middleware
	seen                 *journal
	servers              []*http.Server // in the order to stop them
}

// start serves each part on a listener of its own, as if it were on three
// machines.
func start(ctx context.Context, seen *journal) (*site, error) {
	var config net.ListenConfig
	var listeners [3]net.Listener
	var urls [3]*url.URL
	for i := range listeners {
		l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners[i] = l
		urls[i] = &url.URL{Scheme: "http", Host: l.Addr().String()}
	}
	gatewayURL, apiURL, issuerURL := urls[0], urls[1], urls[2]

	as := phantomtest.New(
		phantomtest.WithIssuer(issuerURL.String()),
		phantomtest.WithAudience(audience),
		phantomtest.WithClient(gatewayID, gatewaySecret),
		phantomtest.WithClient(appID, appSecret),
	)
	auth, gateway, err := newGateway(issuerURL.String(), apiURL)
	if err != nil {
		return nil, err
	}
	s := &site{
		issuer: issuerURL.String(), gateway: gatewayURL.String(), api: apiURL.String(),
		as: as, auth: auth, seen: seen,
	}
	for i, h := range []http.Handler{gateway, seen.record(http.HandlerFunc(orders)), seen.record(as)} {
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
		s.servers = append(s.servers, srv)
		go func() {
			if err := srv.Serve(listeners[i]); !errors.Is(err, http.ErrServerClosed) {
				fmt.Fprintln(os.Stderr, "quickstart:", err)
			}
		}()
	}
	return s, nil
}

// stop stops the servers once the requests under way have ended.
func (s *site) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var err error
	for _, srv := range s.servers {
		err = errors.Join(err, srv.Shutdown(ctx))
	}
	return err
}

// curlLines says what to try while everything is up.
func curlLines(s *site) string {
	return strings.NewReplacer("AS", s.issuer, "GATEWAY", s.gateway,
		"APP", appID+":"+appSecret, "TTL", maxTTL.String()).Replace(`
Get an opaque token:

  TOKEN=$(curl -s -u APP AS/token \
    -d grant_type=client_credentials -d 'scope=orders:read profile' |
    sed 's/.*"access_token":"\([^"]*\)".*/\1/'); echo $TOKEN

Call the API through the gateway, a route of the gateway itself, and one that
needs more than the token allows:

  curl -i -H "Authorization: Bearer $TOKEN" GATEWAY/orders
  curl -i -H "Authorization: Bearer $TOKEN" GATEWAY/whoami
  curl -i -H "Authorization: Bearer $TOKEN" GATEWAY/reports

Revoke the token. The gateway notices within TTL:

  curl -i -u APP AS/revoke -d token=$TOKEN

Ctrl-C stops. What the servers see:

`)
}
