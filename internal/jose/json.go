package jose

import (
	"bytes"
	"encoding/json"
	"iter"
	"slices"
	"sort"
	"unicode/utf8"
)

// maxDepth bounds nesting. Claims nest a few levels (RFC 8693 "act" chains and
// RFC 9396 authorization details are the deepest in use). 64 leaves room for
// all of them and keeps the recursion of this reader, and of any reader after
// it, small.
const maxDepth = 64

// Object holds the members of one strict JSON object. The zero value has none.
//
// encoding/json cannot be this reader. It matches names without regard to case,
// keeps the last of two members with one name, and replaces invalid UTF-8 by
// U+FFFD, and its Decoder stops before trailing bytes. Each of these lets two
// readers of one token disagree about what it says.
type Object struct {
	members   []member // sorted by name
	ambiguous bool
}

type member struct {
	name  []byte // unescaped
	value Value
}

// Value is one JSON value inside a parsed document. The zero Value is an absent
// one. It shares memory with the document.
type Value struct {
	raw []byte
}

// ParseObject reads data as exactly one JSON object (RFC 8259), surrounded by
// nothing but JSON whitespace. It refuses invalid UTF-8, lone surrogate
// escapes, a byte order mark, nesting deeper than 64 levels and, at every
// depth, two members whose names are equal after unescaping. Errors wrap
// [ErrMalformed]. The Object shares memory with data, which must not change
// afterwards.
func ParseObject(data []byte) (Object, error) {
	if !utf8.Valid(data) {
		return Object{}, malformed("invalid UTF-8")
	}
	s := scanner{data: data}
	s.space()
	if s.peek() != '{' {
		return Object{}, malformed("not a JSON object")
	}
	// One allocation that fits: each member has a colon and takes five bytes or
	// more.
	s.members = make([]member, 0, min(bytes.Count(data, []byte{':'}), len(data)/5+1))
	if err := s.object(1); err != nil {
		return Object{}, err
	}
	s.space()
	if s.pos != len(data) {
		return Object{}, malformed("bytes after the JSON object")
	}
	return Object{members: s.members, ambiguous: s.ambiguous}, nil
}

// Ambiguous reports whether this object, or one inside it, has two members
// whose names are equal under Unicode's simple case folding, such as "roles"
// and "Roles". A reader that folds case, as encoding/json does, takes them for
// one.
func (o Object) Ambiguous() bool { return o.ambiguous }

// Len returns the number of members.
func (o Object) Len() int { return len(o.members) }

// Get returns the member of exactly that name, or the zero Value.
func (o Object) Get(name string) Value {
	i := sort.Search(len(o.members), func(i int) bool { return string(o.members[i].name) >= name })
	if i == len(o.members) || string(o.members[i].name) != name { // these conversions do not allocate
		return Value{}
	}
	return o.members[i].value
}

// All yields every member, ordered by name.
func (o Object) All() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		for _, m := range o.members {
			if !yield(string(m.name), m.value) {
				return
			}
		}
	}
}

// With returns the object with a string as its member of the given name.
func (o Object) With(name, text string) Object {
	value := jsonString(text)
	i, found := slices.BinarySearchFunc(o.members, []byte(name), func(m member, name []byte) int {
		return bytes.Compare(m.name, name)
	})
	o.members = slices.Clone(o.members)
	if !found {
		o.members = slices.Insert(o.members, i, member{})
	}
	o.members[i] = member{[]byte(name), Value{value}}
	return o
}

// Keep returns the object with only the members for which keep reports true.
func (o Object) Keep(keep func(name string, v Value) bool) Object {
	o.members = slices.DeleteFunc(slices.Clone(o.members), func(m member) bool { return !keep(string(m.name), m.value) })
	return o
}

// JSON returns the object as JSON. The values are as they came, except for
// white space between tokens.
func (o Object) JSON() []byte { return objectOf(slices.Values(o.members)) }

// Without returns the object without the member of the given name.
func (o Object) Without(name string) Object {
	o.members = slices.DeleteFunc(slices.Clone(o.members), func(m member) bool { return string(m.name) == name })
	return o
}

// Exists reports whether the member was there at all, null included.
func (v Value) Exists() bool { return len(v.raw) > 0 }

// IsNull reports whether the value is a JSON null.
func (v Value) IsNull() bool { return v.first() == 'n' }

// Raw returns the JSON text of the value, nil when absent. It must not be
// modified.
func (v Value) Raw() json.RawMessage { return v.raw }

// Bool returns the value of a JSON boolean.
func (v Value) Bool() (b, ok bool) {
	c := v.first()
	return c == 't', c == 't' || c == 'f'
}

// Text returns a JSON string, unescaped.
func (v Value) Text() (string, bool) {
	if v.first() != '"' {
		return "", false
	}
	return string(unescape(v.raw[1 : len(v.raw)-1])), true
}

// Is reports whether the value is a JSON string that stands for the text.
func (v Value) Is(text string) bool {
	return v.first() == '"' && string(unescape(v.raw[1:len(v.raw)-1])) == text // this conversion does not allocate
}

// Texts returns a JSON array all of whose elements are strings.
func (v Value) Texts() ([]string, bool) {
	if v.first() != '[' {
		return nil, false
	}
	texts := []string{}
	for element := range v.elements() {
		text, ok := element.Text()
		if !ok {
			return nil, false
		}
		texts = append(texts, text)
	}
	return texts, true
}

// Holds reports whether the value is, or has at any depth, a string or a
// member's name for which match reports true. It looks at each byte once: no
// quotation mark of JSON stands outside of strings.
func (v Value) Holds(match func(text string) bool) bool {
	s := scanner{data: v.raw}
	for {
		next := bytes.IndexByte(s.data[s.pos:], '"')
		if next < 0 {
			return false
		}
		s.pos += next
		text, err := s.text()
		if err != nil {
			return false // cannot happen: it was parsed before
		}
		if match(string(unescape(text))) {
			return true
		}
	}
}

// Object returns a JSON object.
func (v Value) Object() (Object, bool) {
	if v.first() != '{' {
		return Object{}, false
	}
	o, err := ParseObject(v.raw)
	return o, err == nil
}

// first is the byte that tells the kind of the value, 0 when absent.
func (v Value) first() byte {
	if len(v.raw) == 0 {
		return 0
	}
	return v.raw[0]
}

// elements yields what is in an array; anything else has no elements.
func (v Value) elements() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		if v.first() != '[' {
			return
		}
		s := scanner{data: v.raw, pos: 1}
		s.space()
		for s.peek() != ']' {
			start := s.pos
			if s.value(2) != nil || !yield(Value{v.raw[start:s.pos:s.pos]}) {
				return
			}
			s.space()
			s.next(',')
			s.space()
		}
	}
}
