package main

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"
)

// size is how many replicas a fleet has.
const size = 4

// A fleet is four replicas, each a process, with their authorization server.
type fleet struct {
	server   *server
	engine   *engine // nil: the replicas share nothing
	spec     spec
	client   *http.Client
	replicas [size]atomic.Pointer[replica]
}

// A replica is a process that does what [spec.serve] does.
type replica struct {
	url   string
	stdin io.Closer
	cmd   *exec.Cmd
}

// newFleet starts a fleet without anything in its memory or its Store.
func newFleet(e *engine, ttl, delay time.Duration) (*fleet, error) {
	s, err := newServer(delay)
	if err != nil {
		return nil, err
	}
	f := &fleet{
		server: s, engine: e, spec: spec{Server: s.url, TTL: ttl},
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}},
	}
	if e != nil {
		f.spec.Engine, f.spec.Prefix = e.addr, "fleet-"+rand.Text()+":"
		f.spec.Secret = make([]byte, 32)
		_, _ = rand.Read(f.spec.Secret) // never fails
	}
	for i := range f.replicas {
		r, err := startReplica(f.spec)
		if err != nil {
			f.close()
			return nil, err
		}
		f.replicas[i].Store(r)
	}
	if err := f.warm(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// warm has each replica fetch the keys, and waits until it uses the Store: a
// token that its neighbour has asked about costs no lookup.
func (f *fleet) warm() error {
	for i := range f.replicas {
		neighbour := (i + 1) % size
		if !f.eventually(5*time.Second, func() bool { return f.shares(neighbour, i) }) {
			return errors.New("the replicas do not use the engine")
		}
	}
	return nil
}

// shares reports whether a token of which one replica has learned is known at
// another. Without a Store it asks both, and is true.
func (f *fleet) shares(from, to int) bool {
	token := f.server.issue(1)
	f.server.setAside(token)
	f.ask(from, token[0])
	time.Sleep(10 * time.Millisecond) // no request waits for the Store to be written
	f.ask(to, token[0])
	return f.engine == nil || f.server.lookupsOf(token[0]) == 1
}

// eventually calls is again and again until it is true.
func (f *fleet) eventually(most time.Duration, is func() bool) bool {
	for start := time.Now(); time.Since(start) < most; time.Sleep(time.Millisecond) {
		if is() {
			return true
		}
	}
	return false
}

func (f *fleet) close() {
	for i := range f.replicas {
		if r := f.replicas[i].Load(); r != nil {
			r.stop()
		}
	}
	if f.engine != nil && !f.engine.isOurs() {
		_, _ = f.engine.do("DEL", f.spec.Prefix+"notes") // all else expires
	}
	f.server.close()
}

// startReplica starts a replica, and returns once it listens.
func startReplica(s spec) (*replica, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), specVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &replica{stdin: stdin, cmd: cmd}
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		r.stop()
		return nil, fmt.Errorf("a replica does not start: %w", err)
	}
	r.url = "http://" + strings.TrimSpace(addr)
	return r, nil
}

// stop lets the requests under way end, and returns when the process has ended.
func (r *replica) stop() {
	_ = r.stdin.Close()
	_ = r.cmd.Wait()
}

// replace puts a new process in the place of a replica. The old one goes on for
// a while, as it does until a load balancer has noticed.
func (f *fleet) replace(i int, goesOn time.Duration) error {
	r, err := startReplica(f.spec)
	if err != nil {
		return err
	}
	old := f.replicas[i].Swap(r)
	time.Sleep(goesOn)
	old.stop()
	return nil
}

// ask sends a request with a token to a replica and returns the status, 0 for
// none.
func (f *fleet) ask(i int, token string) int {
	r, err := http.NewRequest(http.MethodGet, f.replicas[i].Load().url+"/", nil)
	if err != nil {
		return 0
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return f.send(r)
}

// forget has a replica forget a token, and all others by that.
func (f *fleet) forget(i int, token string) error {
	r, err := http.NewRequest(http.MethodPost, f.replicas[i].Load().url+"/forget", strings.NewReader(token))
	if err != nil {
		return err
	}
	if status := f.send(r); status != http.StatusOK {
		return fmt.Errorf("the others could not be told: status %d", status)
	}
	return nil
}

func (f *fleet) send(r *http.Request) int {
	resp, err := f.client.Do(r)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}
