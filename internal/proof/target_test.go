package proof_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/phantom-token/phantom/internal/proof"
)

// Catalogue: E6.
func TestTargetsAreComparedInTheirNormalForm(t *testing.T) {
	const want = "https://api.example.com/a~b/C%2Fd"
	for _, same := range []string{
		want,
		want + "?x=1", want + "#f", want + "?x#f", want + "#f?x", want + "?",
		"HTTPS://API.example.COM/a~b/C%2Fd",
		"https://api.example.com:443/a~b/C%2Fd", "https://api.example.com:/a~b/C%2Fd",
		"https://api.example.com/a%7Eb/C%2Fd", "https://api.example.com/a%7eb/%43%2fd",
	} {
		if got, ok := proof.Normalize(same); got != want || !ok {
			t.Errorf("%s: %s, %v", same, got, ok)
		}
	}
	for _, other := range []string{
		"http://api.example.com/a~b/C%2Fd", "https://api.example.com:80/a~b/C%2Fd", "https://api.example.com:8443/a~b/C%2Fd",
		"https://api.example.com/a~b/c%2Fd", "https://api.example.com/a~b/C/d", "https://api.example.com/a~b/C%2Fd/",
		"https://api.example.com/a~b//C%2Fd", "https://api.example.com/a~b/./C%2Fd", "https://api.example.com/x/../a~b/C%2Fd",
		"https://api.example.com./a~b/C%2Fd", "https://api.example.org/a~b/C%2Fd", "https://api.example.com/a%257Eb/C%2Fd",
	} {
		if got, ok := proof.Normalize(other); got == want || !ok {
			t.Errorf("%s: %s, %v", other, got, ok)
		}
	}
}

func TestAnEmptyPathIsASlash(t *testing.T) {
	for _, uri := range []string{
		"https://h", "https://h/", "https://h:/", "https://h?q", "https://h#f", "https://h:443", "https://H:443/?q",
	} {
		if got, ok := proof.Normalize(uri); got != "https://h/" || !ok {
			t.Errorf("%s: %s, %v", uri, got, ok)
		}
	}
}

func TestWhatIsNoTargetIsRefused(t *testing.T) {
	for _, uri := range []string{
		"", "/", "//h/", "h/", "https:", "https:/h", "https://", "https:///", "https://:443/", "https://?q", "ftp://h/",
		"https://user@h/", "https://user:pass@h/", "https://h\\@evil/", "https://h /", "https://hé/", "ws://h/", " https://h/",
		"https://h/%", "https://h/a%3", "https://h/%2%44", "https://h/%zz", "urn:x", "https://h::443/", "https://h:443:443/", "https://h::/", "https://::1/", "https://\u212Aube/",
	} {
		if got, ok := proof.Normalize(uri); ok || got != "" {
			t.Errorf("%q: %q", uri, got)
		}
	}
}

func TestThePathIsThatOfTheRequestLine(t *testing.T) {
	for _, tc := range []struct{ uri, want string }{
		{"/", "/"},
		{"/a?b", "/a"},
		{"/a%2Fb?c?d", "/a%2Fb"},
		{"//x/y", "//x/y"}, // a path, not a host
		{"/a#b", "/a#b"},   // no client sends a fragment
		{"/http://h/x", "/http://h/x"},
		{"*", ""},
		{"http://h/a?b", "/a"},
		{"HTTP://h", ""},
		{"https://h?/x", ""},
		{"http://h//x", "//x"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/elsewhere", nil)
		r.RequestURI = tc.uri
		if got, ok := proof.Path(r); got != tc.want || !ok {
			t.Errorf("%s: %q, %v, want %q", tc.uri, got, ok, tc.want)
		}
	}
	r := httptest.NewRequest(http.MethodConnect, "/", nil)
	r.RequestURI = "api.example.com:443"
	if path, ok := proof.Path(r); ok {
		t.Errorf("CONNECT: %q", path)
	}
	made, _ := http.NewRequest(http.MethodGet, "https://h/a%2fb?c", nil)
	if path, ok := proof.Path(made); path != "/a%2fb" || !ok {
		t.Errorf("without a request line: %q, %v", path, ok)
	}
}

// A request line that net/http reads otherwise has no path: a proof for one
// would open another.
func TestThePathIsTheOneThatIsServed(t *testing.T) {
	for _, tc := range []struct {
		uri string
		ok  bool
	}{
		{"http://h/orders", true},
		{"HTTPS://u:p@h:1/orders", true},
		{"http:///orders", true},
		{"http:////orders", true},
		{"/admin/http://h/orders", true},
		{"http:/admin/://h/orders", false},
		{"a:/admin/://h/orders", false},
		{"a:/admin/http://h/orders", false},
		{"http:a://h/orders", false},
		{"a://h/orders", false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/elsewhere", nil)
		served, err := url.ParseRequestURI(tc.uri)
		if err != nil {
			t.Fatal(err)
		}
		r.RequestURI, r.URL = tc.uri, served
		got, ok := proof.Path(r)
		if ok != tc.ok || ok && got != served.EscapedPath() {
			t.Errorf("%s: %q, %v; served is %q", tc.uri, got, ok, served.EscapedPath())
		}
	}
}

// A "#" or "?" in the path of a request is no end of it, as it would be in a
// URI: the proof must be for the whole path.
func TestJoinKeepsTheWholePath(t *testing.T) {
	for _, tc := range []struct{ path, want string }{
		{"", "https://h/v1/"},
		{"/", "https://h/v1/"},
		{"/a#b", "https://h/v1/a#b"},
		{"/a%3fb", "https://h/v1/a%3Fb"},
		{"/%7e", "https://h/v1/~"},
	} {
		if got, ok := proof.Join("https://h/v1", tc.path); got != tc.want || !ok {
			t.Errorf("%s: %s, want %s", tc.path, got, tc.want)
		}
	}
	if got, ok := proof.Join("https://h", "/%2%44"); ok {
		t.Errorf("a path that encodes nothing: %s", got)
	}
}
