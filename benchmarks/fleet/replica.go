package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/valkeystore"
)

// specVariable is set in the environment of a process that is to be a replica.
const specVariable = "PHANTOM_FLEET_REPLICA"

// A spec is what a replica is told when it starts.
type spec struct {
	Server string // the URL of the authorization server
	TTL    time.Duration
	Engine string // the address; empty: no Store
	Prefix string
	Secret []byte
}

// isReplica runs a replica until its standard input ends, if this process is to
// be one.
func isReplica() bool {
	text := os.Getenv(specVariable)
	if text == "" {
		return false
	}
	var s spec
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		err = s.serve(os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "replica:", err)
		os.Exit(1)
	}
	return true
}

// options returns those of a Middleware with this spec.
func (s spec) options() (opts []phantom.Option, end func()) {
	opts = []phantom.Option{
		phantom.WithInsecureHTTP(),
		phantom.WithIssuer(s.Server),
		phantom.WithAudience(audience),
		phantom.WithIntrospectionEndpoint(s.Server + introspection),
		phantom.WithClientAuth(phantom.ClientSecretBasic(client, clientSecret)),
		phantom.WithMaxTTL(s.TTL),
	}
	if s.Engine == "" {
		return opts, func() {}
	}
	store := valkeystore.New(valkey.ClientOption{InitAddress: []string{s.Engine}}, valkeystore.WithPrefix(s.Prefix))
	return append(opts, phantom.WithStore(store, s.Secret)), store.Close
}

// serve is a service of one endpoint. It writes its address to out, and stops
// when in ends: with the driver, however that ends.
//
//	GET /          204 with a good token
//	POST /forget   has the Middleware forget the token that is the body
func (s spec) serve(in io.Reader, out io.Writer) error {
	opts, end := s.options()
	defer end()
	auth, err := phantom.New(opts...)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", auth.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})))
	mux.HandleFunc("POST /forget", func(w http.ResponseWriter, r *http.Request) {
		token, err := io.ReadAll(r.Body)
		if err == nil {
			err = auth.Forget(string(token))
		}
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
	}()
	fmt.Fprintln(out, l.Addr())
	if err := srv.Serve(l); err != http.ErrServerClosed { //nolint:errorlint // it comes as it is
		return err
	}
	return nil
}
