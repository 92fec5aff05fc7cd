package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// asClient has the authorization server take a request for the client's once a
// test has looked at its credentials.
func (s *site) asClient(look func(r *http.Request)) {
	s.asServer.be(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/introspect" {
			look(r)
			r.SetBasicAuth("gateway+client", "s3cr3t%3A+100+%25+of%2Bthe%2Fgateway")
		}
		s.as.ServeHTTP(w, r)
	})
}

// An assertion is signed with the key of the file.
func TestPrivateKeyJWT(t *testing.T) {
	s := newSite(t)
	file := mintKeys(t, 1)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Bool
	s.asClient(func(r *http.Request) {
		seen.Store(true)
		assertion := s.secret(r.PostFormValue("client_assertion"))
		parts := strings.Split(assertion, ".")
		if len(parts) != 3 {
			t.Errorf("assertion %q", assertion)
			return
		}
		sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
		left, right := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		if !ecdsa.Verify(&key.(*ecdsa.PrivateKey).PublicKey, sum[:], left, right) {
			t.Error("the signature is wrong")
		}
		var header, claims map[string]any
		for i, v := range []*map[string]any{&header, &claims} {
			text, _ := base64.RawURLEncoding.DecodeString(parts[i])
			_ = json.Unmarshal(text, v)
		}
		if header["kid"] != "one" || header["alg"] != "ES256" || claims["iss"] != clientID || claims["aud"] != s.issuer {
			t.Errorf("header %v, claims %v", header, claims)
		}
	})
	g := s.start(t, map[string]string{"client-auth": "private_key_jwt", "key-file": file, "key-id": "one"})
	g.get(t, "/", s.issue(nil)).served(t)
	if !seen.Load() {
		t.Error("nothing was asked")
	}
}

// secureSite has an authorization server that wants a client certificate. ca is
// the file with the certificate to trust.
func secureSite(t *testing.T) (s *site, ca string, presented func() []byte) {
	t.Helper()
	ca, key, _ := makeCertificate(t)
	pair, err := tls.LoadX509KeyPair(ca, key)
	if err != nil {
		t.Fatal(err)
	}
	s = newSiteOver(t, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert})
	last := make(chan []byte, 1)
	s.asClient(func(r *http.Request) {
		var certificate []byte
		if len(r.TLS.PeerCertificates) > 0 && r.PostFormValue("client_id") == clientID {
			certificate = r.TLS.PeerCertificates[0].Raw
		}
		select {
		case <-last:
		default:
		}
		last <- certificate
	})
	return s, ca, func() []byte { return <-last }
}

// Certificates are those that the files have now, on a connection that was
// open before, too. While the files do not fit, the one of before is used.
func TestCertificatesAreReadAgain(t *testing.T) {
	s, ca, presented := secureSite(t)
	cert, key, _ := makeCertificate(t)
	env := []string{"SSL_CERT_FILE=" + ca}
	g := s.startWith(t, s.args(map[string]string{
		"client-auth": "tls", "cert-file": cert, "key-file": key, "tls-cert": cert, "tls-key": key,
	}), env)
	server := func() []byte {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(g.url, "https://"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Raw
	}
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: patience}
	defer insecure.CloseIdleConnections()
	lookup := func() []byte {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url, nil)
		req.Header.Set("Authorization", "Bearer "+s.issue(nil))
		fetch(t, insecure, req).served(t)
		return presented()
	}
	contentOf := func(file string) []byte {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(content)
		return block.Bytes
	}
	expect := func(when string, want []byte) {
		t.Helper()
		for range 2 {
			if !bytes.Equal(lookup(), want) {
				t.Errorf("%s: another certificate is shown to the authorization server", when)
			}
		}
		if !bytes.Equal(server(), want) {
			t.Errorf("%s: another certificate is shown to clients", when)
		}
	}
	replace := func(file, by string) {
		t.Helper()
		if err := os.Rename(by, file); err != nil {
			t.Fatal(err)
		}
		_ = os.Chtimes(file, time.Now(), time.Now())
	}
	first := contentOf(cert)
	expect("at first", first)
	newCert, newKey, _ := makeCertificate(t)
	second := contentOf(newCert)
	replace(cert, newCert)
	expect("with the key of before", first)
	replace(key, newKey)
	expect("after the change", second)
	if err := os.WriteFile(cert, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect("with an empty file", second)
}
