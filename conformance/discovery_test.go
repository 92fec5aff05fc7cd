package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// discovering is the fixture's configuration without the endpoints.
func (as *fakeAS) discovering(iss string, extra ...phantom.Option) []phantom.Option {
	options := as.options()
	return append([]phantom.Option{
		phantom.WithIssuer(iss), options[1], options[4], options[5], options[6], options[7],
	}, extra...)
}

// discoverer returns a Middleware that finds the endpoints in the metadata.
func (as *fakeAS) discoverer(extra ...phantom.Option) *phantom.Middleware {
	as.tb.Helper()
	m, err := phantom.New(as.discovering(issuer, extra...)...)
	if err != nil {
		as.tb.Fatal(err)
	}
	return m
}

// metadataOf is a good document of an issuer, with changes; a nil value removes
// a member.
func metadataOf(iss string, changes map[string]any) string {
	m := map[string]any{
		"issuer": iss, "introspection_endpoint": issuer + endpointPath, "jwks_uri": issuer + jwksPath,
		"token_endpoint": issuer + "/token", "introspection_endpoint_auth_methods_supported": []string{"client_secret_basic"},
	}
	maps.Copy(m, changes)
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
	return string(must(json.Marshal(m)))
}

// visited returns the URLs of all requests, in order.
func (as *fakeAS) visited() []string {
	as.mu.Lock()
	defer as.mu.Unlock()
	var urls []string
	for _, r := range as.requests {
		urls = append(urls, r.URL.String())
	}
	return urls
}

// The well-known paths of RFC 8414 and of OpenID Connect Discovery.
const (
	oauthPath  = "/.well-known/oauth-authorization-server"
	openidPath = "/.well-known/openid-configuration"
)

// Metadata are looked for at the well-known URLs of RFC 8414 and of OpenID
// Connect, in this order. New itself asks none of them.
func TestDiscoveryURLs(t *testing.T) {
	for _, tc := range []struct {
		issuer string
		urls   []string // in the order in which they are tried
	}{
		{"https://as.test", []string{"https://as.test" + oauthPath, "https://as.test" + openidPath}},
		{"https://as.test/", []string{"https://as.test" + oauthPath, "https://as.test" + openidPath}},
		{"https://as.test:8443", []string{"https://as.test:8443" + oauthPath, "https://as.test:8443" + openidPath}},
		{"https://[2001:db8::1]:8443", []string{"https://[2001:db8::1]:8443" + oauthPath, "https://[2001:db8::1]:8443" + openidPath}},
		{"https://as.test/realms/a", []string{
			"https://as.test" + oauthPath + "/realms/a", "https://as.test" + openidPath + "/realms/a", "https://as.test/realms/a" + openidPath,
		}},
		{"https://as.test/realms/a/", []string{
			"https://as.test" + oauthPath + "/realms/a", "https://as.test" + openidPath + "/realms/a", "https://as.test/realms/a" + openidPath,
		}},
		{"https://as.test/a%2Fb", []string{
			"https://as.test" + oauthPath + "/a%2Fb", "https://as.test" + openidPath + "/a%2Fb", "https://as.test/a%2Fb" + openidPath,
		}},
	} {
		for at, found := range tc.urls {
			t.Run(fmt.Sprintf("%s at %d", tc.issuer, at), func(t *testing.T) {
				as := newAS(t)
				as.introspect = answerJWT(mint("ES256", claims(map[string]any{"iss": tc.issuer})))
				as.metadata = func(w http.ResponseWriter, r *http.Request) {
					if r.URL.String() != found {
						http.NotFound(w, r)
						return
					}
					answer(200, "application/json", metadataOf(tc.issuer, nil))(w, r)
				}
				m := must(phantom.New(as.discovering(tc.issuer)...))
				if n := len(as.visited()); n != 0 {
					t.Errorf("New made %d requests", n)
				}
				if got := as.try(m, "opaque"); got != codeOK {
					t.Error(got)
				}
				want := append(append([]string(nil), tc.urls[:at+1]...), issuer+endpointPath, issuer+jwksPath)
				if got := as.visited(); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("asked %q, want %q", got, want)
				}
			})
		}
	}
}

// metadata404 is the detail if there are no metadata, which names the way out.
const metadata404 = "metadata: status 404 at the well-known URLs: see WithIssuer, or WithIntrospectionEndpoint and WithJWKSURL"

// Metadata that cannot be used let no request through. They are tried again
// once a second, and then all is well.
//
// Catalogue: K194.
func TestDiscoveryStatus(t *testing.T) {
	const both = 2 // well-known URLs
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
		tried  int
		detail string
	}{
		{"404", http.NotFound, code502A, both, metadata404},
		{"400", answer(400, "", ""), code502A, both, "metadata: status 400"},
		{"401", answer(401, "", ""), code502A, both, "metadata: status 401"},
		{"403", answer(403, "", ""), code502A, both, "metadata: status 403"},
		{"405", answer(405, "", ""), code502A, both, "metadata: status 405"},
		{"410", answer(410, "", ""), code502A, both, "metadata: status 410"},
		{"429", answer(429, "", ""), code503A, both, "metadata: status 429"},
		{"500", answer(500, "", ""), code503A, both, "metadata: status 500"},
		{"503", answer(503, "", ""), code503A, both, "metadata: status 503"},
		{"204", answer(204, "", ""), code502A, both, "metadata: status 204"},
		{"203", answer(203, "application/json", metadataOf(issuer, nil)), code502A, both, "metadata: status 203"},
		{"302", redirect(302), code502A, both, "metadata: status 302"},
		{"307", redirect(307), code502A, both, "metadata: status 307"},
		{"308", redirect(308), code502A, both, "metadata: status 308"},
		{"HTML", answer(200, "text/html", "<html>"), code502A, both, "metadata: not strict JSON"},
		{"empty", answer(200, "application/json", ""), code502A, both, "metadata: not strict JSON"},
		{"array", answer(200, "application/json", "["+metadataOf(issuer, nil)+"]"), code502A, both, "metadata: not strict JSON"},
		{"bytes after the JSON", answer(200, "application/json", metadataOf(issuer, nil)+"x"), code502A, both, "metadata: not strict JSON"},
		{"jwks_uri twice", answer(200, "application/json", `{"jwks_uri":"https://evil.test/jwks",`+metadataOf(issuer, nil)[1:]), code502A, both, "metadata: not strict JSON"},
		{"issuer twice", answer(200, "application/json", `{"issuer":"https://evil.test",`+metadataOf(issuer, nil)[1:]), code502A, both, "metadata: not strict JSON"},
		{"BOM", answer(200, "application/json", "\ufeff"+metadataOf(issuer, nil)), code502A, both, "metadata: not strict JSON"},
		{"not UTF-8", answer(200, "application/json", metadataOf(issuer, map[string]any{"x": "?"})[:20]+"\xff\"}"), code502A, both, "metadata: not strict JSON"},
		{"256 KiB and a byte", answer(200, "application/json", metadataOf(issuer, nil)+strings.Repeat(" ", 256<<10+1-len(metadataOf(issuer, nil)))), code502A, both, "answer larger than 262144 bytes"},
		{"256 KiB", answer(200, "application/json", metadataOf(issuer, nil)+strings.Repeat(" ", 256<<10-len(metadataOf(issuer, nil)))), codeOK, 1, ""},
		{"gzip", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			answer(200, "application/json", metadataOf(issuer, nil))(w, r)
		}, code502A, both, "Content-Encoding"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = newToken
				tried := 0
				as.metadata = func(w http.ResponseWriter, r *http.Request) {
					tried++
					tc.answer(w, r)
				}
				book := as.logBook()
				m := as.discoverer(booked(book))
				if got := as.tries(m, 1); got != tc.want || tried != tc.tried {
					t.Fatalf("%s after %d requests for metadata, want %s after %d", got, tried, tc.want, tc.tried)
				}
				lines := book.take()
				if tc.want == codeOK {
					checkLine(t, lines, codeOK, "")
					return
				}
				if len(lines) != 1 || lines[0].level != slog.LevelError || lines[0].attrs["detail"] != tc.detail {
					t.Errorf("logged %v, want %q", lines, tc.detail)
				}
				if as.calls.Load() != 0 || as.fetches.Load() != 0 {
					t.Errorf("%d introspections, %d key set fetches", as.calls.Load(), as.fetches.Load())
				}
				// One attempt each second, whoever asks.
				for range 20 {
					if got := as.tries(m, 1); got != tc.want || tried != tc.tried {
						t.Fatalf("at once: %s after %d requests", got, tried)
					}
				}
				if err := m.Warm(t.Context()); err == nil {
					t.Error("Warm saw no error")
				}
				synctest.Wait()
				as.metadata = answer(200, "application/json", metadataOf(issuer, nil))
				time.Sleep(time.Second)
				if got := as.tries(m, 3); got != codeOK {
					t.Errorf("recovered: %s", got)
				}
			})
		})
	}
}

// A metadataFault is a change of good metadata, after which they must not be
// believed.
type metadataFault struct {
	name    string
	changes map[string]any
}

// metadataFaults are wrong at the start and at a refresh.
var metadataFaults = []metadataFault{
	{"another issuer", map[string]any{"issuer": "https://evil.test"}},
	{"issuer with a trailing slash", map[string]any{"issuer": issuer + "/"}},
	{"issuer in another case", map[string]any{"issuer": "https://AS.test"}},
	{"issuer with a port", map[string]any{"issuer": issuer + ":443"}},
	{"issuer with a path", map[string]any{"issuer": issuer + "/tenant"}},
	{"issuer that ours is a prefix of", map[string]any{"issuer": issuer + ".evil.test"}},
	{"no issuer", map[string]any{"issuer": nil}},
	{"issuer of null", map[string]any{"issuer": null}},
	{"issuer as an array", map[string]any{"issuer": []string{issuer}}},
	{"empty issuer", map[string]any{"issuer": ""}},
	{"issuer with NUL", map[string]any{"issuer": issuer + "\x00"}},
	{"issuer only as ISSUER", map[string]any{"issuer": nil, "ISSUER": issuer}},
	{"jwks_uri http", map[string]any{"jwks_uri": "http://as.test/jwks"}},
	{"jwks_uri file", map[string]any{"jwks_uri": "file:///etc/passwd"}},
	{"jwks_uri link-local", map[string]any{"jwks_uri": "http://169.254.169.254/"}},
	{"jwks_uri loopback", map[string]any{"jwks_uri": "http://127.0.0.1/jwks"}},
	{"jwks_uri localhost", map[string]any{"jwks_uri": "http://localhost/jwks"}},
	{"jwks_uri relative", map[string]any{"jwks_uri": "/jwks"}},
	{"jwks_uri without scheme", map[string]any{"jwks_uri": "//as.test/jwks"}},
	{"jwks_uri opaque", map[string]any{"jwks_uri": "https:as.test"}},
	{"jwks_uri without host", map[string]any{"jwks_uri": "https:///jwks"}},
	{"jwks_uri port only", map[string]any{"jwks_uri": "https://:443/jwks"}},
	{"jwks_uri with a password", map[string]any{"jwks_uri": "https://u:p@as.test/jwks"}},
	{"jwks_uri with a fragment", map[string]any{"jwks_uri": "https://as.test/jwks#x"}},
	{"jwks_uri with an empty fragment", map[string]any{"jwks_uri": "https://as.test/jwks#"}},
	{"jwks_uri with a backslash", map[string]any{"jwks_uri": `https://as.test\@evil.test/jwks`}},
	{"jwks_uri with a line break", map[string]any{"jwks_uri": "https://as.test/jwks\r\nHost: evil.test"}},
	{"jwks_uri with a space in front", map[string]any{"jwks_uri": " https://as.test/jwks"}},
	{"jwks_uri with a bad port", map[string]any{"jwks_uri": "https://as.test:x/jwks"}},
	{"jwks_uri gopher", map[string]any{"jwks_uri": "gopher://as.test/"}},
	{"jwks_uri data", map[string]any{"jwks_uri": "data:application/json,{}"}},
	{"jwks_uri unix", map[string]any{"jwks_uri": "unix:///var/run/docker.sock"}},
	{"jwks_uri number", map[string]any{"jwks_uri": 1}},
	{"jwks_uri empty", map[string]any{"jwks_uri": ""}},
	{"jwks_uri array", map[string]any{"jwks_uri": []string{issuer + jwksPath}}},
	{"introspection_endpoint http", map[string]any{"introspection_endpoint": "http://as.test/introspect"}},
	{"introspection_endpoint file", map[string]any{"introspection_endpoint": "file:///etc/passwd"}},
	{"introspection_endpoint link-local", map[string]any{"introspection_endpoint": "http://169.254.169.254/"}},
	{"introspection_endpoint loopback", map[string]any{"introspection_endpoint": "http://[::1]/introspect"}},
	{"introspection_endpoint empty", map[string]any{"introspection_endpoint": ""}},
	{"introspection_endpoint object", map[string]any{"introspection_endpoint": map[string]any{}}},
	{"introspection_endpoint no host", map[string]any{"introspection_endpoint": "https://"}},
	{"introspection_endpoint password", map[string]any{"introspection_endpoint": "https://u:p@as.test/introspect"}},
}

// metadataMoves are right at the start and wrong at a refresh.
var metadataMoves = []metadataFault{
	{"endpoint at another host", map[string]any{"introspection_endpoint": "https://evil.test" + endpointPath}},
	{"endpoint at another port", map[string]any{"introspection_endpoint": "https://as.test:8443" + endpointPath}},
	{"endpoint at a sub-domain", map[string]any{"introspection_endpoint": "https://login.as.test" + endpointPath}},
	{"endpoint at another case", map[string]any{"introspection_endpoint": "https://AS.test" + endpointPath}},
	{"endpoint gone", map[string]any{"introspection_endpoint": nil}},
	{"both at another host", map[string]any{"introspection_endpoint": "https://evil.test" + endpointPath, "jwks_uri": "https://evil.test" + jwksPath}},
	{"endpoint at an IPv6 host", map[string]any{"introspection_endpoint": "https://[::1]" + endpointPath}},
	{"endpoint with odd encoding", map[string]any{"introspection_endpoint": "https://as%2etest" + endpointPath}},
}

// badMetadata are the changes of metadataFaults by their names.
var badMetadata = func() map[string]map[string]any {
	all := map[string]map[string]any{}
	for _, fault := range metadataFaults {
		all[fault.name] = fault.changes
	}
	return all
}()

// At the start, wrong metadata are not believed. Warm returns the error, and no
// request goes to the URLs in them.
//
// Catalogue: K199, K200.
func TestBadMetadataAtStart(t *testing.T) {
	for _, fault := range metadataFaults {
		t.Run(fault.name, func(t *testing.T) {
			as := newAS(t)
			as.metadata = answer(200, "application/json", metadataOf(issuer, fault.changes))
			book := as.logBook()
			m := as.discoverer(booked(book))
			err := m.Warm(t.Context())
			var e *phantom.Error
			if !errors.Is(err, phantom.ErrUpstream) || !errors.As(err, &e) ||
				!strings.HasPrefix(e.Detail, "metadata: ") || e.StatusCode() != 502 {
				t.Errorf("Warm: %v", err)
			}
			if got := as.try(m, "opaque"); got != code502A {
				t.Error(got)
			}
			checkLine(t, book.take(), code502A, "")
			as.onlyAsked(t, oauthPath, openidPath)
		})
	}
}

// At a refresh, wrong metadata are refused and the old ones stay, for an hour
// past their freshness. A new host for the introspection endpoint is wrong too.
//
// Catalogue: K199, K200.
func TestBadMetadataAtARefresh(t *testing.T) {
	for _, fault := range slices.Concat(metadataFaults, metadataMoves) {
		t.Run(fault.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = newToken
				as.metadata = answer(200, "application/json", metadataOf(issuer, nil))
				book := as.logBook()
				m := as.discoverer(booked(book))
				if err := m.Warm(t.Context()); err != nil {
					t.Fatal(err)
				}
				as.metadata = answer(200, "application/json", metadataOf(issuer, fault.changes))
				time.Sleep(5*time.Minute + time.Second)
				for range 30 { // half an hour of failing refreshes
					if got := as.tries(m, 1); got != codeOK {
						t.Fatalf("with the old metadata: %s", got)
					}
					synctest.Wait()
					said := aboveDebug(book.take())
					if len(said) != 1 || said[0].level != slog.LevelError ||
						said[0].msg != "phantom: cannot renew the metadata of the authorization server" ||
						!strings.HasPrefix(said[0].attrs["detail"], "metadata: ") {
						t.Fatalf("logged %v", said)
					}
					time.Sleep(time.Minute)
				}
				as.onlyAsked(t, oauthPath, openidPath, endpointPath, jwksPath)
				// They do not stay for ever. Then there is no verdict.
				time.Sleep(time.Hour)
				if got := as.tries(m, 1); got != code502A {
					t.Errorf("an hour past its freshness: %s", got)
				}
				synctest.Wait()
				as.metadata = answer(200, "application/json", metadataOf(issuer, nil))
				time.Sleep(time.Second)
				if got := as.tries(m, 1); got != codeOK {
					t.Errorf("recovered: %s", got)
				}
				as.onlyAsked(t, oauthPath, openidPath, endpointPath, jwksPath)
			})
		})
	}
}

// A refresh follows the endpoint to another path at the same host.
func TestMetadataRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		before := answer(200, "application/json", metadataOf(issuer, map[string]any{
			"introspection_endpoint": issuer + "/old",
		}))
		old := 0
		as.metadata = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/old" {
				old++
				newToken(w, r)
				return
			}
			before(w, r)
		}
		m := as.discoverer()
		if got := as.tries(m, 2); got != codeOK || old != 2 || as.calls.Load() != 0 {
			t.Fatalf("%s, %d at the old endpoint, %d at the new", got, old, as.calls.Load())
		}
		before = answer(200, "application/json", metadataOf(issuer, nil))
		time.Sleep(5*time.Minute + time.Second)
		if got := as.tries(m, 1); got != codeOK || old != 3 {
			t.Errorf("during the refresh: %s, %d", got, old)
		}
		synctest.Wait()
		if got := as.tries(m, 2); got != codeOK || old != 3 || as.calls.Load() != 2 {
			t.Errorf("after the refresh: %s, %d at the old endpoint, %d at the new", got, old, as.calls.Load())
		}
	})
}

// An endpoint in the metadata that is not in use may move anywhere.
func TestUnusedEndpointMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		as.metadata = answer(200, "application/json", metadataOf(issuer, map[string]any{"jwks_uri": issuer + "/old"}))
		m := as.discoverer(phantom.WithIntrospectionEndpoint(issuer + endpointPath))
		if got := as.tries(m, 1); got != code503A { // no keys at that URL
			t.Error(got)
		}
		as.metadata = answer(200, "application/json", metadataOf(issuer, map[string]any{
			"introspection_endpoint": "https://moved.test/",
		}))
		time.Sleep(5*time.Minute + time.Second)
		if got := as.tries(m, 1); got != code503A { // begins the refresh
			t.Error(got)
		}
		time.Sleep(time.Second)
		if got := as.tries(m, 1); got != codeOK {
			t.Error(got)
		}
		for _, u := range as.visited() {
			if strings.Contains(u, "moved") {
				t.Errorf("asked %s", u)
			}
		}
	})
}

// From the start, the metadata may name endpoints at other hosts than the
// issuer's.
func TestEndpointsAtOtherHosts(t *testing.T) {
	as := newAS(t)
	as.metadata = answer(200, "application/json", metadataOf(issuer, map[string]any{
		"introspection_endpoint": "https://api.as.example" + endpointPath, "jwks_uri": "https://keys.as.example" + jwksPath,
	}))
	if got := as.try(as.discoverer(), "opaque"); got != codeOK {
		t.Error(got)
	}
	want := []string{issuer + oauthPath, "https://api.as.example" + endpointPath, "https://keys.as.example" + jwksPath}
	if got := as.visited(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// Metadata must name each endpoint that no option gives.
func TestMetadataWithoutEndpoints(t *testing.T) {
	for _, tc := range []struct {
		name    string
		changes map[string]any
		extra   []phantom.Option
		want    string
		detail  string
	}{
		{"no introspection_endpoint", map[string]any{"introspection_endpoint": nil}, nil, code502A, "metadata: no introspection_endpoint: see WithIntrospectionEndpoint"},
		{"introspection_endpoint null", map[string]any{"introspection_endpoint": null}, nil, code502A, "metadata: no introspection_endpoint: see WithIntrospectionEndpoint"},
		{"no jwks_uri", map[string]any{"jwks_uri": nil}, nil, code502A, "metadata: no jwks_uri: see WithJWKSURL"},
		{"jwks_uri null", map[string]any{"jwks_uri": null}, nil, code502A, "metadata: no jwks_uri: see WithJWKSURL"},
		{"only in another case", map[string]any{"jwks_uri": nil, "JWKS_URI": issuer + jwksPath}, nil, code502A, "metadata: no jwks_uri: see WithJWKSURL"},
		{"no introspection_endpoint, given", map[string]any{"introspection_endpoint": nil}, []phantom.Option{phantom.WithIntrospectionEndpoint(issuer + endpointPath)}, codeOK, ""},
		{"no jwks_uri, given", map[string]any{"jwks_uri": nil}, []phantom.Option{phantom.WithJWKSURL(issuer + jwksPath)}, codeOK, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.metadata = answer(200, "application/json", metadataOf(issuer, tc.changes))
			book := as.logBook()
			m := as.discoverer(append(tc.extra, booked(book))...)
			if got := as.try(m, "opaque"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			lines := book.take()
			checkLine(t, lines, tc.want, "")
			if tc.detail != "" && lines[0].attrs["detail"] != tc.detail {
				t.Errorf("logged %v, want %q", lines, tc.detail)
			}
		})
	}
}

// A URL or a hook given by an option wins over the metadata. If both are given,
// the metadata are not even fetched.
func TestExplicitEndpointsWin(t *testing.T) {
	elsewhere := metadataOf(issuer, map[string]any{
		"introspection_endpoint": "https://other.test/introspect", "jwks_uri": "https://other.test/keys",
	})
	for _, tc := range []struct {
		name  string
		extra []phantom.Option
		want  []string // the URLs that are asked
	}{
		{"both given", []phantom.Option{
			phantom.WithIntrospectionEndpoint(issuer + endpointPath), phantom.WithJWKSURL(issuer + jwksPath),
		}, []string{issuer + endpointPath, issuer + jwksPath}},
		{"endpoint given", []phantom.Option{phantom.WithIntrospectionEndpoint(issuer + endpointPath)},
			[]string{issuer + endpointPath, issuer + oauthPath, "https://other.test/keys"}},
		{"JWKS URL given", []phantom.Option{phantom.WithJWKSURL(issuer + jwksPath)},
			[]string{issuer + oauthPath, "https://other.test/introspect", issuer + jwksPath}},
		{"endpoint and key set given", []phantom.Option{
			phantom.WithIntrospectionEndpoint(issuer + endpointPath),
			phantom.WithKeySet(phantom.StaticKeys(p256Key().Public())),
		}, []string{issuer + endpointPath}},
		{"key set given", []phantom.Option{phantom.WithKeySet(phantom.StaticKeys(p256Key().Public()))},
			[]string{issuer + oauthPath, "https://other.test/introspect"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.metadata = func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case oauthPath:
					answer(200, "application/json", elsewhere)(w, r)
				case "/introspect":
					answerJWT(mint("ES256", claims(nil)))(w, r)
				case "/keys":
					answer(200, "application/json", allKeys())(w, r)
				}
			}
			if got := as.try(as.discoverer(tc.extra...), "opaque"); got != codeOK {
				t.Error(got)
			}
			if got := as.visited(); fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("asked %q, want %q", got, tc.want)
			}
		})
	}
	t.Run("introspector and key set given", func(t *testing.T) {
		as := newAS(t)
		options := as.withKeys(phantom.StaticKeys(p256Key().Public()))
		m := must(phantom.New(options[0], options[1], options[3], phantom.WithIntrospector(introspectFunc(
			func(context.Context, string) (*phantom.Introspection, error) {
				return &phantom.Introspection{Active: true, JWT: mint("ES256", claims(nil))}, nil
			}))))
		if err := m.Warm(t.Context()); err != nil {
			t.Error(err)
		}
		if got := as.try(m, "opaque"); got != codeOK || len(as.visited()) != 0 {
			t.Errorf("%s, asked %q", got, as.visited())
		}
	})
}

// An endpoint may use plain http on the loopback interface only if the issuer
// does so too.
func TestDiscoveryOverHTTP(t *testing.T) {
	const local = "http://127.0.0.1:9000"
	for _, tc := range []struct {
		name     string
		issuer   string
		endpoint string
		extra    []phantom.Option
		want     string
	}{
		{"loopback", local, local + endpointPath, nil, codeOK},
		{"loopback, endpoint at another port", local, "http://127.0.0.1:9001" + endpointPath, nil, codeOK},
		{"loopback, endpoint elsewhere", local, "http://as.test" + endpointPath, nil, code502A},
		{"loopback, endpoint elsewhere with https", local, "https://as.test" + endpointPath, nil, codeOK},
		{"https, endpoint at the loopback interface", issuer, local + endpointPath, nil, code502A},
		{"http, permitted", "http://as.test", "http://as.test" + endpointPath, []phantom.Option{phantom.WithInsecureHTTP()}, codeOK},
		{"permitted, but not any scheme", issuer, "ftp://as.test" + endpointPath, []phantom.Option{phantom.WithInsecureHTTP()}, code502A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(mint("ES256", claims(map[string]any{"iss": tc.issuer})))
			as.metadata = answer(200, "application/json", metadataOf(tc.issuer, map[string]any{
				"introspection_endpoint": tc.endpoint,
			}))
			m := must(phantom.New(as.discovering(tc.issuer, tc.extra...)...))
			if got := as.try(m, "opaque"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// Warm fetches metadata and keys once, however many call it, and returns what
// went wrong.
func TestWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		metadata := 0
		down := answer(503, "", "")
		as.metadata, as.jwks = down, down
		m := as.discoverer()
		if err := m.Warm(t.Context()); !errors.Is(err, phantom.ErrUnavailable) {
			t.Errorf("no metadata: %v", err)
		}
		as.metadata = func(w http.ResponseWriter, r *http.Request) {
			metadata++
			answer(200, "application/json", metadataOf(issuer, nil))(w, r)
		}
		time.Sleep(time.Second)
		var e *phantom.Error
		if err := m.Warm(t.Context()); !errors.Is(err, phantom.ErrUnavailable) || !errors.As(err, &e) ||
			e.Reason != phantom.ReasonKeysUnavailable || e.Detail != "key set: status 503" {
			t.Errorf("no keys: %v", err)
		}
		as.jwks = nil
		time.Sleep(time.Second)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := m.Warm(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if metadata != 1 || as.fetches.Load() != 2 || as.calls.Load() != 10 {
			t.Errorf("%d, %d, %d requests", metadata, as.fetches.Load(), as.calls.Load())
		}
		if got := as.tries(m, 5); got != codeOK || metadata != 1 || as.fetches.Load() != 2 {
			t.Errorf("%s, %d, %d requests", got, metadata, as.fetches.Load())
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		asked := as.calls.Load()
		if err := m.Warm(gone); !errors.Is(err, context.Canceled) || as.calls.Load() != asked { // all is there but time
			t.Errorf("%v, asked %d times", err, as.calls.Load()-asked)
		}
	})
}

// Metadata that hang hold up a request no longer than a lookup may take. Once
// there were some, they hold up none.
func TestHangingMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		as.metadata = hang
		m := as.discoverer()
		start := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got := as.tries(m, 1); got != code503A || time.Since(start) != 2*time.Second {
					t.Errorf("%s after %v", got, time.Since(start))
				}
			})
		}
		wg.Wait()
		if n := len(as.recorded(oauthPath)); n != 1 {
			t.Errorf("%d requests", n)
		}
		synctest.Wait()
		as.metadata = answer(200, "application/json", metadataOf(issuer, nil))
		time.Sleep(time.Second)
		if got := as.tries(m, 1); got != codeOK {
			t.Errorf("recovered: %s", got)
		}
		as.metadata = hang
		time.Sleep(5*time.Minute + time.Second)
		for range 50 {
			start := time.Now()
			if got := as.tries(m, 1); got != codeOK || time.Since(start) != 0 {
				t.Fatalf("%s after %v", got, time.Since(start))
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// Metadata are refreshed after their max-age, but not before a minute and not
// after an hour.
//
// Catalogue: K196.
func TestMetadataRefreshInterval(t *testing.T) {
	for _, tc := range []struct {
		name, header string
		interval     time.Duration
	}{
		{"no time at all", "max-age=0", time.Minute},
		{"nothing said", "", 5 * time.Minute},
		{"ten minutes", "max-age=600", 10 * time.Minute},
		{"a year", "max-age=31536000", time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = newToken
				as.metadata = func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", tc.header)
					answer(200, "application/json", metadataOf(issuer, nil))(w, r)
				}
				m := as.discoverer()
				for round := range 3 {
					if got := as.tries(m, 1); got != codeOK {
						t.Fatal(got)
					}
					synctest.Wait()
					time.Sleep(tc.interval - time.Second)
					if got := as.tries(m, 3); got != codeOK || len(as.recorded(oauthPath)) != round+1 {
						t.Errorf("a second before: %s, %d requests", got, len(as.recorded(oauthPath)))
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

// Requests for metadata and keys carry no credentials, no cookie and no client
// id.
//
// Catalogue: K201.
func TestMetadataRequestsCarryNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		auth phantom.ClientAuth
	}{
		{"basic", phantom.ClientSecretBasic(clientID, clientSecret)},
		{"post", phantom.ClientSecretPost(clientID, clientSecret)},
		{"assertion", phantom.PrivateKeyJWT(clientID, "", "ES256", p256Key())},
		{"bearer", phantom.BearerToken(func(context.Context) (string, error) { return clientSecret, nil })},
		{"TLS", phantom.TLSClientAuth(clientID)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.metadata = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Set-Cookie", "session=1")
				if r.URL.Path == oauthPath {
					answer(404, "", "")(w, r)
					return
				}
				answer(200, "application/json", metadataOf(issuer, nil))(w, r)
			}
			jar := must(cookiejar.New(nil))
			jar.SetCookies(must(url.Parse(issuer)), []*http.Cookie{{Name: "old", Value: "cookie"}})
			client := &http.Client{Transport: as, Jar: jar}
			m := as.discoverer(phantom.WithClientAuth(tc.auth), phantom.WithHTTPClient(client))
			r := get("Bearer opaque")
			r.Header.Set("Cookie", "client=1")
			if got := as.send(m.Handler, r); got != codeOK {
				t.Error(got)
			}
			for _, r := range append(as.recorded(oauthPath), as.recorded(openidPath)...) {
				bareRequest(t, r, "application/json")
			}
			for _, r := range as.recorded(jwksPath) {
				bareRequest(t, r, "application/jwk-set+json, application/json")
			}
			if n := len(as.visited()); n != 4 {
				t.Errorf("%d requests, want metadata twice, introspection and key set", n)
			}
			for _, r := range as.recorded(endpointPath) {
				if r.Header["Cookie"] != nil {
					t.Errorf("introspection with the cookie %q", r.Header["Cookie"])
				}
			}
		})
	}
}

// The error of a lookup tells keys that cannot be had from metadata that are
// wrong.
func TestWhatIsToBlame(t *testing.T) {
	for _, tc := range []struct {
		name     string
		metadata http.HandlerFunc
		jwks     http.HandlerFunc
		want     string
		reason   phantom.Reason
		detail   string
	}{
		{"key set down", answer(200, "application/json", metadataOf(issuer, nil)), answer(500, "", ""), code503A, phantom.ReasonKeysUnavailable, "key set: status 500"},
		{"key set too large", answer(200, "application/json", metadataOf(issuer, nil)), answer(200, "application/json", strings.Repeat(" ", 1<<20)), code503A, phantom.ReasonKeysUnavailable, "key set: answer larger than 262144 bytes"},
		{"metadata down", answer(500, "", ""), nil, code503A, phantom.ReasonKeysUnavailable, "metadata: status 500"},
		{"metadata wrong", answer(200, "application/json", metadataOf("https://evil.test", nil)), nil, code502A, phantom.ReasonProtocol, "metadata: issuer differs from the configured one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.metadata, as.jwks = tc.metadata, tc.jwks
			m := as.discoverer(phantom.WithIntrospectionEndpoint(issuer + endpointPath))
			_, err := m.Verify(t.Context(), "opaque")
			var e *phantom.Error
			if !errors.As(err, &e) || e.Reason != tc.reason || e.Detail != tc.detail {
				t.Errorf("%v, want %s: %s", err, tc.reason, tc.detail)
			}
			if got := as.try(m, "opaque"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// An issuer with its scheme in upper case is https all the same. Plain http on
// the loopback interface is not for its endpoints.
//
// Catalogue: K200.
func TestIssuerInUpperCase(t *testing.T) {
	const shouted = "HTTPS://as.test"
	as := newAS(t)
	for _, tc := range []struct {
		name    string
		changes map[string]any
		want    error // of Warm
	}{
		{"good", nil, nil},
		{"endpoint over http", map[string]any{"introspection_endpoint": "http://127.0.0.1/introspect"}, phantom.ErrUpstream},
		{"jwks_uri over http", map[string]any{"jwks_uri": "http://localhost/jwks"}, phantom.ErrUpstream},
		{"jwks_uri in upper case too", map[string]any{"jwks_uri": "HTTPS://as.test/jwks"}, nil},
	} {
		as.metadata = answer(200, "application/json", metadataOf(shouted, tc.changes))
		err := must(phantom.New(as.discovering(shouted)...)).Warm(t.Context())
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}
