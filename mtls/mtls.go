// Package mtls checks that the sender of a request has the certificate that its
// token is bound to (RFC 8705), so that a token alone is of no use to a thief.
//
// Use it when clients authenticate at the authorization server with a
// certificate, and it then puts the member x5t#S256 into the token's cnf.
//
//	auth, err := phantom.New(…, phantom.WithBinding(mtls.New(nil)))
//	…
//	server.TLSConfig = &tls.Config{ClientAuth: tls.RequestClientCert}
//
// # Proxies
//
// Where a proxy ends TLS, the certificate comes in a field that the proxy sets.
// [FromClientCert] reads the one of RFC 9440. Any client that reaches this
// service past the proxy could set it too, so nothing reads it by default.
//
// # Clocks
//
// None are involved: a certificate is compared, and its time is not checked.
//
// # What the upstream sees
//
// The upstream gets the JWT, and neither Client-Cert nor Client-Cert-Chain. It
// must trust this service for the check: the connection to the upstream is
// this service's, not the client's.
package mtls

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"github.com/phantom-token/phantom"
)

// clientCert is the field of RFC 9440 section 2.2.
const clientCert = "Client-Cert"

// New returns the Binding of RFC 8705 section 3. Give it to
// phantom.WithBinding. To refuse tokens that are bound to no certificate, set
// its field Required first.
//
// certificate returns the client's certificate, and is called by many
// goroutines at once; nil stands for the one of the connection,
// r.TLS.PeerCertificates[0]. Its chain and its dates are not checked: section
// 6.2 does not ask for that, so tls.RequestClientCert or
// tls.RequireAnyClientCert is enough. TLS has already checked that the client
// has the private key.
//
// Another certificate or none is refused with 401, invalid_token. An error of
// certificate refuses too: a [*phantom.Error] as it says, one that wraps
// [phantom.ErrUnavailable] or [phantom.ErrUpstream] with 503 or 502, and any
// other with 401.
//
// The fields Client-Cert and Client-Cert-Chain are not handed on, in either
// case: an upstream could believe what a client wrote there.
func New(certificate func(*http.Request) (*x509.Certificate, error)) phantom.Binding {
	if certificate == nil {
		certificate = ofConnection
	}
	return phantom.Binding{
		Method: "x5t#S256",
		Fields: []string{clientCert, "Client-Cert-Chain"},
		Check: func(r *http.Request, _, thumbprint string) error {
			cert, err := certificate(r)
			if err != nil {
				return ofCertificate(err)
			}
			if cert == nil {
				return refused("no certificate")
			}
			// The DER is compared, as it came (section 3.1).
			sum := sha256.Sum256(cert.Raw)
			own := base64.RawURLEncoding.EncodeToString(sum[:])
			if len(cert.Raw) == 0 || subtle.ConstantTimeCompare([]byte(own), []byte(thumbprint)) != 1 {
				return refused("another certificate")
			}
			return nil
		},
	}
}

func ofConnection(r *http.Request) (*x509.Certificate, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, refused("no certificate")
	}
	return r.TLS.PeerCertificates[0], nil
}

// FromClientCert reads the certificate from Client-Cert (RFC 9440 section
// 2.2): one field, a byte sequence of structured fields, in it the DER of one
// certificate. Give it to [New]. It is only for servers that nothing but the
// proxy that sets the field can reach; the proxy must remove a field that the
// client sent (section 4). Anything else in the field, and its absence, is a
// [*phantom.Error] with status 401.
func FromClientCert(r *http.Request) (*x509.Certificate, error) {
	var values []string
	for name, lines := range r.Header {
		if strings.EqualFold(name, clientCert) {
			values = append(values, lines...)
		}
	}
	if len(values) != 1 {
		return nil, refused("not one Client-Cert")
	}
	der, ok := byteSequence(values[0])
	if !ok {
		return nil, refused("Client-Cert")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil { // its text could quote the certificate
		return nil, refused("Client-Cert")
	}
	return cert, nil
}

// byteSequence reads a byte sequence without parameters (RFC 9651 sections
// 3.3.5 and 4.2.7). As the latter says, padding may be missing, and the bits
// behind the last octet do not matter.
func byteSequence(value string) (octets []byte, ok bool) {
	value = strings.Trim(value, " ")
	text, opened := strings.CutPrefix(value, ":")
	text, closed := strings.CutSuffix(text, ":")
	if !opened || !closed || strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil, false
	}
	encoding := base64.RawStdEncoding
	if strings.HasSuffix(text, "=") {
		encoding = base64.StdEncoding
	}
	octets, err := encoding.DecodeString(text)
	return octets, err == nil
}

// ofCertificate lets through what a certificate function may say by itself.
func ofCertificate(err error) error {
	var own *phantom.Error
	if errors.As(err, &own) || errors.Is(err, phantom.ErrUnavailable) || errors.Is(err, phantom.ErrUpstream) {
		return err
	}
	return refused("no certificate")
}

func refused(check string) *phantom.Error {
	return &phantom.Error{Reason: phantom.ReasonBinding, Detail: "mtls " + check}
}
