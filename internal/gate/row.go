package gate

// A Token stands for an opaque token: a digest of it.
type Token [24]byte

// A row has a lane for each known token that has met an outage since a known
// token was last answered. It is short: as soon as there are enough of them,
// the lane of all known tokens closes.
type row []*failing

type failing struct {
	token Token
	lane  lane
}

// find returns the lane of the token, or nil.
func (r row) find(token Token) *lane {
	for _, f := range r {
		if f.token == token {
			return &f.lane
		}
	}
	return nil
}

// add makes a lane for the token.
func (r *row) add(token Token) *lane {
	f := &failing{token: token}
	*r = append(*r, f)
	return &f.lane
}
