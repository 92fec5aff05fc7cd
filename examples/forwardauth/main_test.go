package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/forwardauth"
	"github.com/phantom-token/phantom/phantomtest"
)

// The documentation's configurations are the files that are tested.
func TestDocumentationHasTheFilesAsTheyAre(t *testing.T) {
	doc, err := os.ReadFile("../../docs/forward-auth.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{
		"nginx.conf", "nginx_headers.conf", "haproxy.cfg", "haproxy.lua", "Caddyfile", "envoy.yaml", "traefik.yml", "kubernetes.yaml",
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(doc), "\n"+string(text)+"```\n") {
			t.Errorf("%s differs from its block in docs/forward-auth.md", file)
		}
	}
}

// A question that the client's path cannot change.
func TestAddressOfAQuestionReadsNoPath(t *testing.T) {
	as := phantomtest.New()
	auth, err := phantom.New(append(as.Options(), phantom.WithLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		t.Fatal(err)
	}
	h := always("/a", forwardauth.Handler(auth))
	for _, target := range []string{"/", "/a", "/b", "/b/c", "//", "/../b", "/?a", "/%2F"} {
		for scope, want := range map[string]int{"a": http.StatusOK, "b": http.StatusForbidden} {
			r := httptest.NewRequest(http.MethodGet, target, nil)
			r.Header.Set("Authorization", "Bearer "+as.Issue(map[string]any{"scope": scope}))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%s with scope %s: status %d", target, scope, w.Code)
			}
		}
	}
}

func TestMistakesAreRefusedAtTheStart(t *testing.T) {
	const secret = "do-not-show-me"
	good := []string{"-issuer", "https://as.test", "-audience", "https://rs.test", "-client-id", "proxy"}
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"every address", []string{"-listen", ":9090"}, "can be reached from other machines"},
		{"any IPv4 address", []string{"-listen", "0.0.0.0:9090"}, "can be reached from other machines"},
		{"another machine's name", []string{"-listen", "proxy.test:9090"}, "can be reached from other machines"},
		{"every address, for a question", []string{"-listen-for", ":9091=a"}, "can be reached from other machines"},
		{"no address", []string{"-listen", "9090"}, "is not an address"},
		{"no scopes", []string{"-listen-for", "127.0.0.1:9091"}, "is not address=scopes"},
		{"an empty scope", []string{"-listen-for", "127.0.0.1:9091=a,,b"}, "is not address=scopes"},
		{"a slash", []string{"-listen-for", "127.0.0.1:9091=a/b"}, "is not address=scopes"},
		{"two secrets", []string{"-client-secret-file", "x"}, "excludes PHANTOM_CLIENT_SECRET"},
		{"no flag", []string{secret}, "an argument is not a flag"},
		{"no issuer", []string{"-issuer="}, "-issuer is required"},
		{"no audience", []string{"-audience", " "}, "-audience is required"},
		{"no client", []string{"-client-id="}, "-client-id is required"},
		{"another issuer", []string{"-issuer", "as.test"}, "WithIssuer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			getenv := func(name string) string { return map[string]string{secretVariable: secret}[name] }
			code := run(context.Background(), append(append([]string{}, good...), tc.args...), getenv, &out, &out)
			if code != 2 || !strings.Contains(out.String(), tc.want) || strings.Contains(out.String(), secret) {
				t.Errorf("exit status %d, output %q", code, out.String())
			}
		})
	}
}

// What is missing is reported together, and help is no mistake.
func TestMissingFlagsAndHelp(t *testing.T) {
	for _, tc := range []struct {
		args []string
		code int
		want []string
	}{
		{nil, 2, []string{"-issuer is required", "-audience is required", "-client-id is required", secretVariable}},
		{[]string{"-client-secret-file", "hunter2"}, 2, []string{"-client-secret-file: no such file"}},
		{[]string{"-h"}, 0, []string{"Usage of forwardauth", "-issuer URL"}},
	} {
		var out bytes.Buffer
		code := run(context.Background(), tc.args, func(string) string { return "" }, &out, &out)
		for _, want := range tc.want {
			if code != tc.code || !strings.Contains(out.String(), want) {
				t.Errorf("%q: exit status %d, want %d and %q in %q", tc.args, code, tc.code, want, out.String())
			}
		}
		if strings.Contains(out.String(), "hunter2") || strings.Contains(out.String(), "help requested") {
			t.Errorf("%q: %q", tc.args, out.String())
		}
	}
}
