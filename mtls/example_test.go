package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/phantom-token/phantom/mtls"
	"github.com/phantom-token/phantom/phantomtest"
)

// The token is bound to one certificate, and another one does not help.
func ExampleNew() {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	own, other := server.Certificate(), &x509.Certificate{Raw: []byte("another")}

	binding := mtls.New(nil)
	thumbprint := phantomtest.CertificateThumbprint(own) // as the token's cnf has it
	for _, cert := range []*x509.Certificate{own, other} {
		r := httptest.NewRequest(http.MethodGet, "/orders", nil)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
		fmt.Println(binding.Check(r, "opaque-token", thumbprint))
	}

	// Output:
	// <nil>
	// phantom: binding: mtls another certificate
}
