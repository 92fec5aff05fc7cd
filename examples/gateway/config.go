package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/phantom-token/phantom"
)

// secretVariable may hold the client secret, instead of a file.
const secretVariable = "PHANTOM_CLIENT_SECRET"

// variable is the name of a flag in the environment.
func variable(flagName string) string {
	return "PHANTOM_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// settings are the flags, as they were given.
type settings struct {
	listen, healthListen, tlsCert, tlsKey string
	upstream                              string
	upstreamTimeout, shutdownTimeout      time.Duration

	issuer, introspectionEndpoint          string
	audience, scopes                       string
	clientAuth, clientID, clientSecretFile string
	maxTTL                                 time.Duration
	modeSettings
}

// config is what follows from them.
type config struct {
	listen, healthListen             string
	certificate                      *tls.Certificate // nil: plain HTTP
	upstream                         *url.URL
	upstreamTimeout, shutdownTimeout time.Duration
	auth                             *phantom.Middleware
	scopes                           []string
	published                        *publication // nil: nothing
}

func flags(s *settings) *flag.FlagSet {
	f := flag.NewFlagSet("gateway", flag.ContinueOnError)
	f.SetOutput(io.Discard) // run prints what is wrong
	f.StringVar(&s.listen, "listen", "127.0.0.1:8080", "`address` to serve clients on")
	f.StringVar(&s.healthListen, "health-listen", "127.0.0.1:8081",
		"`address` to serve /livez and /readyz on, without tokens")
	f.StringVar(&s.tlsCert, "tls-cert", "", "PEM `file` with the certificate chain for clients; plain HTTP without")
	f.StringVar(&s.tlsKey, "tls-key", "", "PEM `file` with its private key")
	f.StringVar(&s.upstream, "upstream", "", "`URL` of the service that gets the requests, without a path; required")
	f.DurationVar(&s.upstreamTimeout, "upstream-timeout", time.Minute,
		"how long its answer may take to begin; 0 for any `time`")
	f.DurationVar(&s.shutdownTimeout, "shutdown-timeout", 30*time.Second,
		"how much `time` requests get to finish after SIGTERM")
	f.StringVar(&s.issuer, "issuer", "", "issuer `URL` of the authorization server; required")
	f.StringVar(&s.introspectionEndpoint, "introspection-endpoint", "", "`URL`; from the issuer's metadata by default")
	f.StringVar(&s.audience, "audience", "", "`values`, separated by spaces, of which a token must be for one; required")
	f.StringVar(&s.scopes, "scopes", "", "`scopes`, separated by spaces, that every request needs")
	f.StringVar(&s.clientAuth, "client-auth", "basic",
		"`method` of client authentication at the authorization server: basic, post or none")
	f.StringVar(&s.clientID, "client-id", "", "`identifier` of the gateway as a client")
	f.StringVar(&s.clientSecretFile, "client-secret-file", "", "`file` with its secret; or set "+secretVariable)
	f.DurationVar(&s.maxTTL, "max-ttl", time.Minute, "the longest `time` that a revoked token can go unnoticed")
	modeFlags(f, &s.modeSettings)
	return f
}

func usage() string {
	var b strings.Builder
	f := flags(new(settings))
	f.SetOutput(&b)
	b.WriteString("Usage of gateway; each flag is also a variable, such as " +
		variable("client-id") + " for -client-id:\n")
	f.PrintDefaults()
	return b.String()
}

// configure reads the flags and the environment. It returns all the mistakes
// at once. They quote what was given, but never a secret.
func configure(args []string, getenv func(string) string, logger *slog.Logger) (*config, []error) {
	var m mistakes
	s := m.parse(args, getenv)

	c := &config{
		listen: s.listen, healthListen: s.healthListen,
		upstreamTimeout: s.upstreamTimeout, shutdownTimeout: s.shutdownTimeout,
		scopes: strings.Fields(s.scopes),
	}
	m.checkAddress("listen", c.listen)
	m.checkAddress("health-listen", c.healthListen)
	c.certificate = m.certificate(s)
	c.upstream = m.upstream(s)
	m.checkTime("upstream-timeout", c.upstreamTimeout)
	m.checkTime("shutdown-timeout", c.shutdownTimeout)
	for _, scope := range c.scopes {
		if !isScope(scope) {
			m.add("scopes", "%q is not a scope", scope)
		}
	}
	source, published := m.source(&s.modeSettings)
	c.published = published
	c.auth = m.middleware(s, source, getenv(secretVariable), logger)
	return c, m
}

// mistakes collects what is wrong with a configuration.
type mistakes []error

func (m *mistakes) add(flagName, format string, args ...any) {
	*m = append(*m, fmt.Errorf("-%s (%s): %s", flagName, variable(flagName), fmt.Sprintf(format, args...)))
}

// parse reads the environment, then the flags. It goes on after a mistake, to
// report them all.
func (m *mistakes) parse(args []string, getenv func(string) string) *settings {
	s := new(settings)
	f := flags(s)
	f.VisitAll(func(each *flag.Flag) {
		if value := getenv(variable(each.Name)); value != "" {
			if err := f.Set(each.Name, value); err != nil {
				*m = append(*m, fmt.Errorf("%s: invalid value %q: %w", variable(each.Name), value, err))
			}
		}
	})
	for rest := args; len(rest) > 0; {
		err := f.Parse(rest)
		left := f.Args()
		stuck := len(left) == len(rest)
		switch {
		case err != nil:
			*m = append(*m, err)
		case len(left) > 0:
			// Not quoted: it may be the secret, behind a flag that does not
			// exist.
			*m = append(*m, fmt.Errorf("argument %d is not a flag", len(args)-len(left)+1))
			stuck = true
		}
		if stuck {
			left = left[1:]
		}
		rest = left
	}
	return s
}

func (m *mistakes) checkAddress(flagName, address string) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		m.add(flagName, "%q is not an address such as 127.0.0.1:8080 or :8080", address)
	}
}

func (m *mistakes) checkTime(flagName string, d time.Duration) {
	if d < 0 {
		m.add(flagName, "%v is negative", d)
	}
}

func (m *mistakes) certificate(s *settings) *tls.Certificate {
	switch {
	case s.tlsCert == "" && s.tlsKey == "":
		return nil
	case s.tlsCert == "":
		m.add("tls-cert", "is required with -tls-key")
		return nil
	case s.tlsKey == "":
		m.add("tls-key", "is required with -tls-cert")
		return nil
	}
	certificate, err := tls.LoadX509KeyPair(s.tlsCert, s.tlsKey)
	if err != nil {
		m.add("tls-cert", "%v", err)
	}
	return &certificate
}

func (m *mistakes) upstream(s *settings) *url.URL {
	u, err := url.Parse(s.upstream)
	switch {
	case s.upstream == "":
		m.add("upstream", "is required")
	case strings.Contains(s.upstream, "@"):
		m.add("upstream", "has credentials") // not quoted, because of them
	case err != nil:
		m.add("upstream", "%q is not a URL", s.upstream)
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		m.add("upstream", "%q is not an absolute http or https URL", s.upstream)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		// With a path, requests for /../ would leave it.
		m.add("upstream", "%q has more than scheme, host and port", s.upstream)
	}
	return u
}

// isScope reports whether s is a scope-token (RFC 6749 section 3.3).
func isScope(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}

// middleware returns what checks the tokens.
func (m *mistakes) middleware(
	s *settings, source []phantom.Option, secret string, logger *slog.Logger,
) *phantom.Middleware {
	opts := append([]phantom.Option{
		phantom.WithClientAuth(m.clientAuth(s, secret)),
		phantom.WithMaxTTL(s.maxTTL),
		phantom.WithLogger(logger),
	}, source...)
	given := func(value string, option func(string) phantom.Option) {
		if value != "" {
			opts = append(opts, option(value))
		}
	}
	given(s.issuer, phantom.WithIssuer)
	given(s.introspectionEndpoint, phantom.WithIntrospectionEndpoint)
	if audience := strings.Fields(s.audience); len(audience) > 0 {
		opts = append(opts, phantom.WithAudience(audience...))
	}
	auth, err := phantom.New(opts...)
	m.translateAll(err)
	return auth
}

func (m *mistakes) clientAuth(s *settings, secret string) phantom.ClientAuth {
	before := len(*m)
	if s.clientSecretFile != "" {
		if secret != "" {
			m.add("client-secret-file", "excludes %s", secretVariable)
		}
		content, err := os.ReadFile(s.clientSecretFile)
		if err != nil {
			m.add("client-secret-file", "%v", err)
		}
		secret = strings.TrimRight(string(content), "\r\n")
		if err == nil && secret == "" {
			m.add("client-secret-file", "%q is empty", s.clientSecretFile)
		}
	}
	switch s.clientAuth {
	case "none":
		if s.clientID != "" || secret != "" {
			m.add("client-auth", `"none" excludes -client-id and a secret`)
		}
	case "basic", "post":
		if s.clientID == "" {
			m.add("client-id", "is required")
		}
		if secret == "" && s.clientSecretFile == "" {
			m.add("client-secret-file", "or %s is required", secretVariable)
		}
	default:
		m.add("client-auth", "%q is not basic, post or none", s.clientAuth)
	}
	switch {
	case len(*m) > before || s.clientAuth == "none":
		return phantom.NoClientAuth()
	case s.clientAuth == "post":
		return phantom.ClientSecretPost(s.clientID, secret)
	}
	return phantom.ClientSecretBasic(s.clientID, secret)
}
