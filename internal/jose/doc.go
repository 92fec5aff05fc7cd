// Package jose decides whether a JWT is what it claims to be: it parses compact
// JWS strictly, reads JSON strictly, filters JWKs, and checks one signature
// with one key and one algorithm at a time.
//
// It guarantees that
//
//   - a [Message] comes only from a compact JWS (RFC 7515 section 7.1) in
//     canonical unpadded base64url, whose header and payload are JSON objects
//     without duplicate member names at any depth: no second reader can see
//     other claims in it than we do;
//   - the algorithm is one of RS, PS and ES 256/384/512 or EdDSA, also by the
//     name of Ed25519 (RFC 7518, RFC 8037, RFC 9864): "none", HMAC and
//     everything else never reach a verifier, and an extension that we do not
//     implement (crit, b64, zip, enc) is refused, not skipped;
//   - a [Key] is a public key whose kind and algorithm pin decide what it may
//     verify (RFC 8725 section 3.1). The header of a token can only confirm
//     that choice: its jku, x5u, jwk, x5c and x5t members are never looked at;
//   - malformed input and a failed check stay apart, as [ErrMalformed] and
//     [*Rejection];
//   - time and memory stay within a small multiple of the input, for any input,
//     and no panic of the signature library leaves the package;
//   - no error text holds a byte of a token or of a key.
//
// The package does not look at any claim (issuer, audience, times), decide
// which typ is right, fetch anything, choose among keys, or bound the size of a
// JWK Set document. The caller does. ECDSA signatures are malleable (r, n-s
// signs what r, s signs), so the caller must not recognise a token by its
// signature.
//
// No other package imports jwx. This one uses one part of it: jws checks or
// makes one signature. crypto/rsa checks RSASSA-PSS, because jwx ignores the
// salt length. Another version of jwx, or another library, changes this package
// alone.
package jose

import (
	"errors"
	"fmt"
)

// ErrMalformed says that the input is not a strict compact JWS, not strict
// JSON, or not a JWK Set. There is no token that we could judge.
var ErrMalformed = errors.New("malformed")

func malformed(reason string) error {
	return fmt.Errorf("%w: %s", ErrMalformed, reason)
}

// Rejection says that a check refused a well-formed token, and which one.
type Rejection struct {
	// Check is "alg", "crit", "b64", "zip", "enc", "kid", "typ", "ambiguous
	// header", "key" or "signature".
	Check  string
	Detail string // fixed text; never a part of the token or of a key
}

// Error implements error.
func (r *Rejection) Error() string {
	return r.Check + ": " + r.Detail
}
