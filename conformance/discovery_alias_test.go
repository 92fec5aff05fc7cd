package conformance_test

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A client that authenticates by its certificate asks at the address that the
// server has for it.
//
// Catalogue: V8.
func TestCertificateClientUsesTheAlias(t *testing.T) {
	const alias = "https://mtls.as.test" + endpointPath
	aliases := func(v any) map[string]any { return map[string]any{"mtls_endpoint_aliases": v} }
	certificate, secret := phantom.TLSClientAuth(clientID), phantom.ClientSecretPost(clientID, clientSecret)
	for _, tc := range []struct {
		name    string
		changes map[string]any
		auth    phantom.ClientAuth
		want    string // where it asks; "": nowhere, 502
	}{
		{"an alias", aliases(map[string]any{"introspection_endpoint": alias}), certificate, alias},
		{"with a secret", aliases(map[string]any{"introspection_endpoint": alias}), secret, issuer + endpointPath},
		{"no aliases", nil, certificate, issuer + endpointPath},
		{"aliases null", aliases(null), certificate, issuer + endpointPath},
		{"aliases of other endpoints", aliases(map[string]any{"token_endpoint": "https://mtls.as.test/token"}), certificate, issuer + endpointPath},
		{"alias null", aliases(map[string]any{"introspection_endpoint": null}), certificate, issuer + endpointPath},
		{"an alias alone", map[string]any{
			"introspection_endpoint": nil, "mtls_endpoint_aliases": map[string]any{"introspection_endpoint": alias},
		}, certificate, alias},
		{"an alias of the key set", aliases(map[string]any{"introspection_endpoint": alias, "jwks_uri": "https://mtls.as.test/keys"}), certificate, alias},
		{"in another case", aliases(map[string]any{"Introspection_Endpoint": alias}), certificate, issuer + endpointPath},
		{"plain http", aliases(map[string]any{"introspection_endpoint": "http://mtls.as.test/introspect"}), certificate, ""},
		{"loopback", aliases(map[string]any{"introspection_endpoint": "http://127.0.0.1/introspect"}), certificate, ""},
		{"with a password", aliases(map[string]any{"introspection_endpoint": "https://u:p@mtls.as.test/"}), certificate, ""},
		{"with a fragment", aliases(map[string]any{"introspection_endpoint": alias + "#x"}), certificate, ""},
		{"relative", aliases(map[string]any{"introspection_endpoint": "/introspect"}), certificate, ""},
		{"empty", aliases(map[string]any{"introspection_endpoint": ""}), certificate, ""},
		{"no text", aliases(map[string]any{"introspection_endpoint": []string{alias}}), certificate, ""},
		{"aliases are an array", aliases([]string{alias}), certificate, ""},
		{"aliases are text", aliases(alias), certificate, ""},
		{"a bad alias beside a secret", aliases(map[string]any{"introspection_endpoint": "http://mtls.as.test/"}), secret, issuer + endpointPath},
		{"no object beside a secret", aliases("x"), secret, issuer + endpointPath},
		{"a bad endpoint beside the alias", map[string]any{
			"introspection_endpoint": "http://as.test/", "mtls_endpoint_aliases": map[string]any{"introspection_endpoint": alias},
		}, certificate, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.metadata = answer(200, "application/json", metadataOf(issuer, tc.changes))
			m := as.discoverer(phantom.WithClientAuth(tc.auth))
			got, want := as.try(m, "opaque"), codeOK
			if tc.want == "" {
				want = code502A
			}
			asked := slices.DeleteFunc(as.visited(), func(url string) bool { return !strings.HasSuffix(url, endpointPath) })
			if got != want || strings.Join(asked, " ") != tc.want {
				t.Errorf("%s, asked at %q, want %s at %q", got, asked, want, tc.want)
			}
		})
	}
	t.Run("an endpoint in the options", func(t *testing.T) {
		as := newAS(t)
		as.metadata = answer(200, "application/json", metadataOf(issuer, aliases(map[string]any{"introspection_endpoint": alias})))
		m := as.discoverer(phantom.WithClientAuth(certificate), phantom.WithIntrospectionEndpoint(issuer+endpointPath))
		if got := as.try(m, "opaque"); got != codeOK || len(as.recorded(endpointPath)) != 1 {
			t.Errorf("%s, asked %q", got, as.visited())
		}
	})
}

// The alias may not move to another host at a refresh, as the endpoint may not.
//
// Catalogue: V8.
func TestAliasStaysAtItsHost(t *testing.T) {
	for _, tc := range []struct{ name, before, after string }{
		{"another host", "https://mtls.as.test" + endpointPath, "https://evil.test" + endpointPath},
		{"gone", "https://mtls.as.test" + endpointPath, ""},
		{"appears", "", "https://evil.test" + endpointPath},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = newToken
				document := func(alias string) http.HandlerFunc {
					changes := map[string]any{"mtls_endpoint_aliases": map[string]any{"introspection_endpoint": alias}}
					if alias == "" {
						changes = nil
					}
					return answer(200, "application/json", metadataOf(issuer, changes))
				}
				as.metadata = document(tc.before)
				book := as.logBook()
				m := as.discoverer(booked(book), phantom.WithClientAuth(phantom.TLSClientAuth(clientID)))
				if got := as.tries(m, 1); got != codeOK {
					t.Fatal(got)
				}
				_ = book.take()
				as.metadata = document(tc.after)
				time.Sleep(6 * time.Minute)
				if got := as.tries(m, 1); got != codeOK { // starts the refresh
					t.Error(got)
				}
				synctest.Wait()
				said := aboveDebug(book.take())
				if len(said) != 1 || said[0].level != slog.LevelError ||
					said[0].attrs["detail"] != "metadata: the introspection endpoint moved to another host" {
					t.Errorf("logged %v", said)
				}
			})
		})
	}
}
