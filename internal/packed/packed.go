// Package packed keeps the texts of a token in little room, and out of reach of
// package fmt.
package packed

import "strings"

// What is in the JWT is kept a second time only if it is short. One block of
// the allocator has 32 KiB, and the next larger one 8 KiB more: no JWT of the
// greatest length may spill over for a few bytes beside it.
const (
	maxNames = 256      // of subject and ID
	maxBlock = 32 << 10 // of the text
)

// A Text holds the JWT, its scheme, the subject and the ID in one string. A
// million of them may be remembered: one string is one pointer for the garbage
// collector and one allocation, in place of three. It is behind a pointer,
// because fmt follows one in an unexported field, but only to a struct, a slice
// or a map.
type Text struct {
	text     *string
	fieldEnd uint32
	subject  uint16 // its length
	bare     bool   // the field is without its prefix
}

// New packs the texts into *text. It leaves out subject and ID if they are
// long, and the prefix if that were too much for one block.
func New(text *string, prefix, jwt, subject, id string) Text {
	size := len(prefix) + len(jwt)
	if len(subject)+len(id) > maxNames || size+len(subject)+len(id) > maxBlock {
		subject, id = "", ""
	}
	bare := size > maxBlock
	if bare {
		prefix, jwt = "", strings.Clone(jwt) // the sum would be jwt itself
	}
	*text = prefix + jwt + subject + id
	return Text{text, uint32(len(prefix) + len(jwt)), uint16(len(subject)), bare}
}

// whole is empty in the zero Text.
func (p *Text) whole() string {
	if p.text == nil {
		return ""
	}
	return *p.text
}

// Field returns the JWT, behind the prefix unless it IsBare.
func (p *Text) Field() string { return p.whole()[:p.fieldEnd] }

// IsBare reports whether the prefix is not kept. To know it, no one has to read
// the text.
func (p *Text) IsBare() bool { return p.bare }

// HasNames reports whether subject and ID are kept. A subject is never empty.
func (p *Text) HasNames() bool { return p.subject > 0 }

// Subject returns the subject, if it is kept.
func (p *Text) Subject() string { return p.whole()[p.fieldEnd:][:p.subject] }

// ID returns the ID, if it is kept.
func (p *Text) ID() string { return p.whole()[p.fieldEnd:][p.subject:] }
