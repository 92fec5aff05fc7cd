package main

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// forgotten: a logout at one replica, and how long it takes until all four
// refuse. The authorization server takes no time here, since each of them asks
// it once more.
func forgotten(r *report, e *engine, s sizes) error {
	f, err := newFleet(e, time.Minute, 0)
	if err != nil {
		return err
	}
	defer f.close()
	r.begin("e", fmt.Sprintf("Forget at one replica, %d times", s.forgets), true)
	got := &results{}
	for i, token := range f.server.issue(s.forgets) {
		for replica := range size {
			if f.ask(replica, token) != http.StatusNoContent {
				return fmt.Errorf("replica %d refuses a good token", replica)
			}
		}
		time.Sleep(5 * time.Millisecond) // the Store is written meanwhile
		f.server.as.Revoke(token)
		took, err := f.forgetAndWait(i%size, token)
		got.add(took, err != nil)
	}
	r.add("the last replica refuses, p50", got.quantile(0.5), "ms")
	r.add("the last replica refuses, p99", got.quantile(0.99), "ms")
	r.add("the last replica refuses, worst", got.quantile(1), "ms")
	r.add("not told within a second", float64(got.wrong), "tokens")
	return nil
}

// forgetAndWait returns how long after the call the last replica's first
// refusal was there.
func (f *fleet) forgetAndWait(at int, token string) (time.Duration, error) {
	start := time.Now()
	var refusals sync.WaitGroup
	for replica := range size {
		refusals.Go(func() {
			for f.ask(replica, token) != http.StatusUnauthorized && time.Since(start) < time.Second {
				time.Sleep(200 * time.Microsecond)
			}
		})
	}
	err := f.forget(at, token)
	refusals.Wait()
	took := time.Since(start)
	if err == nil && took > time.Second {
		err = fmt.Errorf("a replica lets the token in for %v", took)
	}
	return took, err
}
