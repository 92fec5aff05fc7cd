package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/phantom-token/phantom"
)

// secretVariable may hold the client secret, instead of a file.
const secretVariable = "PHANTOM_CLIENT_SECRET"

// A listener is an address and what is asked there.
type listener struct {
	address  string
	fixed    bool // any path is the question
	question string
}

type config struct {
	listeners []listener
	auth      *phantom.Middleware
}

// settings are the flags, as they were given.
type settings struct {
	listen, listenFor                                  string
	beyondLoopback                                     bool
	issuer, introspectionEndpoint, jwksURL, jsonMember string
	audience, clientID, secretFile                     string
	maxTTL                                             time.Duration
}

func flags(s *settings) *flag.FlagSet {
	f := flag.NewFlagSet("forwardauth", flag.ContinueOnError)
	f.StringVar(&s.listen, "listen", "127.0.0.1:9090", "`address` where the path of a question names the scopes")
	f.StringVar(&s.listenFor, "listen-for", "",
		"`address=scopes`, separated by spaces, for proxies that ask with the client's path")
	f.BoolVar(&s.beyondLoopback, "insecure-http", false,
		"serve beyond the loopback interface too; no client may reach that address")
	f.StringVar(&s.issuer, "issuer", "", "issuer `URL` of the authorization server; required")
	f.StringVar(&s.introspectionEndpoint, "introspection-endpoint", "", "`URL`; from the issuer's metadata by default")
	f.StringVar(&s.jwksURL, "jwks-url", "", "`URL` of the issuer's keys; from its metadata by default")
	f.StringVar(&s.jsonMember, "json-member", "",
		"`name` of the member that holds the JWT, for servers that answer in JSON")
	f.StringVar(&s.audience, "audience", "", "`values`, separated by spaces, of which a JWT must be for one; required")
	f.StringVar(&s.clientID, "client-id", "", "`identifier` of the introspection client; required")
	f.StringVar(&s.secretFile, "client-secret-file", "", "`file` with its secret; or set "+secretVariable)
	f.DurationVar(&s.maxTTL, "max-ttl", time.Minute, "the longest `time` that a revoked token can go unnoticed")
	return f
}

// configure reads the environment, then the flags. Its error quotes what was
// given, but never a secret.
func configure(args []string, getenv func(string) string, logger *slog.Logger, usage io.Writer) (*config, error) {
	s := new(settings)
	f := flags(s)
	f.SetOutput(usage)
	var errs []error
	f.VisitAll(func(each *flag.Flag) {
		name := "PHANTOM_" + strings.ToUpper(strings.ReplaceAll(each.Name, "-", "_"))
		if value := getenv(name); value != "" {
			if err := f.Set(each.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	})
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		// Not quoted: it may be the secret, behind a flag that does not exist.
		errs = append(errs, errors.New("an argument is not a flag"))
	}
	for _, name := range []string{"issuer", "audience", "client-id"} {
		if strings.TrimSpace(f.Lookup(name).Value.String()) == "" {
			errs = append(errs, fmt.Errorf("-%s is required", name))
		}
	}
	listeners, err := s.listeners()
	secret, secretErr := s.secret(getenv(secretVariable))
	errs = append(errs, err, secretErr)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	auth, err := phantom.New(s.options(secret, logger)...)
	return &config{listeners, auth}, err
}

// listeners reads -listen and -listen-for.
func (s *settings) listeners() ([]listener, error) {
	all := []listener{{address: s.listen}}
	var errs []error
	for _, entry := range strings.Fields(s.listenFor) {
		address, scopes, ok := strings.Cut(entry, "=")
		if !ok || !areScopes(scopes) {
			errs = append(errs, fmt.Errorf("-listen-for: %q is not address=scopes with commas between the scopes", entry))
		}
		all = append(all, listener{address, true, "/" + scopes})
	}
	for _, l := range all {
		host, _, err := net.SplitHostPort(l.address)
		ip := net.ParseIP(host)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%q is not an address such as 127.0.0.1:9090", l.address))
		case !s.beyondLoopback && host != "localhost" && !ip.IsLoopback():
			errs = append(errs, fmt.Errorf("%q can be reached from other machines: a client there would get its JWT; "+
				"with a network that only the proxy is in, say -insecure-http", l.address))
		}
	}
	return all, errors.Join(errs...)
}

// areScopes reports whether a question can be made of the list. An empty one
// stands for any valid token.
func areScopes(list string) bool {
	if list == "" {
		return true
	}
	for scope := range strings.SplitSeq(list, ",") {
		if scope == "" || strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"\/`, r) }) {
			return false
		}
	}
	return true
}

// secret returns the client secret, of the variable or of the file.
func (s *settings) secret(variable string) (string, error) {
	switch {
	case s.secretFile == "" && variable == "":
		return "", errors.New("-client-secret-file or " + secretVariable + " is required")
	case s.secretFile == "":
		return variable, nil
	case variable != "":
		return "", errors.New("-client-secret-file excludes " + secretVariable)
	}
	content, err := os.ReadFile(s.secretFile)
	if err != nil {
		return "", fmt.Errorf("-client-secret-file: %w", errors.Unwrap(err)) // not its name: it may be the secret
	}
	return strings.TrimRight(string(content), "\r\n"), nil
}

func (s *settings) options(secret string, logger *slog.Logger) []phantom.Option {
	opts := []phantom.Option{
		phantom.WithIssuer(s.issuer),
		phantom.WithAudience(strings.Fields(s.audience)...),
		phantom.WithClientAuth(phantom.ClientSecretBasic(s.clientID, secret)),
		phantom.WithMaxTTL(s.maxTTL),
		phantom.WithLogger(logger),
	}
	given := func(value string, option func(string) phantom.Option) {
		if value != "" {
			opts = append(opts, option(value))
		}
	}
	given(s.introspectionEndpoint, phantom.WithIntrospectionEndpoint)
	given(s.jwksURL, phantom.WithJWKSURL)
	given(s.jsonMember, phantom.WithJSONResponse)
	return opts
}
