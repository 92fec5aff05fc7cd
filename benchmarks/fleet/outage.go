package main

import (
	"crypto/rand"
	"net/http"
	"time"
)

// A fault takes the engine away, and gives it back.
type fault struct {
	letter, title string
	begin         func(e *engine)
	end           func(e *engine) error
}

func faults() []fault {
	return []fault{
		{"f1", "the engine dies", (*engine).kill, (*engine).start},
		{"f2", "the engine falls silent", (*engine).freeze, func(e *engine) error { e.thaw(); return nil }},
	}
}

// slow is what a request takes that has waited for the Store.
const slow = 10 * time.Millisecond

// outage: one replica gets one request after the other while the engine is
// away. Most have a new token, for which a look into the Store is tried. The
// authorization server takes no time, so that what is slow is the Store.
func (o fault) outage(r *report, e *engine, s sizes) error {
	f, err := newFleet(e, time.Minute, 0)
	if err != nil {
		return err
	}
	defer f.close()
	r.begin(o.letter, o.title+" for "+s.outage.String(), true)
	u := f.newUser()
	normal := u.use(s.outage)
	o.begin(e)
	away := u.use(s.outage)
	if err := o.end(e); err != nil {
		return err
	}
	back := time.Now()
	isUsed := f.eventually(10*time.Second, func() bool { return f.shares(1, 0) && f.shares(0, 1) })
	took := time.Since(back)
	after := u.use(s.outage / 3)

	r.add("requests", float64(len(away.took)), "")
	r.add("over 10 ms", float64(away.over(slow, 0)), "requests")
	r.add("over 10 ms, the first 20 not counted", float64(away.over(slow, 20)), "requests")
	r.add("over 10 ms in the same time before it, for comparison", float64(normal.over(slow, 0)), "requests")
	r.add("p50 of the requests", away.quantile(0.5), "ms")
	r.add("worst", away.quantile(1), "ms")
	r.add("wrong answers, before, meanwhile and after", float64(normal.wrong+away.wrong+after.wrong), "requests")
	if isUsed {
		r.add("in use again after its return", ms(took), "ms")
	}
	return nil
}

// A user sends requests to replica 0.
type user struct {
	f       *fleet
	known   string // to the replica
	revoked string // at the authorization server, before any replica saw it
}

func (f *fleet) newUser() *user {
	tokens := f.server.issue(2)
	f.server.as.Revoke(tokens[1])
	f.ask(0, tokens[0])
	return &user{f, tokens[0], tokens[1]}
}

// use sends requests for a while. Of ten, seven have a new token, and one each
// has a known token, a revoked one and one that never was.
func (u *user) use(during time.Duration) *results {
	r := &results{}
	for start, n := time.Now(), 0; time.Since(start) < during; n++ {
		token, want := "", http.StatusNoContent
		switch n % 10 {
		case 7:
			token = u.known
		case 8:
			token, want = u.revoked, http.StatusUnauthorized
		case 9:
			token, want = rand.Text(), http.StatusUnauthorized
		default:
			token = u.f.server.issue(1)[0]
		}
		r.ask(u.f, 0, token, want)
	}
	return r
}
