package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An entry is a flag; in the environment, -client-id is PHANTOM_CLIENT_ID. arg
// lists its values if there are few. when names another flag and those of its
// values that the flag is for, with an exclamation mark if it is required then.
// Without a value by default, an entry is the title of those that follow.
type entry struct {
	name, arg   string
	value       any // by default
	usage, when string
}

var table = []entry{
	{"Clients and the service:", "", nil, "", ""},
	{"listen", "address", "127.0.0.1:8080", "serve them here", ""},
	{"tls-cert", "file", "", "certificate chain (PEM), read again when it changes; plain HTTP without", ""},
	{"tls-key", "file", "", "its private key", ""},
	{"upstream", "URL", "", "its scheme, host and port; required", "!"},
	{"upstream-timeout", "time", time.Minute, "how long its answer may take to begin; 0 for any time", ""},
	{"public-paths", "paths", "", "that need no token, exactly as they are sent, separated by spaces", ""},
	{"Tokens:", "", nil, "", ""},
	{"issuer", "URL", "", "of the authorization server; required", "!"},
	{"audience", "values", "", "of which a token must be for one, separated by spaces; required", "!"},
	{"scopes", "scopes", "", "that every request needs, separated by spaces", ""},
	{"dpop-origin", "URL", "", "take bound tokens (RFC 9449); the scheme and host that clients use", ""},
	{"max-ttl", "time", time.Minute, "the longest that a revoked token can go unnoticed", ""},
	{"stale-if-error", "time", time.Duration(0), "so much longer while the server gives no answer", ""},
	{"cache-size", "number", 10_000, "of tokens that are remembered", ""},
	{"store", "address", "", "of Valkey or Redis: host:port, several with commas, or rediss://host:port", ""},
	{"store-secret-file", "file", "", "the same 32 bytes or more everywhere; or PHANTOM_STORE_SECRET has them", ""},
	{"Authorization server:", "", nil, "", ""},
	{"introspection-endpoint", "URL", "", "by default from its metadata", ""},
	{"jwks-url", "URL", "", "of its keys; by default from its metadata", "mode jwt exchange"},
	{"insecure-http", "", false, "permit plain http to it, beyond the loopback interface", ""},
	{"timeout", "time", 3 * time.Second, "of a lookup", ""},
	{"max-in-flight", "number", 64, "of lookups at once", ""},
	{"client-auth", "basic|post|private_key_jwt|tls|none", "basic", "how the gateway authenticates", ""},
	{"client-id", "id", "", "of the gateway as a client", "client-auth basic post private_key_jwt tls!"},
	{"client-secret-file", "file", "", "or PHANTOM_CLIENT_SECRET has the secret", "client-auth basic post"},
	{"key-file", "file", "", "private key (PEM; for private_key_jwt PKCS #8)", "client-auth private_key_jwt tls!"},
	{"key-id", "kid", "", "of that key", "client-auth private_key_jwt"},
	{"cert-file", "file", "", "certificate (PEM); it and its key are read again when they change", "client-auth tls!"},
	{"The JWT for the service:", "", nil, "", ""},
	{"mode", "jwt|mint|exchange|claims", "jwt", "from introspection, by our key, by token exchange, or none", ""},
	{"json-member", "name", "", "that holds the JWT, for servers that answer in JSON", "mode jwt"},
	{"client-subject", "prefix", "", "of the client's id, as the subject of tokens that have none", ""},
	{"token-endpoint", "URL", "", "by default from the metadata", "mode exchange"},
	{"exchange-param", "form", []string(nil), "such as audience=https://orders.internal; again for more", "mode exchange"},
	{"mint-issuer", "URL", "", "of our JWTs; its metadata and keys are served, without a token", "mode mint!"},
	{"mint-key-file", "file", "", "private keys (PEM, PKCS #8): the first signs, all are published", "mode mint!"},
	{"mint-audience", "values", "", "that may take our JWTs, separated by spaces", "mode mint!"},
	{"Operators:", "", nil, "", ""},
	{"health-listen", "address", "127.0.0.1:8081", "serve /livez and /readyz here", ""},
	{"forget-listen", "address", "127.0.0.1:8082", "serve POST /forget and /backchannel-logout here", ""},
	{"metrics-listen", "address", "127.0.0.1:8083", "serve metrics for Prometheus here", ""},
	{"log-level", "debug|info|warn|error", "info", "requests are logged at info", ""},
	{"log-format", "json|text", "json", "", ""},
	{"drain", "time", 5 * time.Second, "after SIGTERM: not ready any more, but still taking requests", ""},
	{"shutdown-timeout", "time", 30 * time.Second, "then: how much longer requests may take", ""},
}

func variable(name string) string {
	return "PHANTOM_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// usage is what -h prints.
func usage() string {
	text := "Usage of gateway; each flag is also a variable, such as PHANTOM_CLIENT_ID for -client-id.\n"
	for _, e := range table {
		if e.value == nil {
			text += "\n" + e.name + "\n"
			continue
		}
		line := fmt.Sprintf("  %-31s %s (%v)", "-"+e.name+" "+e.arg, e.usage, e.value)
		text += strings.TrimSuffix(strings.TrimSuffix(line, " ()"), " ([])") + "\n"
	}
	return text
}

// get returns the value of a flag. T is the type of its default.
func get[T any](c *config, name string) T { return c.values[name].(T) }

func (c *config) text(name string) string    { return get[string](c, name) }
func (c *config) words(name string) []string { return strings.Fields(c.text(name)) }

func (c *config) fail(name, format string, args ...any) {
	c.mistakes = append(c.mistakes, fmt.Errorf("-%s (%s): %s", name, variable(name), fmt.Sprintf(format, args...)))
}

// parse reads the variables, then the flags. What is empty is not set.
func (c *config) parse(args []string) {
	f := flag.NewFlagSet("gateway", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	for _, e := range table {
		c.values[e.name] = e.value
		c.set(e, os.Getenv(variable(e.name)))
		define := f.Func
		if e.value == false {
			define = f.BoolFunc
		}
		define(e.name, "", func(text string) error { c.set(e, text); return nil })
	}
	err := f.Parse(args)
	switch at := len(args) - f.NArg(); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage())
		os.Exit(0)
	case err != nil || f.NArg() > 0: // not quoted, as the error would
		c.mistakes = []error{fmt.Errorf("argument %d or the one behind it is no flag, or has no value: see gateway -h", at)}
	default:
		for _, e := range table {
			c.check(e)
		}
	}
}

func (c *config) set(e entry, text string) {
	var err error
	value := any(text)
	switch e.value.(type) {
	case time.Duration:
		value, err = time.ParseDuration(text)
	case int:
		value, err = strconv.Atoi(text)
	case bool:
		value, err = strconv.ParseBool(text)
	case []string:
		value = append(get[[]string](c, e.name), text)
	}
	if text != "" && err != nil {
		c.fail(e.name, "is no value such as %v", e.value)
	} else if text != "" {
		c.values[e.name] = value
	}
}

// check checks the words, and which flags go together.
func (c *config) check(e entry) {
	if words := strings.Split(e.arg, "|"); len(words) > 1 && !slices.Contains(words, c.text(e.name)) {
		c.fail(e.name, "%q is not %s", c.text(e.name), e.arg)
	}
	when, isRequired := strings.CutSuffix(e.when, "!")
	isFor, with := true, ""
	if other, values, _ := strings.Cut(when, " "); other != "" {
		isFor, with = slices.Contains(strings.Fields(values), c.text(other)), " with -"+other+" "+c.text(other)
	}
	switch isGiven := fmt.Sprint(c.values[e.name]) != fmt.Sprint(e.value); {
	case isFor && isRequired && !isGiven:
		c.fail(e.name, "is required%s", with)
	case !isFor && isGiven:
		c.fail(e.name, "is of no use%s", with)
	}
}
