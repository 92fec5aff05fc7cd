package resource_test

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
	"github.com/phantom-token/phantom/resource"
)

// least is metadata with no more than what is required.
func least(id string) resource.Metadata {
	return resource.Metadata{Resource: id, AuthorizationServers: []string{"https://as.test"}}
}

func handler(t *testing.T, m resource.Metadata) *resource.Handler {
	t.Helper()
	h, err := resource.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func send(h http.Handler, method, url string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, url, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// The path is the resource's after the well-known one, and a mux that has it
// serves the metadata there, with the resource byte for byte.
//
// Catalogue: F7, F8.
func TestMetadataAreWhereClientsLook(t *testing.T) {
	const wellKnown = "/.well-known/oauth-protected-resource"
	for _, tc := range []struct{ resource, origin, path string }{
		{"https://h.test/mcp", "https://h.test", "/mcp"},
		{"https://h.test", "https://h.test", ""},
		{"https://h.test/", "https://h.test", ""},
		{"https://h.test/mcp/", "https://h.test", "/mcp/"},
		{"https://h.test:8443/a/b", "https://h.test:8443", "/a/b"},
		{"https://h.test/a%2Fb", "https://h.test", "/a%2Fb"},
		{"https://h.test/a%2fb", "https://h.test", "/a%2fb"},
		{"https://h.test/%7Bid%7D", "https://h.test", "/%7Bid%7D"},
		{"https://h.test/a&b;c=d,e@f:g$h!i*j'(k)", "https://h.test", "/a&b;c=d,e@f:g$h!i*j'(k)"},
		{"https://h.test/caf%C3%A9", "https://h.test", "/caf%C3%A9"},
		{"http://127.0.0.1:8080/mcp", "http://127.0.0.1:8080", "/mcp"},
		{"http://localhost/mcp", "http://localhost", "/mcp"},
		{"http://[::1]:80/mcp", "http://[::1]:80", "/mcp"},
	} {
		t.Run(tc.resource, func(t *testing.T) {
			h := handler(t, least(tc.resource))
			if want := wellKnown + tc.path; h.Path() != want || h.URL() != tc.origin+want {
				t.Errorf("%s at %s, want %s at %s", h.Path(), h.URL(), want, tc.origin)
			}
			mux := http.NewServeMux()
			mux.Handle(h.Path(), h)
			w := send(mux, http.MethodGet, h.URL())
			var got struct{ Resource string }
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Resource != tc.resource {
				t.Errorf("%d %s, %v", w.Code, w.Body, err)
			}
			as := phantomtest.New()
			if _, err := phantom.New(append(as.Options(), phantom.WithResourceMetadataURL(h.URL()))...); err != nil {
				t.Error(err)
			}
		})
	}
}

// Catalogue: F8.
func TestMembersAreThoseThatAreSet(t *testing.T) {
	const required = `"authorization_servers":["https://as.test"],"bearer_methods_supported":["header"]`
	for _, tc := range []struct {
		name   string
		change func(m *resource.Metadata)
		want   string
	}{
		{"least", func(*resource.Metadata) {}, `{` + required + `,"resource":"https://h.test/mcp"}`},
		{"empty lists", func(m *resource.Metadata) {
			m.Scopes, m.DPoPAlgorithms, m.Extra = []string{}, []string{}, map[string]any{}
		}, `{` + required + `,"resource":"https://h.test/mcp"}`},
		{"all", func(m *resource.Metadata) {
			m.Name, m.Documentation = `<Orders> & "more"`, "https://docs.test/api?v=2#auth"
			m.Scopes, m.DPoPAlgorithms = []string{"a", "b:c"}, []string{"ES256", "EdDSA"}
			m.DPoPRequired, m.CertificateBound = true, true
			m.AuthorizationServers = []string{"https://as.test/", "http://localhost:8080/realm"}
		}, `{"authorization_servers":["https://as.test/","http://localhost:8080/realm"],` +
			`"bearer_methods_supported":["header"],"dpop_bound_access_tokens_required":true,` +
			`"dpop_signing_alg_values_supported":["ES256","EdDSA"],"resource":"https://h.test/mcp",` +
			`"resource_documentation":"https://docs.test/api?v=2#auth","resource_name":"<Orders> & \"more\"",` +
			`"scopes_supported":["a","b:c"],"tls_client_certificate_bound_access_tokens":true}`},
		{"extra", func(m *resource.Metadata) {
			m.Extra = map[string]any{
				"resource_name#de": "Bestellungen", "x_zero": 0, "x_false": false, "x_object": map[string]any{"a": nil},
				"x_nil": nil, "x_text": "", "x_list": []string{}, "x_map": map[string]int{}, "x_slice": []int(nil),
			}
		}, `{` + required + `,"resource":"https://h.test/mcp","resource_name#de":"Bestellungen",` +
			`"x_false":false,"x_object":{"a":null},"x_zero":0}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := least("https://h.test/mcp")
			tc.change(&m)
			h := handler(t, m)
			if got := send(h, http.MethodGet, h.URL()).Body.String(); got != tc.want {
				t.Errorf("%s\nwant %s", got, tc.want)
			}
		})
	}
}

// Catalogue: F8.
func TestAnswerToEachMethodAndPath(t *testing.T) {
	h := handler(t, least("https://h.test/mcp"))
	body := send(h, http.MethodGet, h.URL()).Body.String()
	etag := send(h, http.MethodGet, h.URL()).Header().Get("ETag")
	metadata := map[string]string{
		"Access-Control-Allow-Origin": "*", "Cache-Control": "public, max-age=300", "Etag": etag,
		"Content-Type": "application/json", "Accept-Ranges": "bytes", "Content-Length": strconv.Itoa(len(body)),
	}
	preflight := map[string]string{
		"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
		"Access-Control-Allow-Headers": "*", "Access-Control-Max-Age": "3600", "Allow": "GET, HEAD, OPTIONS",
	}
	text := map[string]string{
		"Access-Control-Allow-Origin": "*", "Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff",
	}
	notAllowed := maps.Clone(text)
	notAllowed["Allow"] = "GET, HEAD, OPTIONS"
	unchanged := map[string]string{
		"Access-Control-Allow-Origin": "*", "Cache-Control": "public, max-age=300", "Etag": etag,
	}
	for _, tc := range []struct {
		method, url string
		header      []string
		status      int
		want        map[string]string
		body        string
	}{
		{"GET", h.URL(), nil, 200, metadata, body},
		{"HEAD", h.URL(), nil, 200, metadata, ""},
		{"GET", h.URL(), []string{"Authorization", "Bearer x", "Origin", "https://app.test"}, 200, metadata, body},
		{"GET", h.URL(), []string{"If-None-Match", etag}, 304, unchanged, ""},
		{"GET", h.URL(), []string{"If-None-Match", `"other"`}, 200, metadata, body},
		{"OPTIONS", h.URL(), []string{"Origin", "https://app.test", "Access-Control-Request-Method", "GET",
			"Access-Control-Request-Headers", "mcp-protocol-version"}, 204, preflight, ""},
		{"POST", h.URL(), nil, 405, notAllowed, "method not allowed\n"},
		{"PUT", h.URL(), nil, 405, notAllowed, "method not allowed\n"},
		{"DELETE", h.URL(), nil, 405, notAllowed, "method not allowed\n"},
		{"GET", h.URL() + "/", nil, 404, text, "404 page not found\n"},
		{"GET", h.URL() + "/more", nil, 404, text, "404 page not found\n"},
		{"GET", h.URL() + "?tenant=a", nil, 404, text, "404 page not found\n"},
		{"GET", strings.TrimSuffix(h.URL(), "/mcp"), nil, 404, text, "404 page not found\n"},
		{"GET", strings.Replace(h.URL(), "mcp", "MCP", 1), nil, 404, text, "404 page not found\n"},
		{"GET", strings.Replace(h.URL(), "mcp", "%6Dcp", 1), nil, 404, text, "404 page not found\n"},
		{"POST", "https://h.test/mcp", nil, 404, text, "404 page not found\n"},
		{"OPTIONS", "https://h.test/mcp", nil, 404, text, "404 page not found\n"},
	} {
		t.Run(tc.method+" "+tc.url, func(t *testing.T) {
			w := send(h, tc.method, tc.url, tc.header...)
			if w.Code != tc.status || w.Body.String() != tc.body {
				t.Errorf("%d %s\nwant %d %s", w.Code, w.Body, tc.status, tc.body)
			}
			got := map[string]string{}
			for name, values := range w.Header() {
				got[name] = strings.Join(values, "\n")
			}
			if !maps.Equal(got, tc.want) {
				t.Errorf("header %v\nwant %v", got, tc.want)
			}
		})
	}
}

// Catalogue: F9.
func TestAllMistakesAtOnce(t *testing.T) {
	_, err := resource.New(resource.Metadata{
		Resource:             "http://h.test/mcp#top",
		Documentation:        "docs",
		AuthorizationServers: []string{"http://as.test", "https://as.test?tenant=a", "https://as.test/é", ""},
		Scopes:               []string{"a b", ""},
		DPoPAlgorithms:       []string{"none"},
		Extra:                map[string]any{"Resource": "x", "": 1, "x": func() {}},
	})
	const want = `phantom: resource.Metadata.Resource: "http://h.test/mcp" has a fragment
phantom: resource.Metadata.AuthorizationServers: "http://as.test" is not https
phantom: resource.Metadata.AuthorizationServers: "https://as.test" has a query
phantom: resource.Metadata.AuthorizationServers: "https://as.test/é" has a character that no URL has
phantom: resource.Metadata.AuthorizationServers: an empty value
phantom: resource.Metadata.Documentation: "docs" is not an absolute http URL
phantom: resource.Metadata.Scopes: "a b" is not a scope-token
phantom: resource.Metadata.Scopes: "" is not a scope-token
phantom: resource.Metadata.DPoPAlgorithms: "none" is not one of RS, PS and ES 256/384/512 and EdDSA
phantom: resource.Metadata.Extra: an empty name
phantom: resource.Metadata.Extra: "Resource" is a registered member
phantom: resource.Metadata.Extra: "x" cannot be written as JSON`
	if err == nil || err.Error() != want {
		t.Fatalf("%v\nwant %s", err, want)
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T is not joined", err)
	}
	for _, one := range joined.Unwrap() {
		var config *phantom.ConfigError
		if !errors.As(one, &config) || !strings.HasPrefix(config.Option, "resource.Metadata.") {
			t.Errorf("%T %v", one, one)
		}
	}
}

// Catalogue: F9.
func TestResourceThatClientsCouldNotCompareIsRefused(t *testing.T) {
	for _, tc := range []struct{ resource, want string }{
		{"", "is required"},
		{"h.test/mcp", `"h.test/mcp" is not an absolute URL`},
		{"https:///mcp", `"https:///mcp" is not an absolute URL`},
		{"ftp://h.test/", `"ftp://h.test/" is not https`},
		{"http://h.test/mcp", `"http://h.test/mcp" is not https`},
		{"http://127.0.0.1.h.test/mcp", `"http://127.0.0.1.h.test/mcp" is not https`},
		{"https://alice:secret@h.test/mcp", `"…@h.test/mcp" has credentials in the URL`},
		{"https://h.test/mcp#", `"https://h.test/mcp" has a fragment`},
		{"https://h.test/mcp?", `"https://h.test/mcp" has a query`},
		{"https://h.test/mcp?key=secret", `"https://h.test/mcp" has a query`},
		{"HTTPS://h.test/mcp", `"HTTPS://h.test/mcp" is not in the usual form of a URL: "https://h.test/mcp"`},
		{"https://h.test/a b", `"https://h.test/a b" is not in the usual form of a URL: "https://h.test/a%20b"`},
		{"https://h.test/{id}", `"https://h.test/{id}" is not in the usual form of a URL: "https://h.test/%7Bid%7D"`},
		{"https://h.test/é", `"https://h.test/é" is not in the usual form of a URL: "https://h.test/%C3%A9"`},
		{`https://h".test/mcp`, `"https://h\".test/mcp" has a character that no URL has`},
		{"https://h.test//mcp", `"https://h.test//mcp" has an empty segment or a dot segment in its path`},
		{"https://h.test//", `"https://h.test//" has an empty segment or a dot segment in its path`},
		{"https://h.test/a/../mcp", `"https://h.test/a/../mcp" has an empty segment or a dot segment in its path`},
		{"https://h.test/%2E%2e/mcp", `"https://h.test/%2E%2e/mcp" has an empty segment or a dot segment in its path`},
		{"https://h.test/.", `"https://h.test/." has an empty segment or a dot segment in its path`},
	} {
		t.Run(tc.resource, func(t *testing.T) {
			_, err := resource.New(least(tc.resource))
			if want := "phantom: resource.Metadata.Resource: " + tc.want; err == nil || err.Error() != want {
				t.Errorf("%v\nwant %s", err, want)
			}
		})
	}
}

// A case fold would make two members of one name.
//
// Catalogue: F9.
func TestExtraCannotNameWhatIsRegistered(t *testing.T) {
	for _, name := range []string{
		"resource", "authorization_servers", "jwks_uri", "scopes_supported", "bearer_methods_supported",
		"resource_signing_alg_values_supported", "resource_name", "resource_documentation", "resource_policy_uri",
		"resource_tos_uri", "tls_client_certificate_bound_access_tokens", "authorization_details_types_supported",
		"dpop_signing_alg_values_supported", "dpop_bound_access_tokens_required", "signed_metadata",
		"RESOURCE", "re\u017fource", // a long s folds to s
	} {
		m := least("https://h.test")
		m.Extra = map[string]any{name: nil}
		if _, err := resource.New(m); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// What New was given may change; what is served does not.
func TestDocumentIsMadeOnce(t *testing.T) {
	m := least("https://h.test")
	m.Extra = map[string]any{"x": []string{"a"}}
	h := handler(t, m)
	want := send(h, http.MethodGet, h.URL()).Body.String()
	m.AuthorizationServers[0] = "https://evil.test"
	m.Extra["x"].([]string)[0] = "b"
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got := send(h, http.MethodGet, h.URL()).Body.String(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	wg.Wait()
}
