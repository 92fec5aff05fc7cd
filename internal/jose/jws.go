package jose

import (
	"bytes"
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

const (
	// MaxTokenSize is the longest compact JWS that is looked at, in bytes.
	MaxTokenSize = 32 << 10
	// MaxHeaderSize is the longest JOSE header that is decoded, in decoded
	// bytes.
	MaxHeaderSize = 8 << 10

	maxKeyID = 256
)

// Message is a well-formed JWS whose header passed every check that needs no
// key. Nothing in it can be trusted before [Key.Verify].
type Message struct {
	Header    Object
	Payload   []byte // decoded
	Claims    Object // the payload
	Algorithm string // its canonical name; Supported is true
	KeyID     string // "" when absent or empty
	Type      string // typ as given, "" when absent

	input     []byte // what the signature is over (RFC 7515 section 5.2)
	signature []byte
}

// Parse reads a JWT in the compact serialisation of RFC 7515 section 7.1.
//
// An error that wraps [ErrMalformed] means that jwt is not three non-empty
// segments of canonical base64url around two strict JSON objects. Otherwise a
// [*Rejection] means that the header asks for something we do not do. Form is
// judged completely before content, so that the class of the error does not
// depend on the order of the checks.
func Parse(jwt string) (*Message, error) {
	m, err := open(jwt)
	if err != nil {
		return nil, err
	}
	if m.Claims, err = ParseObject(m.Payload); err != nil {
		return nil, err
	}
	if err := m.checkHeader(); err != nil {
		return nil, err
	}
	return m, nil
}

// open decodes the three segments and reads the header.
func open(jwt string) (*Message, error) {
	if len(jwt) > MaxTokenSize {
		return nil, malformed("JWT too long")
	}
	// Count before splitting: a text of nothing but dots must cost nothing.
	if strings.Count(jwt, ".") != 2 {
		return nil, malformed("not three segments")
	}
	dot1, dot2 := strings.IndexByte(jwt, '.'), strings.LastIndexByte(jwt, '.')
	if dot1 > base64.RawURLEncoding.EncodedLen(MaxHeaderSize) {
		return nil, malformed("JOSE header too long")
	}
	text := []byte(jwt)
	room := make([]byte, strictBase64.DecodedLen(len(text))) // for all three
	header, room, err := decodeInto(room, text[:dot1])
	if err != nil {
		return nil, err
	}
	m := &Message{input: text[:dot2:dot2]}
	if m.Payload, room, err = decodeInto(room, text[dot1+1:dot2]); err != nil {
		return nil, err
	}
	if m.signature, _, err = decodeInto(room, text[dot2+1:]); err != nil {
		return nil, err
	}
	if m.Header, err = ParseObject(header); err != nil {
		return nil, err
	}
	return m, nil
}

// strictBase64 also refuses set bits behind the last octet, so that every octet
// sequence has one encoding.
var strictBase64 = base64.RawURLEncoding.Strict()

// decodeBase64 decodes canonical unpadded base64url (RFC 7515 section 2). An
// empty text is an error, because no field that it decodes may be empty.
func decodeBase64(text []byte) ([]byte, error) {
	out, _, err := decodeInto(make([]byte, strictBase64.DecodedLen(len(text))), text)
	return out, err
}

// decodeInto is decodeBase64 into the beginning of a room. It returns what is
// left of that.
func decodeInto(room, text []byte) (out, rest []byte, err error) {
	if len(text) == 0 {
		return nil, nil, malformed("empty base64url value")
	}
	// The decoder skips line breaks, even in its strict mode.
	if bytes.IndexByte(text, '\r') >= 0 || bytes.IndexByte(text, '\n') >= 0 {
		return nil, nil, malformed("bad base64url")
	}
	n, err := strictBase64.Decode(room, text)
	if err != nil {
		return nil, nil, malformed("bad base64url")
	}
	return room[:n:n], room[n:], nil
}

// checkHeader refuses what we do not support and keeps what later steps need.
func (m *Message) checkHeader() error {
	alg, _ := m.Header.Get("alg").Text()
	if m.Algorithm = Canonical(alg); !Supported(m.Algorithm) {
		return &Rejection{"alg", "missing or not a supported asymmetric algorithm"}
	}
	// We understand no extension, so any crit list names one we do not
	// understand (RFC 7515 section 4.1.11); b64 changes the signing input (RFC
	// 7797 section 6); zip and enc belong to encryption (RFC 7516 sections
	// 4.1.2, 4.1.3 and 9).
	for _, name := range [...]string{"crit", "b64", "zip", "enc"} {
		if m.Header.Get(name).Exists() {
			return &Rejection{name, "header parameter not supported"}
		}
	}
	var ok bool
	if kid := m.Header.Get("kid"); kid.Exists() {
		if m.KeyID, ok = kid.Text(); !ok || !validKeyID(m.KeyID) {
			return &Rejection{"kid", "not a usable key identifier"}
		}
	}
	if typ := m.Header.Get("typ"); typ.Exists() {
		if m.Type, ok = typ.Text(); !ok {
			return &Rejection{"typ", "not a string"}
		}
	}
	if m.Header.Ambiguous() {
		return &Rejection{"ambiguous header", "names that differ in case alone"}
	}
	return nil
}

// validKeyID limits a kid to what may serve as a map key, appear, escaped, in a
// log (RFC 8725 section 3.10), and be written as JSON.
func validKeyID(kid string) bool {
	return len(kid) <= maxKeyID && utf8.ValidString(kid) &&
		strings.IndexFunc(kid, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0
}
