package proof_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/url"
	"strings"
	"testing"

	"github.com/phantom-token/phantom/internal/proof"
)

// FuzzParse has a second reader: what passes as ES256 must also pass with the
// standard library's JSON and ECDSA, and say the same there.
func FuzzParse(f *testing.F) {
	good := compact("ES256", keyFor("ES256"), changed(headerOf("ES256"), nil), goodClaims)
	parts := strings.Split(good, ".")
	for _, header := range []map[string]any{
		nil, {"typ": 1}, {"jwk": nil}, {"alg": "none"}, {"jwk": []any{}}, {"jwk": map[string]any{"kty": "RSA", "n": "AQ", "e": "Aw"}},
		{"jwk": map[string]any{"kty": "EC", "crv": "P-256", "x": "", "y": ""}}, {"crit": []string{"x"}}, {"x5c": "x"},
	} {
		f.Add(changed(headerOf("ES256"), header), goodClaims, parts[2])
	}
	for _, claims := range []string{`{}`, `{"iat":1e9}`, `{"htm":{}}`, `[]`, `{"a":1,"a":2}`, ``} {
		f.Add(changed(headerOf("ES256"), nil), claims, parts[2])
	}
	f.Add(changed(headerOf("ES256"), nil), goodClaims, "")
	f.Fuzz(func(t *testing.T, header, claims, signature string) {
		for _, signed := range []bool{false, true} {
			input := b64([]byte(header)) + "." + b64([]byte(claims))
			text := input + "." + signature
			if signed {
				text = input + "." + b64(rawSign("ES256", keyFor("ES256"), input))
			}
			p, err := proof.Parse(text, []string{"ES256"})
			if err != nil {
				if p != nil || faultOf(err) == "" {
					t.Fatalf("%v, %v", p, err)
				}
				continue
			}
			checkWithStandardLibrary(t, text, p)
		}
	})
}

func checkWithStandardLibrary(t *testing.T, text string, p *proof.Proof) {
	t.Helper()
	parts := strings.Split(text, ".")
	var octets [3][]byte
	for i, part := range parts {
		octets[i] = must(base64.RawURLEncoding.DecodeString(part))
	}
	var header struct {
		Typ, Alg string
		JWK      map[string]any
	}
	if err := json.Unmarshal(octets[0], &header); err != nil {
		t.Fatal(err)
	}
	if !strings.EqualFold(header.Typ, "dpop+jwt") || header.Alg != "ES256" || header.JWK["d"] != nil || header.JWK["kty"] != "EC" {
		t.Fatalf("accepted %s", octets[0])
	}
	x := must(base64.RawURLEncoding.DecodeString(header.JWK["x"].(string)))
	y := must(base64.RawURLEncoding.DecodeString(header.JWK["y"].(string)))
	pub := must(ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...)))
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(octets[2][:32]), new(big.Int).SetBytes(octets[2][32:])
	if !ecdsa.Verify(pub, digest[:], r, s) {
		t.Fatal("accepted a signature that does not verify")
	}
	if want := sha256.Sum256([]byte(changed(jwkOf(pub), nil))); p.Thumbprint != b64(want[:]) {
		t.Fatal("another thumbprint")
	}
	var said map[string]any
	if err := json.Unmarshal(octets[1], &said); err != nil {
		t.Fatal(err)
	}
	if htm, ok := p.Text("htm"); ok && said["htm"] != htm {
		t.Fatalf("htm %q, %v", htm, said["htm"])
	}
}

// FuzzTarget compares two URIs also as net/url reads them: what is equal here
// is one scheme, host, port and path there.
func FuzzTarget(f *testing.F) {
	for _, uri := range []string{
		"https://api.example.com/a", "https://API.example.com:443/%61?q#f", "https://h", "http://h:80/", "https://[::1]:443/x",
		"https://h//x", "https://h/%2F", "https://h/%", "https://u@h/", "https://h:/", "https://h::", "https://h:443:443", "//h/x", "https://h/a/../b", "https://h/%7e",
	} {
		f.Add(uri, "https://api.example.com/a")
		f.Add(uri, uri+"?x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		normalA, okA := proof.Normalize(a)
		normalB, okB := proof.Normalize(b)
		if okA != (normalA != "") {
			t.Fatalf("%q: %q, %v", a, normalA, okA)
		}
		if again, ok := proof.Normalize(normalA); okA && (again != normalA || !ok) && !strings.Contains(normalA, "#") {
			t.Fatalf("%q: not stable: %q, %q", a, normalA, again)
		}
		if more, _ := proof.Normalize(a + "?q#f"); okA && more != normalA {
			t.Fatalf("%q: query and fragment matter: %q", a, more)
		}
		if !okA || !okB || normalA != normalB {
			return
		}
		urlA, errA := url.Parse(a)
		urlB, errB := url.Parse(b)
		if errA != nil || errB != nil {
			return
		}
		if partsOf(urlA) != partsOf(urlB) {
			t.Fatalf("%q and %q are equal, and are %q and %q elsewhere", a, b, partsOf(urlA), partsOf(urlB))
		}
	})
}

// partsOf is what a target is, to net/url.
func partsOf(u *url.URL) [4]string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	path := u.Path
	if path == "" {
		path = "/"
	}
	return [4]string{u.Scheme, strings.ToLower(u.Hostname()), port, path}
}
