package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A host answers requests over pipes, and counts its connections.
type host struct {
	mu     sync.Mutex
	opened int
	open   int
	answer func(connection int) // runs before each answer
}

func (h *host) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened++
	h.open++
	go h.serve(theirs, h.opened)
	return ours, nil
}

func (h *host) serve(c net.Conn, nth int) {
	defer func() {
		_ = c.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.open--
	}()
	for in := bufio.NewReader(c); ; {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if h.answer != nil {
			h.answer(nth)
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

func (h *host) count() (opened, open int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.opened, h.open
}

// pool returns an own pool whose connections lead to the host.
func (h *host) pool() *pool {
	p := ownPool(4)
	r, _ := p.transport.(*renewed)
	plain := r.make
	r.make = func() *http.Transport {
		t := plain()
		t.DialContext = h.dial
		return t
	}
	return p
}

// ask sends a request and reads the answer.
func ask(t *testing.T, p *pool, limit time.Duration) (ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	resp, err := p.send(ctx, func(ctx context.Context) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodPost, "http://as.test/", strings.NewReader("token=t"))
	})
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return err == nil && string(body) == "ok"
}

// Under steady load, a connection is used for two minutes and then left, so
// that a change of the server's address is seen.
//
// Catalogue: X12.
func TestNoConnectionIsUsedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := map[int]time.Time{}
		h := &host{}
		h.answer = func(nth int) {
			if _, ok := began[nth]; !ok {
				began[nth] = time.Now()
			}
			if age := time.Since(began[nth]); age > 2*time.Minute {
				t.Errorf("connection %d is %v old", nth, age)
			}
		}
		p := h.pool()
		for range 10 * 60 { // ten minutes
			if !ask(t, p, time.Second) {
				t.Fatal("no answer")
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if opened, open := h.count(); opened != 5 || open != 1 {
			t.Errorf("%d connections in ten minutes, %d of them open", opened, open)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, open := h.count(); open != 0 {
			t.Errorf("%d connections are open at rest", open)
		}
	})
}

// A request that is under way when the connections are left ends on its own.
//
// Catalogue: X12.
func TestRequestUnderWayKeepsItsOldConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		h.answer = func(nth int) {
			if nth == 1 {
				time.Sleep(3 * time.Minute)
			}
		}
		p := h.pool()
		var slow sync.WaitGroup
		slow.Go(func() {
			if !ask(t, p, 5*time.Minute) {
				t.Error("the slow request got no answer")
			}
		})
		time.Sleep(2*time.Minute + time.Second)
		if !ask(t, p, time.Second) {
			t.Error("no answer")
		}
		slow.Wait()
		synctest.Wait()
		if opened, open := h.count(); opened != 2 || open != 0 { // the second one was idle for too long
			t.Errorf("%d connections, %d of them open", opened, open)
		}
	})
}

// Requests that run out of time do not discredit the idle connections as long
// as others are answered. When nothing is answered, the idle ones are given up.
//
// Catalogue: N279.
func TestSlowRequestsKeepIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		var dead atomic.Bool
		h.answer = func(nth int) {
			if nth == 1 || dead.Load() {
				time.Sleep(time.Hour)
			}
		}
		p := h.pool()
		var slow sync.WaitGroup
		slow.Go(func() { ask(t, p, 10*time.Second) })
		synctest.Wait()
		for range 12 {
			ask(t, p, time.Second)
			time.Sleep(time.Second)
		}
		slow.Wait()
		synctest.Wait()
		if opened, open := h.count(); opened != 2 || open != 2 { // the first one's end sleeps
			t.Errorf("with one slow request: %d connections, %d of them open", opened, open)
		}
		var pair sync.WaitGroup
		for range 2 { // so that one stays idle below
			pair.Go(func() { ask(t, p, time.Second) })
		}
		pair.Wait()
		synctest.Wait()
		before, _ := h.count()
		dead.Store(true)
		if ask(t, p, time.Second) {
			t.Error("an answer")
		}
		dead.Store(false)
		if !ask(t, p, time.Second) {
			t.Error("no answer")
		}
		if opened, _ := h.count(); opened != before+1 {
			t.Errorf("%d more connections: an idle one was used again", opened-before)
		}
		time.Sleep(2 * time.Hour) // until the sleepers have ended
	})
}
