package jose

import (
	"bytes"
	"slices"
	"strconv"
)

// maxDate is 9999-12-31T23:59:59Z. Larger values are milliseconds taken for
// seconds, or make time.Time and time.Duration wrap around.
const maxDate = 253402300799

// NumericDate returns a JSON number as whole seconds since the epoch, rounded
// down (RFC 7519 section 2). ok is false for anything but a number, and for a
// number that is not in [0, 253402300799]. The arithmetic is exact, and its
// cost depends on the length of the text alone, never on the exponent.
func (v Value) NumericDate() (sec int64, ok bool) {
	if c := v.first(); c != '-' && !isDigit(c) {
		return 0, false
	}
	mantissa, negative := bytes.CutPrefix(v.raw, []byte{'-'})
	exponent := int64(0)
	if i := bytes.IndexAny(mantissa, "eE"); i >= 0 {
		// ParseInt turns an exponent out of range into the nearest int32. From
		// there, no mantissa that fits in memory leads back into the range of
		// dates.
		exponent, _ = strconv.ParseInt(string(mantissa[i+1:]), 10, 32)
		mantissa = mantissa[:i]
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte{'.'})
	all := whole
	if len(fraction) > 0 {
		all = slices.Concat(whole, fraction)
	}
	digits := bytes.TrimLeft(all, "0")
	if len(digits) == 0 {
		return 0, true
	}
	// This many of the digits are before the value's decimal point.
	before := int64(len(whole)-(len(all)-len(digits))) + exponent
	if negative || before > 12 { // 12 digits: the length of maxDate
		return 0, false
	}
	for i := range before {
		sec *= 10
		if i < int64(len(digits)) {
			sec += int64(digits[i] - '0')
		}
	}
	return sec, sec <= maxDate
}
