package phantom

import (
	"sync"
	"time"
)

const (
	// logPause is the time between two lines about the same trouble.
	logPause = 10 * time.Second
	// maxTopics bounds what the pacer remembers. The topics are a few dozen,
	// unless a hook or the server makes up details.
	maxTopics = 256
	// maxTopicDetail bounds a detail that tells topics apart, in bytes.
	maxTopicDetail = 128
)

// A topic is what a line is about: of lines with the same topic, one is written
// in a pause.
type topic struct{ msg, reason, detail, endpoint, issuer string }

// A pacer decides which lines are written. The zero pacer is ready for use.
type pacer struct {
	mu     sync.Mutex
	topics map[topic]*pace
	rest   pace      // of all topics for which there is no room
	swept  time.Time // when topics were last removed
}

// A pace is when a line was last written, and how many were not since then.
type pace struct {
	last       time.Time
	suppressed int
}

// next reports whether a line may be written now, and how many were not, since
// the last one.
func (p *pacer) next(t topic, now time.Time) (suppressed int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.topics[t]
	if one == nil {
		one = p.add(t, now)
	}
	if !one.last.IsZero() && now.Sub(one.last) < logPause {
		one.suppressed++
		return 0, false
	}
	suppressed = one.suppressed
	*one = pace{last: now}
	return suppressed, true
}

// add makes room for a topic. If there is none, topics share one pace.
func (p *pacer) add(t topic, now time.Time) *pace {
	if len(p.topics) >= maxTopics && now.Sub(p.swept) >= time.Second {
		p.swept = now
		for old, its := range p.topics {
			if now.Sub(its.last) >= logPause {
				p.rest.suppressed += its.suppressed // the next line that has no room counts them
				delete(p.topics, old)
			}
		}
	}
	if len(p.topics) >= maxTopics {
		return &p.rest
	}
	if p.topics == nil {
		p.topics = map[topic]*pace{}
	}
	one := &pace{}
	p.topics[t] = one
	return one
}
