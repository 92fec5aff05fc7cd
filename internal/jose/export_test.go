package jose

import "crypto"

// Public lets the tests look at what the filter let through.
func (k *Key) Public() crypto.PublicKey { return k.pub }

// HasROCA and CheckEd25519 are tested against arithmetic of their own.
var (
	HasROCA      = hasROCA
	CheckEd25519 = checkEd25519
)

// Forge replaces what is checked in a message, for faults that cannot be
// written as a token.
func Forge(m *Message, algorithm string, signature []byte) *Message {
	forged := *m
	forged.Algorithm, forged.signature = algorithm, signature
	return &forged
}
