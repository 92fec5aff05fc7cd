package gate

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/phantom-token/phantom/internal/clock"
)

// The measures of the narrow lane.
const (
	narrowRate  = 95.0 // lookups a second
	narrowBurst = 20.0
	narrowShare = 0.9 // of the rate that chance hands out
)

// narrow is the narrow lane: a bucket of lookups that may pass. If more come
// than may pass, chance decides before the bucket does. Otherwise the bucket
// would be empty whenever somebody comes who is not as frequent as the junk.
type narrow struct {
	at       clock.Instant // of what follows
	allowed  float64       // lookups that may pass
	arrivals float64       // in the last second, the older the less they count
}

// arrive takes note of a new token, also while the lane is not narrow.
func (n *narrow) arrive(now clock.Instant) {
	seconds := time.Duration(now.Mono - n.at.Mono).Seconds()
	n.at = now
	n.allowed = min(n.allowed+narrowRate*seconds, narrowBurst)
	n.arrivals = n.arrivals*math.Exp(-seconds) + 1
}

// lets reports whether the one who came may pass.
func (n *narrow) lets() bool {
	if n.allowed < 1 || rand.Float64()*n.arrivals >= narrowShare*narrowRate {
		return false
	}
	n.allowed--
	return true
}
