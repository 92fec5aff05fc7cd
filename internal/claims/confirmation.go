package claims

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/phantom-token/phantom/internal/jose"
)

// The confirmation methods that can be checked: the key of a proof (RFC 9449
// section 6.1) and the client's certificate (RFC 8705 section 3.1).
const (
	KeyThumbprint         = "jkt"
	CertificateThumbprint = "x5t#S256"
)

// methods are all members of cnf that tie a token to a key (RFC 7800 section
// 3). Others may stand beside them: Keycloak writes kc-jkt-type.
var methods = []string{KeyThumbprint, CertificateThumbprint, "jwk", "jwe", "jku", "kid"}

// A Confirmation is what a token is bound to. The zero Confirmation is that of
// a plain bearer token.
type Confirmation struct{ key, certificate string }

// Thumbprint returns the value of KeyThumbprint or CertificateThumbprint; empty
// if the token does not have this member.
func (c Confirmation) Thumbprint(method string) string {
	switch method {
	case KeyThumbprint:
		return c.key
	case CertificateThumbprint:
		return c.certificate
	}
	return ""
}

// confirmation reads the cnf claim (RFC 7800). ok is false if the token is
// bound in a way that is not checked here: it must not pass as a plain bearer
// token (RFC 9449 section 7.2, RFC 8705 section 3).
func (r *Rules) confirmation(claims jose.Object) (c Confirmation, ok bool) {
	cnf, given := lookUp(claims, "cnf")
	if !given {
		return c, true
	}
	members, isObject := cnf.Object()
	if !isObject {
		return c, false
	}
	for name, value := range members.All() {
		isMethod := slices.ContainsFunc(methods, func(m string) bool { return strings.EqualFold(m, name) })
		if !isMethod || value.IsNull() {
			continue
		}
		_, checked := r.Schemes[name] // also its spelling
		thumbprint, _ := value.Text()
		if !checked || !isThumbprint(thumbprint) {
			return Confirmation{}, false
		}
		switch name {
		case KeyThumbprint:
			c.key = strings.Clone(thumbprint) // a Token keeps it, and not what it stood in
		case CertificateThumbprint:
			c.certificate = strings.Clone(thumbprint)
		}
	}
	return c, c != Confirmation{}
}

// isThumbprint reports whether a text is the canonical base64url of 32 bytes.
func isThumbprint(text string) bool {
	sum, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return err == nil && len(sum) == 32 && len(text) == base64.RawURLEncoding.EncodedLen(32)
}

// comesUnder reports whether a token that is bound by c comes under the scheme,
// in any case.
func (r *Rules) comesUnder(scheme string, c Confirmation) bool {
	for method, own := range r.Schemes {
		if own != "" && strings.EqualFold(own, scheme) && c.Thumbprint(method) != "" {
			return true
		}
	}
	return false
}
