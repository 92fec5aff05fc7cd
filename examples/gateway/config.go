package main

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/mint"
	"github.com/phantom-token/phantom/phantomotel"
	"github.com/phantom-token/phantom/valkeystore"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/valkey-io/valkey-go"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
)

// config is what the flags and the variables say, what is wrong with that, and
// what follows from it. Mistakes quote what was given, except where it may be a
// secret in the wrong place: what is no flag, and the name of a secret's file.
type config struct {
	values    map[string]any
	mistakes  []error
	logger    *slog.Logger
	upstream  *url.URL
	public    []string     // paths
	tls       *certificate // nil: plain HTTP
	auth      *phantom.Middleware
	published map[string]http.Handler // by path: what verifies minted JWTs
	measured  http.Handler            // the metrics
}

// configure finds mistakes in flags, or else in files, or else of options.
func configure(args []string) *config {
	c := &config{values: map[string]any{}}
	c.parse(args)
	c.service()
	if len(c.mistakes) > 0 {
		return c
	}
	level := new(slog.LevelVar)
	_ = level.UnmarshalText([]byte(c.text("log-level"))) // it was checked
	c.logger = slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: level}))
	if c.text("log-format") == "text" {
		c.logger = slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: level}))
	}
	if c.text("tls-cert")+c.text("tls-key") != "" {
		c.tls = c.certificate("tls-cert", "tls-key")
	}
	opts := c.options()
	if len(c.mistakes) == 0 {
		auth, err := phantom.New(opts...)
		c.auth = auth
		c.translate(err)
	}
	return c
}

// service reads what clients want of the service.
func (c *config) service() {
	given := strings.TrimSuffix(c.text("upstream"), "/")
	u, err := url.Parse(given)
	c.upstream, c.public = u, c.words("public-paths")
	switch {
	case strings.Contains(given, "@"):
		c.fail("upstream", "has credentials") // not quoted, because of them
	case given != "" && (err != nil || u.Hostname() == "" || given != "http://"+u.Host && given != "https://"+u.Host):
		// With a path, requests for /../ would leave it.
		c.fail("upstream", "%q is not http or https with a host, a port and no more", given)
	}
	for _, path := range c.public {
		// No two ways to write it, and none that an upstream would clean.
		if u, err := url.Parse(path); err != nil || path[0] != '/' || u.RawPath != "" || u.JoinPath().EscapedPath() != path {
			c.fail("public-paths", "%q is not a path as clients send it", path)
		}
	}
	for _, scope := range c.words("scopes") { // scope-tokens (RFC 6749 section 3.3)
		if strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			c.fail("scopes", "%q is not a scope", scope)
		}
	}
}

// options returns the options for phantom.
func (c *config) options() []phantom.Option {
	opts := []phantom.Option{
		phantom.WithAudience(c.words("audience")...),
		phantom.WithMaxTTL(get[time.Duration](c, "max-ttl")),
		phantom.WithStaleIfError(get[time.Duration](c, "stale-if-error")),
		phantom.WithTimeout(get[time.Duration](c, "timeout")),
		phantom.WithMaxInFlight(get[int](c, "max-in-flight")),
		phantom.WithCacheSize(get[int](c, "cache-size")),
		phantom.WithLogger(c.logger),
		phantom.WithErrorHandler(rejected), c.metrics(),
	}
	for name, option := range map[string]func(string) phantom.Option{
		"issuer": phantom.WithIssuer, "introspection-endpoint": phantom.WithIntrospectionEndpoint,
		"jwks-url": phantom.WithJWKSURL, "json-member": phantom.WithJSONResponse, "client-subject": phantom.WithClientSubject,
	} {
		if value := c.text(name); value != "" {
			opts = append(opts, option(value))
		}
	}
	if get[bool](c, "insecure-http") {
		opts = append(opts, phantom.WithInsecureHTTP())
	}
	switch c.text("mode") {
	case "claims":
		opts = append(opts, phantom.WithoutJWT())
	case "exchange":
		form, err := url.ParseQuery(strings.Join(get[[]string](c, "exchange-param"), "&"))
		if err != nil {
			c.fail("exchange-param", "is not encoded as a form")
		}
		opts = append(opts, phantom.WithTokenExchange(c.text("token-endpoint"), form))
	case "mint":
		opts = append(opts, c.mint()...)
	}
	return append(append(opts, c.credentials()...), c.shared()...)
}

// metrics are served in the format of Prometheus.
func (c *config) metrics() phantom.Option {
	registry := prometheus.NewRegistry()
	exporter, err := exporter.New(exporter.WithRegisterer(registry))
	if err != nil {
		c.fail("metrics-listen", "%v", err)
	}
	c.measured = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return phantomotel.Instrument(phantomotel.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(exporter))))
}

func (c *config) mint() []phantom.Option {
	keys := c.keys("mint-key-file")
	if len(keys) == 0 {
		return nil // and the mistake is known
	}
	minter, err := mint.New(c.text("mint-issuer"), keys, mint.WithAudience(c.words("mint-audience")...))
	if err != nil {
		c.translate(err)
		return nil
	}
	u, _ := url.Parse(c.text("mint-issuer")) // mint.New has refused wrong ones
	path := strings.TrimSuffix(u.Path, "/")
	c.published = map[string]http.Handler{
		path + "/.well-known/jwks.json": minter, path + "/.well-known/openid-configuration": minter,
		"/.well-known/oauth-authorization-server" + path: minter,
	}
	return []phantom.Option{phantom.WithMinter(minter)}
}

// shared returns the options for what replicas share, proofs included.
func (c *config) shared() (opts []phantom.Option) {
	var proofs []dpop.Option
	if given := c.text("store"); given != "" {
		secret := c.secret("store-secret-file")
		if !strings.Contains(given, "://") {
			given = "valkey://" + strings.Replace(strings.ReplaceAll(given, ",", "&addr="), "&", "?", 1)
		}
		engine, err := valkey.ParseURL(given)
		switch {
		case err != nil: // which quotes it
			c.fail("store", "is not host:port, or a URL such as rediss://host:port")
		case engine.Password != "" && given != os.Getenv(variable("store")):
			c.fail("store", "has a password: set %s instead", variable("store"))
		case len(c.mistakes) == 0:
			store := valkeystore.New(engine)
			opts = append(opts, phantom.WithStore(store, []byte(secret)))
			proofs = append(proofs, dpop.WithReplayStore(store))
		}
	}
	if origin := c.text("dpop-origin"); origin != "" {
		binding, err := dpop.New(origin, proofs...)
		c.translate(err)
		opts = append(opts, phantom.WithBinding(binding))
	}
	return opts
}

// flagOf names the flag that sets an option of phantom, dpop or mint.
var flagOf = map[string]string{
	"WithIssuer": "issuer", "WithAudience": "audience", "WithIntrospectionEndpoint": "introspection-endpoint",
	"WithJWKSURL": "jwks-url", "WithClientAuth": "client-auth", "WithTimeout": "timeout", "WithMaxTTL": "max-ttl",
	"WithMaxInFlight": "max-in-flight", "WithStaleIfError": "stale-if-error", "WithCacheSize": "cache-size",
	"WithJSONResponse": "json-member", "WithClientSubject": "client-subject", "WithTokenExchange": "token-endpoint",
	"WithMinter": "mint-issuer", "mint.New": "mint-key-file", "mint.WithAudience": "mint-audience",
	"WithStore": "store-secret-file", "dpop.New": "dpop-origin",
}

// translate reports all mistakes of a constructor in terms of flags.
func (c *config) translate(err error) {
	joined, _ := err.(interface{ Unwrap() []error })
	for i := 0; joined != nil && i < len(joined.Unwrap()); i++ {
		if e := (*phantom.ConfigError)(nil); errors.As(joined.Unwrap()[i], &e) {
			name := cmp.Or(flagOf[e.Option], e.Option)
			if strings.HasPrefix(e.Reason, "the parameter ") { // of WithTokenExchange
				name = "exchange-param"
			}
			c.fail(name, "%s", strings.ReplaceAll(e.Reason, "WithInsecureHTTP", "-insecure-http"))
		}
	}
}

// credentials returns the options with which the gateway authenticates.
func (c *config) credentials() []phantom.Option {
	auth, id := phantom.NoClientAuth(), c.text("client-id")
	switch c.text("client-auth") {
	case "basic":
		auth = phantom.ClientSecretBasic(id, c.secret("client-secret-file"))
	case "post":
		auth = phantom.ClientSecretPost(id, c.secret("client-secret-file"))
	case "private_key_jwt":
		algorithm, signer := "RS256", append(c.keys("key-file"), mint.Key{})[0].Signer
		switch key := signer.(type) {
		case *ecdsa.PrivateKey:
			algorithm = fmt.Sprintf("ES%d", min(key.Params().BitSize, 512)) // of P-521, too
		case ed25519.PrivateKey:
			algorithm = "EdDSA"
		}
		auth = phantom.PrivateKeyJWT(id, c.text("key-id"), algorithm, signer)
	case "tls":
		t := &transport{Transport: phantom.NewTransport(), certificate: c.certificate("cert-file", "key-file")}
		t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return t.get(nil)
		}
		client := &http.Client{Transport: t}
		return []phantom.Option{phantom.WithClientAuth(phantom.TLSClientAuth(id)), phantom.WithHTTPClient(client)}
	}
	return []phantom.Option{phantom.WithClientAuth(auth)}
}

// read reads the file of a flag. Its name may be a secret: no mistake has it.
func (c *config) read(name string) []byte {
	content, err := os.ReadFile(c.text(name))
	if c.text(name) == "" {
		c.fail(name, "is required too")
	} else if err != nil {
		c.fail(name, "%v", errors.Unwrap(err))
	}
	return content
}

// secret reads a secret from the file of a flag, or from a variable.
func (c *config) secret(name string) string {
	own := variable(strings.TrimSuffix(name, "-file"))
	secret := os.Getenv(own)
	if c.text(name) != "" && secret != "" {
		c.fail(name, "excludes %s", own)
	} else if c.text(name) != "" {
		secret = strings.TrimRight(string(c.read(name)), "\r\n")
	}
	if secret == "" {
		c.fail(name, "no secret there, nor in %s", own)
	}
	return secret
}

// keys reads private keys, in the order of the file.
func (c *config) keys(name string) (keys []mint.Key) {
	block, rest := pem.Decode(c.read(name))
	if block == nil && rest != nil {
		c.fail(name, "has no private key in PEM; see openssl genpkey")
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok {
			c.fail(name, "block %d, %q, is no private key in PKCS #8; see openssl pkcs8 -topk8 -nocrypt", len(keys)+1, block.Type)
			return nil
		}
		keys = append(keys, mint.Key{Signer: signer})
	}
	return keys
}

// A certificate is read again for each handshake. While that fails, the one of
// before is used.
type certificate struct {
	cert, key string // files
	current   atomic.Pointer[tls.Certificate]
}

func (c *config) certificate(cert, key string) *certificate {
	chain, private := c.read(cert), c.read(key)
	pair, err := tls.X509KeyPair(chain, private)
	if err != nil && chain != nil && private != nil {
		c.fail(cert, "with -%s: %v", key, err)
	}
	own := &certificate{cert: c.text(cert), key: c.text(key)}
	own.current.Store(&pair)
	return own
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if pair, err := tls.LoadX509KeyPair(c.cert, c.key); err == nil {
		c.current.Store(&pair)
	}
	return c.current.Load(), nil
}

// A transport leaves its idle connections when one of the files has changed.
type transport struct {
	*http.Transport
	*certificate
	changed atomic.Int64
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	var now int64
	for _, file := range []string{t.cert, t.key} {
		if info, err := os.Stat(file); err == nil {
			now += info.ModTime().UnixNano()
		}
	}
	if t.changed.Swap(now) != now {
		t.CloseIdleConnections()
	}
	return t.Transport.RoundTrip(r)
}
