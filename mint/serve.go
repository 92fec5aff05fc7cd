package mint

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/jose"
)

// Where the documents are. RFC 8414 section 3 puts the issuer's path behind
// the well-known part, OpenID Connect Discovery before it.
const (
	keySetPath = "/.well-known/jwks.json"
	openIDPath = "/.well-known/openid-configuration"
	oauthPath  = "/.well-known/oauth-authorization-server"
)

// ServeHTTP serves the key set and the metadata, by which upstreams find it
// (OpenID Connect Discovery section 4, RFC 8414 section 3). For an issuer
// https://gateway.example/a, these are at
//
//	/a/.well-known/jwks.json
//	/a/.well-known/openid-configuration
//	/.well-known/oauth-authorization-server/a
//
// so hand it requests with the path that the client sent. Each answer may be
// cached for 5 minutes, has an ETag, and costs no signature. Another method
// than GET and HEAD gets 405, another path 404. The documents are public: the
// handler needs no protection.
func (m *Minter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ring := m.ring.Load()
	var d *document
	switch r.URL.Path {
	case m.path + keySetPath:
		d = &ring.keySet
	case m.path + openIDPath, oauthPath + m.path:
		d = &ring.metadata
	default:
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("ETag", d.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.body))
}

// A document is what is served at one of the paths.
type document struct {
	body []byte
	etag string
}

func newDocument(body []byte) document {
	sum := sha256.Sum256(body)
	return document{body, `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`}
}

// keySetDocument is a JWK Set (RFC 7517 section 5).
func keySetDocument(keys []*jose.Key) document {
	jwks := make([][]byte, len(keys))
	for i, key := range keys {
		jwks[i] = key.JWK()
	}
	return newDocument(slices.Concat([]byte(`{"keys":[`), bytes.Join(jwks, []byte{','}), []byte(`]}`)))
}

// metadataDocument has what the readers of OpenID Connect Discovery section 3
// insist on, and no endpoint that there is not.
func (c *config) metadataDocument(keys []*jose.Key) document {
	var algorithms []string
	for _, key := range keys {
		if !slices.Contains(algorithms, key.Algorithm()) {
			algorithms = append(algorithms, key.Algorithm())
		}
	}
	body, _ := encode(struct { // strings alone always have a text
		Issuer        string   `json:"issuer"`
		KeySet        string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{
		Issuer:        c.issuer,
		KeySet:        strings.TrimSuffix(c.issuer, "/") + keySetPath,
		ResponseTypes: []string{"id_token"},
		SubjectTypes:  []string{"public"},
		Algorithms:    algorithms,
	})
	return newDocument(body)
}
