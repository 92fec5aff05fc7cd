package jose

import (
	"bytes"
	"encoding/json"
	"iter"
)

// A Difference is an object without what it has in common with another one,
// which is kept elsewhere.
type Difference struct {
	own    *string // JSON: the members that the other does not have so; out of reach of fmt
	common uint64  // a bit for each of the other's first members, in order of their names
}

// Minus returns the difference of o and other. A member counts as common if it
// is the same to the byte, except for white space between tokens, and is one of
// the first 64 of other.
func (o Object) Minus(other Object) *Difference {
	d := &Difference{}
	at := 0
	own := string(objectOf(func(yield func(member) bool) {
		for _, m := range o.members {
			for at < len(other.members) && bytes.Compare(other.members[at].name, m.name) < 0 {
				at++
			}
			if at < len(other.members) && at < 64 && m.equal(other.members[at]) {
				d.common |= 1 << at
			} else if !yield(m) {
				return
			}
		}
	}))
	d.own = &own
	return d
}

// Plus returns the JSON of the object again. It takes the same other object.
func (d *Difference) Plus(other Object) ([]byte, error) {
	own, err := ParseObject([]byte(*d.own))
	if err != nil {
		return nil, err
	}
	rest := own.members
	return objectOf(func(yield func(member) bool) {
		for i, m := range other.members[:min(64, len(other.members))] {
			if d.common&(1<<i) == 0 {
				continue
			}
			for len(rest) > 0 && bytes.Compare(rest[0].name, m.name) < 0 {
				if !yield(rest[0]) {
					return
				}
				rest = rest[1:]
			}
			if !yield(m) {
				return
			}
		}
		for _, m := range rest {
			if !yield(m) {
				return
			}
		}
	}), nil
}

func (m member) equal(other member) bool {
	return bytes.Equal(m.name, other.name) &&
		(bytes.Equal(m.value.raw, other.value.raw) || bytes.Equal(compact(m.value.raw), compact(other.value.raw)))
}

func compact(raw []byte) []byte {
	var out bytes.Buffer
	_ = json.Compact(&out, raw) // it was parsed before
	return out.Bytes()
}

// objectOf writes an object of these members, in their order. Their values are
// as they came, except for white space between tokens. Nothing is escaped
// without need.
func objectOf(members iter.Seq[member]) []byte {
	out := bytes.NewBufferString("{")
	separate := false
	for m := range members {
		if separate {
			out.WriteByte(',')
		}
		separate = true
		out.Write(jsonString(string(m.name)))
		out.WriteByte(':')
		_ = json.Compact(out, m.value.raw) // it was parsed before
	}
	out.WriteByte('}')
	return out.Bytes()
}

// jsonString returns the text as a JSON string. Nothing is escaped without
// need, or some bytes take six times their room.
func jsonString(text string) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text)                           // a string always encodes
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")) // the encoder's line break
}
