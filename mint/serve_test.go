package mint_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/phantom-token/phantom/mint"
)

// serve answers one request.
func serve(h http.Handler, method, target string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func get(h http.Handler, target string) *httptest.ResponseRecorder { return serve(h, "GET", target) }

// documents are the paths for an issuer without one.
var documents = []string{
	"/.well-known/jwks.json", "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server",
}

// Catalogue: A16.
func TestDocumentsMayBeCached(t *testing.T) {
	d := &device{Signer: p256()}
	m := newMinter(t, []mint.Key{{Signer: d}})
	for _, path := range documents {
		w := get(m, path)
		etag := w.Header().Get("ETag")
		if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" ||
			w.Header().Get("Cache-Control") != "public, max-age=300" || len(etag) != 24 {
			t.Fatalf("%s: %d %v", path, w.Code, w.Header())
		}
		for _, known := range []string{etag, "*", "W/" + etag, `"x", ` + etag} {
			again := serve(m, "GET", path, "If-None-Match", known)
			if again.Code != 304 || again.Body.Len() != 0 || again.Header().Get("ETag") != etag ||
				again.Header().Get("Cache-Control") != "public, max-age=300" {
				t.Errorf("%s, If-None-Match %s: %d %v", path, known, again.Code, again.Header())
			}
		}
		if other := serve(m, "GET", path, "If-None-Match", `"x"`); other.Code != 200 || other.Body.String() != w.Body.String() {
			t.Errorf("%s: %d", path, other.Code)
		}
		head := serve(m, "HEAD", path)
		if head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("ETag") != etag ||
			head.Header().Get("Content-Length") != fmt.Sprint(w.Body.Len()) {
			t.Errorf("HEAD %s: %d %v", path, head.Code, head.Header())
		}
		if err := m.SetKeys(mint.Key{Signer: edKey()}); err != nil {
			t.Fatal(err)
		}
		if now := get(m, path).Header().Get("ETag"); now == etag {
			t.Errorf("%s: other keys, same ETag", path)
		}
		if err := m.SetKeys(mint.Key{Signer: d}); err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			get(m, path)
		}
	}
	if n := d.signatures.Load(); n != 0 {
		t.Errorf("%d signatures", n)
	}
}

// Catalogue: A16.
func TestOtherMethodsAndPaths(t *testing.T) {
	m := newMinter(t, nil)
	for _, path := range documents {
		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"} {
			if w := serve(m, method, path); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" || w.Header().Get("ETag") != "" {
				t.Errorf("%s %s: %d %v", method, path, w.Code, w.Header())
			}
		}
	}
	for _, path := range []string{
		"/", "/.well-known/jwks.json/", "/.well-known/", "/jwks.json", "/a/.well-known/jwks.json",
		"/.well-known/openid-configuration/a", "/.well-known/JWKS.json", "//.well-known/jwks.json",
	} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			if w := serve(m, method, path); w.Code != 404 || w.Header().Get("Cache-Control") != "" || w.Header().Get("Allow") != "" {
				t.Errorf("%s %s: %d %v", method, path, w.Code, w.Header())
			}
		}
	}
	if w := get(m, "/.well-known/jwks.json?x=1"); w.Code != 200 {
		t.Errorf("with a query: %d", w.Code)
	}
}

func TestMetadata(t *testing.T) {
	keys := []mint.Key{{ID: "a", Signer: p256()}, {ID: "b", Public: other().Public()}, {ID: "c", Signer: edKey()}}
	for _, tc := range []struct{ issuer, keySet, openID, oauth string }{
		{
			"https://gateway.test", "https://gateway.test/.well-known/jwks.json",
			"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server",
		},
		{
			"https://gateway.test/", "https://gateway.test/.well-known/jwks.json",
			"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server",
		},
		{
			"https://gateway.test:8443/a/b&c", "https://gateway.test:8443/a/b&c/.well-known/jwks.json",
			"/a/b&c/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/a/b&c",
		},
		{
			"https://gateway.test/a%20b", "https://gateway.test/a%20b/.well-known/jwks.json",
			"/a%20b/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/a%20b",
		},
	} {
		m, err := mint.New(tc.issuer, keys, mint.WithAudience(audience))
		if err != nil {
			t.Fatal(err)
		}
		want := `{"issuer":"` + tc.issuer + `","jwks_uri":"` + tc.keySet + `","response_types_supported":["id_token"],` +
			`"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256","EdDSA"]}`
		for _, path := range []string{tc.openID, tc.oauth} {
			if w := get(m, path); w.Code != 200 || w.Body.String() != want {
				t.Errorf("%s: %d %s\nwant %s", path, w.Code, w.Body, want)
			}
		}
		var set struct{ Keys []jwk }
		w := get(m, tc.keySet) // httptest reads the path of a whole URL
		if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || len(set.Keys) != 3 {
			t.Errorf("%s: %d %s", tc.keySet, w.Code, w.Body)
		}
	}
}
