// Quickstart shows the phantom token pattern at work, all of it on loopback:
// an authorization server that issues opaque tokens, a gateway that swaps them
// for JWTs, an API behind it, and a client in front of it.
//
//	go run ./examples/quickstart               walks through it and exits
//	go run ./examples/quickstart -serve        stays up, for a page or for curl
//	go run ./examples/quickstart -server mint  has another server
//
// The server jwt gives the JWT when it is asked about a token. Most servers do
// not: claims, mint and exchange show what a gateway does then.
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
	"sync/atomic"
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
	serve := flags.Bool("serve", false, "stay up until interrupted, to be tried on a page or with curl")
	server := flags.String("server", "jwt",
		"`kind` of authorization server: jwt, or one without, for claims, mint or exchange")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	about, ok := stories[*server]
	if !ok {
		return fmt.Errorf("-server %q is not jwt, claims, mint or exchange", *server)
	}

	var seen journal
	if *serve {
		seen.console, seen.feed = stdout, newFeed()
	}
	s, err := start(ctx, &seen, *server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()

	if _, err := fmt.Fprintf(stdout, intro, about, s.issuer, s.gateway, s.api); err != nil {
		return err
	}
	if !*serve {
		return walk(ctx, stdout, s)
	}
	return servePage(ctx, stdout, s)
}

// stories says of each kind of server what is done about it.
var stories = map[string]string{
	"jwt": "The authorization server has a JWT for each token.",
	"claims": "The authorization server has no JWT, and the API needs none: it is in the\n" +
		"gateway's process.",
	"mint": "The authorization server has no JWT, so the gateway makes one.",
	"exchange": "The authorization server has no JWT when it is asked about a token, but takes\n" +
		"the token in exchange for one.",
}

const intro = `The phantom token pattern: opaque tokens outside, JWTs inside.
%s

  authorization server  %s
  gateway with phantom  %s
  API behind it         %s
`

// A site is everything that runs.
type site struct {
	server               string // its kind
	issuer, gateway, api string // URLs; of claims, where the API is instead
	as                   *phantomtest.AuthorizationServer
	auth                 *phantom.Middleware
	held                 string       // the token of the page's client
	down                 *atomic.Bool // the authorization server hangs up
	seen                 *journal
	servers              []*http.Server // in the order to stop them
}

// start serves each part on a listener of its own, as if it were on three
// machines.
func start(ctx context.Context, seen *journal, server string) (*site, error) {
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
	gatewayURL, issuerURL, apiURL := urls[0], urls[1], urls[2]
	s := &site{
		server: server, issuer: issuerURL.String(), gateway: gatewayURL.String(), api: apiURL.String(), seen: seen,
		down: new(atomic.Bool),
	}

	options := []phantomtest.Option{
		phantomtest.WithIssuer(s.issuer),
		phantomtest.WithAudience(audience),
		phantomtest.WithClient(gatewayID, gatewaySecret),
		phantomtest.WithClient(appID, appSecret),
	}
	if server != "jwt" {
		options = append(options, phantomtest.WithoutJWT())
	}
	s.as = phantomtest.New(options...)
	source, published, err := jwtSource(server, s.gateway)
	if err != nil {
		return nil, err
	}
	api := proxyTo(apiURL)
	if server == "claims" {
		api, s.api = seen.record(atAPI, http.HandlerFunc(ordersHere)), "in the gateway's process"
	}
	if seen.feed != nil {
		source = append(source, phantom.WithTrace(seen.feed.trace()))
	}
	auth, gateway, err := newGateway(s.issuer, api, source...)
	if err != nil {
		return nil, err
	}
	if published != nil {
		gateway.Handle("/.well-known/", published)
	}
	s.auth = auth
	front := http.Handler(gateway)
	if seen.feed != nil {
		front = seen.record(atGateway, gateway)
	}
	for i, h := range []http.Handler{
		front, seen.record(atServer, s.unlessDown(s.as)), seen.record(atAPI, http.HandlerFunc(orders)),
	} {
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

// unlessDown lets the authorization server hang up on every request while it is
// stopped.
func (s *site) unlessDown(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
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
