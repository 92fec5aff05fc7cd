package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/valkey-io/valkey-go"
)

// An engine is a Valkey or Redis: one that this program has started, or that of
// an address.
type engine struct {
	addr string
	path string // empty: not ours to stop, nor to empty
	dir  string
	cmd  *exec.Cmd
}

var errNoEngine = errors.New("neither valkey-server nor redis-server is installed; -engine names one that runs")

// findEngine returns the path of a server.
func findEngine() (string, error) {
	for _, name := range []string{"valkey-server", "redis-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errNoEngine
}

// startEngine starts an engine on a free port of the loopback interface.
func startEngine() (*engine, error) {
	path, err := findEngine()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &engine{addr: l.Addr().String(), path: path}
	l.Close()
	if e.dir, err = os.MkdirTemp("", "fleet"); err != nil {
		return nil, err
	}
	if err := e.start(); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// isOurs reports whether the engine may be emptied, frozen and killed.
func (e *engine) isOurs() bool { return e.path != "" }

// start starts the process, and returns once it accepts connections.
func (e *engine) start() error {
	_, port, _ := net.SplitHostPort(e.addr)
	e.cmd = exec.Command(e.path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
		"--dir", e.dir, "--logfile", filepath.Join(e.dir, "log"))
	if err := e.cmd.Start(); err != nil {
		e.cmd = nil
		return err
	}
	for range 1000 {
		if conn, err := net.Dial("tcp", e.addr); err == nil {
			return conn.Close()
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("the engine does not start")
}

func (e *engine) kill() {
	if e.cmd != nil {
		_ = e.cmd.Process.Kill()
		_ = e.cmd.Wait()
		e.cmd = nil
	}
}

// freeze lets the engine accept and never answer; thaw ends that.
func (e *engine) freeze() { _ = e.cmd.Process.Signal(syscall.SIGSTOP) }
func (e *engine) thaw()   { _ = e.cmd.Process.Signal(syscall.SIGCONT) }

func (e *engine) close() {
	if e.isOurs() {
		e.kill()
		os.RemoveAll(e.dir)
	}
}

// do runs a command, past the Store.
func (e *engine) do(words ...string) (valkey.ValkeyMessage, error) {
	c, err := valkey.NewClient(valkey.ClientOption{InitAddress: []string{e.addr}, DisableCache: true})
	if err != nil {
		return valkey.ValkeyMessage{}, err
	}
	defer c.Close()
	return c.Do(context.Background(), c.B().Arbitrary(words...).Build()).ToMessage()
}

// version returns for example "redis 7.0.15".
func (e *engine) version() string {
	m, err := e.do("INFO", "server")
	if err != nil {
		return "unknown"
	}
	info, _ := m.ToString()
	field := func(name string) string {
		_, rest, _ := strings.Cut(info, "\n"+name+":")
		value, _, _ := strings.Cut(rest, "\r")
		return value
	}
	if v := field("valkey_version"); v != "" {
		return "valkey " + v
	}
	return "redis " + field("redis_version")
}
