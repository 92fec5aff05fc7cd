package phantomtest_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/phantomtest"
)

// parts are the header and the claims of a JWT.
func parts(t *testing.T, jwt string) (header, claims map[string]any) {
	t.Helper()
	segments := strings.Split(jwt, ".")
	if len(segments) != 3 {
		t.Fatalf("%d segments", len(segments))
	}
	for i, to := range []*map[string]any{&header, &claims} {
		octets, err := base64.RawURLEncoding.DecodeString(segments[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(octets, to); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

func TestAProofPassesWherePackageDPoPChecksIt(t *testing.T) {
	binding, err := dpop.New("https://rs.test")
	if err != nil {
		t.Fatal(err)
	}
	key := phantomtest.NewProofKey()
	for _, tc := range []struct {
		name  string
		proof phantomtest.Proof
		good  bool
	}{
		{"good", phantomtest.Proof{Method: "GET", URI: "https://rs.test/orders", Token: "opaque"}, true},
		{"another one", phantomtest.Proof{Method: "GET", URI: "https://rs.test/orders", Token: "opaque"}, true},
		{"no token", phantomtest.Proof{Method: "GET", URI: "https://rs.test/orders"}, false},
		{"wrong header", phantomtest.Proof{Method: "GET", URI: "https://rs.test/orders", Token: "opaque", Header: map[string]any{"typ": "JWT"}}, false},
		{"wrong claim", phantomtest.Proof{Method: "GET", URI: "https://rs.test/orders", Token: "opaque", Claims: map[string]any{"iat": 1}}, false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/orders", nil)
		r.Header.Set("DPoP", key.Sign(tc.proof))
		if err := binding.Check(r, "opaque", key.Thumbprint()); (err == nil) != tc.good {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestAProofSaysWhatItWasTold(t *testing.T) {
	header, claims := parts(t, phantomtest.NewProofKey().Sign(phantomtest.Proof{
		Method: "GET", URI: "https://rs.test/", Nonce: "n",
		Header: map[string]any{"alg": nil, "kid": "k"},
		Claims: map[string]any{"htm": nil, "x": 1, "jti": "j"},
	}))
	if header["alg"] != nil || header["kid"] != "k" || header["typ"] != "dpop+jwt" || header["jwk"] == nil {
		t.Errorf("header %v", header)
	}
	if claims["htm"] != nil || claims["x"] != 1.0 || claims["jti"] != "j" || claims["nonce"] != "n" || claims["ath"] != nil {
		t.Errorf("claims %v", claims)
	}
}

func TestIssueBoundBinds(t *testing.T) {
	as := phantomtest.New(phantomtest.WithJSONResponse("phantom_token"))
	for _, tc := range []struct{ method, thumbprint string }{
		{"jkt", phantomtest.NewProofKey().Thumbprint()},
		{"x5t#S256", phantomtest.CertificateThumbprint(&x509.Certificate{Raw: []byte("DER")})},
	} {
		token := as.IssueBound(tc.method, tc.thumbprint, map[string]any{"sub": "bob"})
		r := httptest.NewRequest(http.MethodPost, "https://as.test/introspect", strings.NewReader("token="+token))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth("gateway", "gateway-secret")
		w := httptest.NewRecorder()
		as.ServeHTTP(w, r)
		var answer struct {
			Sub string
			Cnf map[string]string
			JWT string `json:"phantom_token"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		_, claims := parts(t, answer.JWT)
		cnf, _ := claims["cnf"].(map[string]any)
		if answer.Sub != "bob" || answer.Cnf[tc.method] != tc.thumbprint || cnf[tc.method] != tc.thumbprint || len(tc.thumbprint) != 43 {
			t.Errorf("%s: %s", tc.method, w.Body)
		}
	}
}
