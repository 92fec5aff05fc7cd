package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// This file holds uses of the package that look right at first and are wrong,
// the worst first: each must not compile, or fail when the program starts,
// rather than let somebody in later.

// notCompiling is Go code with auth, a *Middleware; tok, a *Token; ctx and mux.
var notCompiling = []struct{ mistake, code, compiler string }{
	{"a Middleware in place of a handler", `mux.Handle("/", auth)`, "does not implement http.Handler"},
	{"a wrapper in place of a handler", `mux.Handle("/", auth.RequireScopes("read"))`, "does not implement http.Handler"},
	{"a wrapper that wraps nothing", `mux.Handle("/", auth.Handler())`, "not enough arguments"},
	{"a token that was never verified", `_ = phantom.Token{text: "Bearer eyJ"}`, "text"},
	{"a token taken for granted", `tok := phantom.FromContext(ctx); _ = tok`, "assignment mismatch"},
	{"claims taken for granted", `c := phantom.Claims[map[string]any](ctx); _ = c`, "assignment mismatch"},
	{"claims of no type", `_, _ = phantom.Claims(ctx)`, "T"},
	{"claims changed", `tok.Subject() = "root"`, "assign"},
	{"a JWT in place of a token", `_ = phantom.NewContext(ctx, "eyJ")`, "string"},
	{"scopes as one requirement", `auth.Require("read")`, "phantom.Requirement"},
	{"a requirement that only says yes or no", `auth.Require(func(t *phantom.Token) bool { return true })`, "phantom.Requirement"},
	{"an issuer in place of an option", `_, _ = phantom.New("https://login.example.com")`, "does not implement phantom.Option"},
	{"an option that sets what it likes", `var _ phantom.Option = func(*phantom.Middleware) {}`, "does not implement phantom.Option"},
	{"an error thrown away", `auth = phantom.New()`, "assignment mismatch"},
	{"a shared secret as a verification key", `_ = phantom.StaticKeys([]byte("secret")...)`, "[]byte"},
	{"a secret alone", `_ = phantom.ClientSecretBasic("secret")`, "not enough arguments"},
	{"seconds", `_ = phantom.WithMaxTTL(1.5)`, "Duration"},
}

// None of these mistakes compiles, and the compiler says why.
func TestIncorrectUsesThatDoNotCompile(t *testing.T) {
	const packageDir = "incorrect"
	const parameters = "auth *phantom.Middleware, tok *phantom.Token, ctx context.Context, mux *http.ServeMux"
	var source strings.Builder
	source.WriteString(`package main

import (
	"context"
	"net/http"

	"github.com/phantom-token/phantom"
)

func use(` + parameters + `) {}

func main() {
`)
	first := strings.Count(source.String(), "\n") + 1
	for _, tc := range notCompiling {
		fmt.Fprintf(&source, "\t_ = func(%s) { %s }\n", parameters, tc.code)
	}
	source.WriteString("}\n")
	root, dir := must(os.Getwd()), t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("main.go", []byte(source.String()))
	overlay := write("overlay.json", must(json.Marshal(map[string]any{
		"Replace": map[string]string{filepath.Join(root, packageDir, "main.go"): file},
	})))
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-gcflags=-e",
		"-o", os.DevNull, "./"+packageDir)
	out, err := build.CombinedOutput()
	if err == nil {
		t.Fatal("all of it compiles")
	}
	said := map[int]string{}
	complaint := regexp.MustCompile(`(?m)^\S*main\.go:(\d+):\d+: (.*)$`)
	for _, line := range complaint.FindAllStringSubmatch(string(out), -1) {
		said[must(strconv.Atoi(line[1]))] += line[2] + "\n"
	}
	for i, tc := range notCompiling {
		if got := said[first+i]; !strings.Contains(got, tc.compiler) {
			t.Errorf("%s: %s: the compiler says %q, want something with %q", tc.mistake, tc.code, got, tc.compiler)
		}
		delete(said, first+i)
	}
	if len(said) > 0 {
		t.Errorf("the compiler complains of more than the mistakes: %q", said)
	}
}

// These mistakes panic when the program wires its handlers.
func TestIncorrectUsesThatPanicAtWiring(t *testing.T) {
	m := newAS(t).middleware()
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for _, tc := range []struct {
		mistake string
		wire    func() http.Handler
	}{
		{"a Middleware that New did not make", func() http.Handler { return new(phantom.Middleware).Handler(next) }},
		{"a nil Middleware, its error thrown away", func() http.Handler {
			m, _ := phantom.New()
			return m.Handler(next)
		}},
		{"a nil Middleware, optional", func() http.Handler { return (*phantom.Middleware)(nil).Optional(next) }},
		{"a nil Middleware with scopes", func() http.Handler { return (*phantom.Middleware)(nil).RequireScopes("read")(next) }},
		{"no next handler", func() http.Handler { return m.Handler(nil) }},
		{"no next handler, optional", func() http.Handler { return m.Optional(nil) }},
		{"no scopes", func() http.Handler { return m.RequireScopes()(next) }},
		{"an empty scope", func() http.Handler { return m.RequireScopes("")(next) }},
		{"two scopes in one text", func() http.Handler { return m.RequireScopes("read write")(next) }},
		{"any of no scopes", func() http.Handler { return m.Require(phantom.AnyScope())(next) }},
		{"a nil requirement", func() http.Handler { return m.Require(nil)(next) }},
		{"a nil requirement among others", func() http.Handler { return m.Require(phantom.AllScopes("read"), nil)(next) }},
	} {
		t.Run(tc.mistake, func(t *testing.T) {
			var h http.Handler
			defer func() {
				if recover() == nil || h != nil {
					t.Error("there is a handler")
				}
			}()
			h = tc.wire()
		})
	}
}

// New refuses these mistakes and names the option.
func TestIncorrectUsesThatNewRefuses(t *testing.T) {
	for _, tc := range []struct {
		mistake string
		option  string // that the error names
		opts    []phantom.Option
	}{
		{"no audience", "WithAudience", []phantom.Option{phantom.WithAudience()}},
		{"an empty audience from the environment", "WithAudience", []phantom.Option{phantom.WithAudience(os.Getenv("PHANTOM_TEST_UNSET"))}},
		{"an audience and none at once", "WithAudience", []phantom.Option{phantom.WithoutAudienceCheck()}},
		{"an empty secret from the environment", "WithClientAuth", []phantom.Option{phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, os.Getenv("PHANTOM_TEST_UNSET")))}},
		{"no TLS", "WithIntrospectionEndpoint", []phantom.Option{phantom.WithIntrospectionEndpoint("http://as.test/introspect")}},
		{"a relative URL", "WithJWKSURL", []phantom.Option{phantom.WithJWKSURL("/jwks")}},
		{"symmetric signatures", "WithAlgorithms", []phantom.Option{phantom.WithAlgorithms("RS256", "HS256")}},
		{"no signatures", "WithAlgorithms", []phantom.Option{phantom.WithAlgorithms("none")}},
		{"no keys", "WithKeySet", []phantom.Option{phantom.WithKeySet(phantom.StaticKeys())}},
		{"for ever, as others write it", "WithMaxTTL", []phantom.Option{phantom.WithMaxTTL(-1)}},
		{"unlimited, as others write it", "WithCacheSize", []phantom.Option{phantom.WithCacheSize(-1)}},
		{"no time limit, as others write it", "WithTimeout", []phantom.Option{phantom.WithTimeout(0)}},
		{"a leeway of hours", "WithLeeway", []phantom.Option{phantom.WithLeeway(2 * time.Hour)}},
		{"a percentage", "WithRefreshAhead", []phantom.Option{phantom.WithRefreshAhead(80)}},
		{"a nil option", "Option", []phantom.Option{nil}},
		{"a nil logger", "WithLogger", []phantom.Option{phantom.WithLogger(nil)}},
		{"a nil requirement", "WithRequirements", []phantom.Option{phantom.WithRequirements(nil)}},
	} {
		t.Run(tc.mistake, func(t *testing.T) {
			m, err := phantom.New(newAS(t).options(tc.opts...)...)
			var config *phantom.ConfigError
			if m != nil || !errors.As(err, &config) || config.Option != tc.option {
				t.Errorf("%v, %v, want an error that names %s", m, err, tc.option)
			}
		})
	}
}

// A handler without a token, or with a wrong type for the claims, gets an error
// and never half a value.
//
// Catalogue: P69.
func TestIncorrectUsesInAHandler(t *testing.T) {
	ctx := context.Background() // of a route without the middleware
	if tok, ok := phantom.FromContext(ctx); ok || tok != nil {
		t.Errorf("a token from nowhere: %v", tok)
	}
	if claims, err := phantom.Claims[map[string]any](ctx); claims != nil || !errors.Is(err, phantom.ErrNoToken) {
		t.Errorf("claims from nowhere: %v, %v", claims, err)
	}
	var into string // not a pointer to what the payload is
	if err := tokenWith(t, nil).Decode(&into); err == nil || into != "" {
		t.Errorf("decoded into %q, %v", into, err)
	}
}
