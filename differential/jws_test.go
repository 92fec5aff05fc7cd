package differential_test

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/phantom-token/phantom"
)

// memory serves a handler as a transport.
type memory struct{ http.Handler }

func (h memory) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

// FuzzJWS: whatever phantom accepts, go-jose accepts with one of the same keys
// and the same algorithms, and reads the same payload in it. The input is
// either signed with one of the keys and then changed in one place, or taken
// as it is.
func FuzzJWS(f *testing.F) {
	payload := `{"iss":"https://as.test","aud":"https://rs.test","sub":"alice","exp":4102444800}`
	for i, alg := range algorithms {
		header := fmt.Sprintf(`{"alg":%q,"kid":"k-%s"}`, alg, alg)
		f.Add(byte(i), header, payload, uint16(0), byte(0), "")
		f.Add(byte(i), fmt.Sprintf(`{"alg":%q}`, alg), payload, uint16(0), byte(0), "")
		f.Add(byte(i), header, payload, uint16(3), byte('='), "")
		f.Add(byte(i+1), header, payload, uint16(0), byte(0), "")
		f.Add(byte(i), header, payload, uint16(65535), byte('_'), "")
	}
	for _, header := range []string{
		`{"alg":"none"}`, `{"alg":"EdDSA","crit":["exp"],"exp":1}`, `{"alg":"EdDSA","b64":false}`, `{"alg":"EdDSA","crit":[]}`,
		`{"alg":"EdDSA","alg":"EdDSA"}`, `{"alg":"EdDSA","ALG":"none"}`, `{"\u0061lg":"EdDSA"}`, ` {"alg" : "EdDSA"} `,
		`{"alg":"EdDSA","typ":"at+jwt","cty":"x","x":{"y":[1,2.5e3,null]}}`, `{"alg":"EdDSA","kid":"k-EdDSA\u0000"}`,
		`{"alg":"EdDSA","jku":"https://evil.test/","x5u":"https://evil.test/","x5t":"AAAA"}`, `{"alg":"EdDSA","jwk":{"kty":"oct"}}`,
		`{"alg":"EdDSA","nonce":1}`, `{"alg":"EdDSA","x5c":["AAAA"]}`, `{"alg":"HS256"}`, "{}", "[]", "null", "",
	} {
		f.Add(byte(9), header, payload, uint16(0), byte(0), "")
	}
	for _, p := range []string{
		payload + "{}", strings.Replace(payload, "alice", "al\xffce", 1), strings.TrimSuffix(payload, "}") + `,"sub":"b"}`, " " + payload + "\n",
		strings.Replace(payload, "alice", `\ud83d\ude00`, 1), "[]", "", "\ufeff" + payload,
	} {
		f.Add(byte(9), `{"alg":"EdDSA"}`, p, uint16(0), byte(0), "")
	}
	good := compact(jose.EdDSA, `{"alg":"EdDSA"}`, payload)
	part := strings.Split(good, ".")
	for _, jwt := range []string{
		good, good + "=", good + "\n", " " + good, good + ".", part[0] + "." + part[1] + ".", "..", ".",
		fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, part[1], part[0], part[2]),
	} {
		f.Add(byte(9), "", "", uint16(0), byte(0), jwt)
	}

	static := phantom.StaticKeys(publicKeys()...)
	byStatic := middleware(f, phantom.WithKeySet(static))
	byRemote := middleware(f, phantom.WithJWKSURL(issuer+"/jwks"),
		phantom.WithHTTPClient(&http.Client{Transport: memory{serveJSON(jwkSet())}}))
	if err := byRemote.Warm(f.Context()); err != nil {
		f.Fatal(err)
	}

	f.Fuzz(func(t *testing.T, which byte, header, payload string, at uint16, to byte, raw string) {
		jwt := raw
		if jwt == "" {
			changed := []byte(compact(algorithms[int(which)%len(algorithms)], header, payload))
			if to != 0 {
				changed[int(at)%len(changed)] = to
			}
			jwt = string(changed)
		}
		if got, err := static.VerifySignature(t.Context(), jwt); err == nil {
			if !agrees(t, jwt, got, publicKeys()) {
				t.Errorf("StaticKeys accepts %q", jwt)
			}
		}
		for name, m := range map[string]*phantom.Middleware{"static keys": byStatic, "a key set": byRemote} {
			tok, err := verify(t.Context(), m, jwt)
			if err != nil {
				continue
			}
			var payload json.RawMessage
			if err := tok.Decode(&payload); err != nil {
				t.Error(err)
			}
			var keys any = jwkSet()
			if m == byStatic {
				keys = publicKeys()
			}
			if tok.JWT() != jwt || !agrees(t, jwt, payload, keys) {
				t.Errorf("a Middleware with %s accepts %q", name, jwt)
			}
		}
	})
}

// agrees reports whether go-jose verifies jwt with one of the keys, and reads
// the payload that phantom read. Spaces around the payload are not part of the
// claims.
func agrees(t *testing.T, jwt string, payload []byte, keys any) bool {
	t.Helper()
	jws, err := jose.ParseSignedCompact(jwt, algorithms)
	if err != nil {
		if readsHeaderKeys(jwt) {
			return true
		}
		t.Logf("go-jose: %v", err)
		return false
	}
	var candidates []any
	switch keys := keys.(type) {
	case []crypto.PublicKey:
		for _, key := range keys {
			candidates = append(candidates, key)
		}
	case jose.JSONWebKeySet:
		for _, key := range keys.Keys {
			if id := jws.Signatures[0].Header.KeyID; id == "" || key.KeyID == id {
				candidates = append(candidates, key)
			}
		}
	}
	for _, key := range candidates {
		if got, err := jws.Verify(key); err == nil {
			return bytes.Equal(bytes.Trim(got, " \t\r\n"), bytes.Trim(payload, " \t\r\n"))
		}
	}
	t.Log("go-jose: no key verifies it")
	return false
}

// readsHeaderKeys reports whether the header has a member that go-jose reads
// and phantom, by design, does not look at: go-jose may find it malformed.
func readsHeaderKeys(jwt string) bool {
	segment, _, _ := strings.Cut(jwt, ".")
	var members map[string]json.RawMessage
	if json.Unmarshal(must(base64.RawURLEncoding.DecodeString(segment)), &members) != nil {
		return false
	}
	for _, name := range []string{"jwk", "x5c", "nonce"} {
		if _, ok := members[name]; ok {
			return true
		}
	}
	return false
}

// TestEveryAlgorithm keeps the comparison from being about nothing: both
// accept what is good.
func TestEveryAlgorithm(t *testing.T) {
	m := middleware(t, phantom.WithKeySet(phantom.StaticKeys(publicKeys()...)))
	for _, alg := range algorithms {
		jwt := mint(alg)
		tok, err := verify(t.Context(), m, jwt)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		var payload json.RawMessage
		if err := tok.Decode(&payload); err != nil || !agrees(t, jwt, payload, publicKeys()) || !agrees(t, jwt, payload, jwkSet()) {
			t.Errorf("%s: %s, %v", alg, payload, err)
		}
	}
}
