package mtls_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/mtls"
	"github.com/phantom-token/phantom/phantomtest"
)

// newCertificate returns a self-signed certificate that expired long ago.
func newCertificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "client"},
		NotBefore:    time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func thumbprint(cert *x509.Certificate) string { return phantomtest.CertificateThumbprint(cert) }

func request(certs ...*x509.Certificate) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: certs}
	return r
}

// outcome names what an error of Check makes of a request.
func outcome(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return "OK"
	}
	var e *phantom.Error
	if !errors.As(err, &e) {
		t.Fatalf("not an *Error: %v", err)
	}
	if e.Reason != phantom.ReasonBinding || e.StatusCode() != 401 || e.Code != "" || e.Scheme != "" || e.Err != nil ||
		!errors.Is(err, phantom.ErrInvalidToken) {
		t.Fatalf("unfit %#v", e)
	}
	return "401T " + strings.TrimPrefix(e.Detail, "mtls ")
}

func TestTheBindingSaysWhatItIsFor(t *testing.T) {
	b := mtls.New(nil)
	if b.Method != "x5t#S256" || b.Scheme != "" || len(b.Params) > 0 || b.Required {
		t.Errorf("%+v", b)
	}
	if fmt.Sprint(b.Fields) != "[Client-Cert Client-Cert-Chain]" {
		t.Errorf("a client's word would reach the upstream: %v", b.Fields)
	}
}

// Catalogue: E19.
func TestATokenNeedsItsCertificate(t *testing.T) {
	own, other := newCertificate(t).Leaf, newCertificate(t).Leaf
	noTLS := request()
	noTLS.TLS = nil
	for _, tc := range []struct {
		name       string
		r          *http.Request
		thumbprint string
		want       string
	}{
		{"right, self-signed and expired", request(own), thumbprint(own), "OK"},
		{"right, with a chain", request(own, other), thumbprint(own), "OK"},
		{"another", request(other), thumbprint(own), "401T another certificate"},
		{"in the chain", request(other, own), thumbprint(own), "401T another certificate"},
		{"none", request(), thumbprint(own), "401T no certificate"},
		{"no TLS", noTLS, thumbprint(own), "401T no certificate"},
		{"nil", request(nil), thumbprint(own), "401T no certificate"},
		{"padded", request(own), thumbprint(own) + "=", "401T another certificate"},
		{"no thumbprint", request(own), "", "401T another certificate"},
		{"a certificate without bytes", request(&x509.Certificate{}), thumbprint(&x509.Certificate{}), "401T another certificate"},
	} {
		if got := outcome(t, mtls.New(nil).Check(tc.r, "token", tc.thumbprint)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// Over a real connection, with the setting that the package comment names.
func TestTheCertificateOfTheConnectionCounts(t *testing.T) {
	own, other := newCertificate(t), newCertificate(t)
	var outcomes []string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		outcomes = append(outcomes, outcome(t, mtls.New(nil).Check(r, "token", thumbprint(own.Leaf))))
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	defer server.Close()
	for _, certs := range [][]tls.Certificate{{own}, {other}, nil} {
		client := server.Client()
		transport := client.Transport.(*http.Transport).Clone()
		transport.TLSClientConfig.Certificates = certs
		r, _ := http.NewRequest(http.MethodGet, server.URL, nil)
		r.Header.Set("Client-Cert", field(own.Leaf.Raw))
		res, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		transport.CloseIdleConnections()
	}
	if got := strings.Join(outcomes, ", "); got != "OK, 401T another certificate, 401T no certificate" {
		t.Error(got)
	}
}

// Catalogue: E20.
func TestAFieldIsBelievedOnlyIfConfigured(t *testing.T) {
	own := newCertificate(t).Leaf
	r := request()
	r.Header.Set("Client-Cert", field(own.Raw))
	if got := outcome(t, mtls.New(nil).Check(r, "token", thumbprint(own))); got != "401T no certificate" {
		t.Error(got)
	}
	if got := outcome(t, mtls.New(mtls.FromClientCert).Check(r, "token", thumbprint(own))); got != "OK" {
		t.Error(got)
	}
	r = request(own) // the proxy's own connection
	if got := outcome(t, mtls.New(mtls.FromClientCert).Check(r, "token", thumbprint(own))); got != "401T not one Client-Cert" {
		t.Errorf("certificate of the proxy: %s", got)
	}
}

func field(der []byte) string { return ":" + base64.StdEncoding.EncodeToString(der) + ":" }

// Catalogue: E20.
func TestClientCertIsOneByteSequence(t *testing.T) {
	own := newCertificate(t).Leaf
	good := field(own.Raw)
	pemText := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Raw}))
	for _, tc := range []struct {
		name   string
		values map[string][]string
		want   string
	}{
		{"good", map[string][]string{"Client-Cert": {good}}, "OK"},
		{"another spelling", map[string][]string{"client-CERT": {good}}, "OK"},
		{"spaces around", map[string][]string{"Client-Cert": {" " + good + " "}}, "OK"},
		{"no padding", map[string][]string{"Client-Cert": {strings.ReplaceAll(good, "=", "")}}, "OK"},

		{"none", nil, "401T not one Client-Cert"},
		{"two", map[string][]string{"Client-Cert": {good, good}}, "401T not one Client-Cert"},
		{"two spellings", map[string][]string{"Client-Cert": {good}, "client-cert": {good}}, "401T not one Client-Cert"},
		{"another field", map[string][]string{"X-Client-Cert": {good}, "Client-Cert-Chain": {good}}, "401T not one Client-Cert"},
		{"empty", map[string][]string{"Client-Cert": {""}}, "401T Client-Cert"},
		{"a colon", map[string][]string{"Client-Cert": {":"}}, "401T Client-Cert"},
		{"no bytes", map[string][]string{"Client-Cert": {"::"}}, "401T Client-Cert"},
		{"no colons", map[string][]string{"Client-Cert": {strings.Trim(good, ":")}}, "401T Client-Cert"},
		{"one colon", map[string][]string{"Client-Cert": {good[1:]}}, "401T Client-Cert"},
		{"parameters", map[string][]string{"Client-Cert": {good + ";a=1"}}, "401T Client-Cert"},
		{"a list", map[string][]string{"Client-Cert": {good + ", " + good}}, "401T Client-Cert"},
		{"a string", map[string][]string{"Client-Cert": {`"` + strings.Trim(good, ":") + `"`}}, "401T Client-Cert"},
		{"base64url", map[string][]string{"Client-Cert": {":-_" + good[3:]}}, "401T Client-Cert"},
		{"not base64", map[string][]string{"Client-Cert": {":!" + good[2:]}}, "401T Client-Cert"},
		{"line break", map[string][]string{"Client-Cert": {good[:9] + "\r\n" + good[9:]}}, "401T Client-Cert"},
		{"not DER", map[string][]string{"Client-Cert": {field([]byte("certificate"))}}, "401T Client-Cert"},
		{"bytes behind", map[string][]string{"Client-Cert": {field(append(own.Raw[:len(own.Raw):len(own.Raw)], 0))}}, "401T Client-Cert"},
		{"cut off", map[string][]string{"Client-Cert": {field(own.Raw[:len(own.Raw)-1])}}, "401T Client-Cert"},
		{"PEM", map[string][]string{"Client-Cert": {field([]byte(pemText))}}, "401T Client-Cert"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for name, values := range tc.values {
			r.Header[name] = values
		}
		if got := outcome(t, mtls.New(mtls.FromClientCert).Check(r, "token", thumbprint(own))); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// The certificate of RFC 9440 section 2.4 (B64 of its figure 2).
const printedField = ":MIIBqDCCAU6gAwIBAgIBBzAKBggqhkjOPQQDAjA6MRswGQYDVQQKDBJMZXQncyBBdXRoZW50aWNhdGUxGzAZBgNVBAMMEkxBIEludGVybWVkaWF0ZSBDQTAeFw" +
	"0yMDAxMTQyMjU1MzNaFw0yMTAxMjMyMjU1MzNaMA0xCzAJBgNVBAMMAkJDMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8YnXXfaUgmnMtOXU/IncWalRhebrXmck" +
	"C8vdgJ1p5Be5F/3YC8OthxM4+k1M6aEAEFcGzkJiNy6J84y7uzo9M6NyMHAwCQYDVR0TBAIwADAfBgNVHSMEGDAWgBRm3WjLa38lbEYCuiCPct0ZaSED2DAOBgNVHQ8" +
	"BAf8EBAMCBsAwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0RAQH/BBMwEYEPYmRjQGV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIBHda/r1vaL6G3VliL4/Di" +
	"6YK0Q6bMjeSkC3dFCOOB8TAiEAx/kHSB4urmiZ0NX5r5XarmPk0wmuydBVoU4hBVZ1yhk=:"

func TestTheFieldOfTheRFCIsRead(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Client-Cert", printedField)
	cert, err := mtls.FromClientCert(r)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "BC" || cert.Issuer.CommonName != "LA Intermediate CA" {
		t.Errorf("%v by %v", cert.Subject, cert.Issuer)
	}
}

// RFC 8705 appendix A.
const (
	printedThumbprint  = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
	printedCertificate = `-----BEGIN CERTIFICATE-----
MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAx
ODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwEbXRsczBZMBMGByqG
SM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ
/Au08/coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwID
SQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOV
bUlJSGQgjwD5vaUaKlLR50Q2DmFfQj1L+SY=
-----END CERTIFICATE-----
`
)

func TestTheCertificateOfTheRFCPasses(t *testing.T) {
	block, _ := pem.Decode([]byte(printedCertificate))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if got := outcome(t, mtls.New(nil).Check(request(cert), "token", printedThumbprint)); got != "OK" {
		sum := sha256.Sum256(cert.Raw)
		t.Errorf("%s: %x", got, sum)
	}
}

func TestTheErrorOfACertificateFunctionRefuses(t *testing.T) {
	own := newCertificate(t).Leaf
	withError := func(err error) error {
		b := mtls.New(func(*http.Request) (*x509.Certificate, error) { return own, err })
		return b.Check(request(own), "token", thumbprint(own))
	}
	if got := outcome(t, withError(nil)); got != "OK" {
		t.Error(got)
	}
	for _, err := range []error{errors.New("secret"), context.Canceled} {
		if got := outcome(t, withError(err)); got != "401T no certificate" {
			t.Errorf("%v: %s", err, got)
		}
	}
	own401 := &phantom.Error{Reason: phantom.ReasonBinding, Detail: "mtls of our own"}
	if got := outcome(t, withError(fmt.Errorf("x: %w", own401))); got != "401T of our own" {
		t.Error(got)
	}
	for _, sentinel := range []error{phantom.ErrUnavailable, phantom.ErrUpstream} {
		if err := withError(fmt.Errorf("x: %w", sentinel)); !errors.Is(err, sentinel) {
			t.Errorf("%v became %v", sentinel, err)
		}
	}
}
