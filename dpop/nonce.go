package dpop

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"time"
)

// nonceLife is how long a nonce is good.
const nonceLife = 5 * time.Minute

// stampSize is the size of the time in a nonce: seconds since the epoch.
const stampSize = 8

var base64URL = base64.RawURLEncoding.Strict()

// nonces are the secrets that verify nonces. The first one makes them.
type nonces [][]byte

// issue returns the nonce of this second.
func (n nonces) issue(now time.Time) string {
	stamp := binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))
	return base64URL.EncodeToString(append(stamp, sum(n[0], stamp)...))
}

// end returns when a nonce of ours stops being good. ok is false if it was made
// by others, is too old, or is from further in the future than leeway.
func (n nonces) end(nonce string, now time.Time, leeway time.Duration) (end time.Time, ok bool) {
	if len(nonce) != base64URL.EncodedLen(stampSize+sha256.Size) {
		return time.Time{}, false
	}
	octets, err := base64URL.DecodeString(nonce)
	if err != nil || len(octets) != stampSize+sha256.Size {
		return time.Time{}, false
	}
	stamp, mac := octets[:stampSize], octets[stampSize:]
	if !slices.ContainsFunc(n, func(secret []byte) bool { return hmac.Equal(mac, sum(secret, stamp)) }) {
		return time.Time{}, false
	}
	made := time.Unix(int64(binary.BigEndian.Uint64(stamp)), 0)
	end = made.Add(nonceLife)
	return end, !made.After(now.Add(leeway)) && !now.After(end)
}

// sum covers a name too, so that the secret may serve elsewhere.
func sum(secret, stamp []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("phantom DPoP-Nonce "))
	h.Write(stamp)
	return h.Sum(nil)
}
