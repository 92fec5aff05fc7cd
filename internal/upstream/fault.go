package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"

	"github.com/phantom-token/phantom/internal/failure"
)

// unanswered is the failure of a request that got no answer.
func unanswered(detail string, err error) error {
	f := failure.Because(failure.Unavailable, detail, Cause(err))
	f.Unanswered = true
	return f
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

func isUntrusted(err error) bool {
	var untrusted *tls.CertificateVerificationError
	return errors.As(err, &untrusted)
}

// connectionFault returns a fixed text for the way in which an exchange failed.
func connectionFault(err error) string {
	var (
		dns    *net.DNSError
		op     *net.OpError
		record tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &dns):
		return "name resolution"
	case isUntrusted(err):
		return "TLS: " + certificateFault(err)
	case errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/":
		return "TLS: plain http there"
	case errors.As(err, &record),
		errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"): // an alert
		return "TLS"
	case isTimeout(err):
		return "timeout"
	case errors.As(err, &op) && op.Op == "dial":
		return "connecting"
	}
	return "connection"
}

// certificateFault says what is wrong with the server's certificate. It shows
// nothing that is written in it.
func certificateFault(err error) string {
	var (
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &host):
		return "certificate for another host"
	case errors.As(err, &authority):
		return "certificate of an unknown authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "certificate expired or not yet valid"
	}
	return "certificate not valid"
}

// Cause returns the part of a transport's error that cannot quote a URL, the
// bytes of an answer or a certificate.
func Cause(err error) error {
	var (
		dns *net.DNSError
		op  *net.OpError
	)
	switch {
	case isUntrusted(err): // however it is wrapped
		return nil
	case errors.As(err, &dns):
		return dns
	case errors.As(err, &op):
		return op
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, io.EOF):
		return io.EOF
	}
	return nil
}
