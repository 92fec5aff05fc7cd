// Command fleet measures what it does for four replicas of a service to share
// what the authorization server says, through Valkey or Redis
// (phantom.WithStore). Each replica is a process of its own, which this program
// starts from itself. The authorization server is in the driver; it takes 5 ms
// for a lookup, and counts. The engine is valkey-server or redis-server, which
// must be installed, on a free port of the loopback interface.
//
//	go run .                        all cases, about six minutes
//	go run . -short                 less of each, half a minute
//	go run . -cases abcd            some of them
//	go run . -json figures.json     the figures as data, too
//	go run . -engine 127.0.0.1:6379 an engine that runs: without d and f
//
// The cases:
//
//	a  tokens in use at all replicas
//	b  all replicas are replaced, one after the other
//	c  births: six requests at once with a new token
//	d  the engine loses all that it has (FLUSHALL)
//	e  Forget at one replica, until the last of four refuses
//	f  the engine dies (f1), or accepts and does not answer (f2)
//	g  a token in the memory, with and without a Store
//
// In a to d, tokens are revoked at the authorization server as well, and used
// everywhere until MaxTTL is over: a request let in later is a violation.
//
// Times want a quiet machine. Counts depend on it less: the Store has 20 ms for
// a request, so a machine that stalls for longer is a Store that is too slow.
//
// The JSON file is an object: "date" (RFC 3339), "go", "machine" and "engine"
// are strings, "cases" has a title for the letter of each case, and "figures"
// is a flat list in the order of the table:
//
//	{"case": "a", "store": true, "name": "lookups per token",
//	 "value": 6.1, "unit": ""}
//
// Unit is empty where the name says what is counted. Cases d, e and f run with
// a store alone.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Sizes are how much is done.
type sizes struct {
	useTokens, useRate int
	useTTL, use        time.Duration

	updateTokens, updateRate int
	updateTTL, update        time.Duration

	births   int
	birthTTL time.Duration

	emptyTTL     time.Duration
	emptyWatched int // tokens that are revoked meanwhile

	forgets   int
	outage    time.Duration
	hitChunks int
}

func fullSizes() sizes {
	return sizes{
		useTokens: 200, useRate: 1000, useTTL: 10 * time.Second, use: 40 * time.Second,
		updateTokens: 2000, updateRate: 1000, updateTTL: time.Minute, update: 24 * time.Second,
		births: 2000, birthTTL: 10 * time.Second,
		emptyTTL: 30 * time.Second, emptyWatched: watched,
		forgets: 400, outage: 3 * time.Second, hitChunks: 500,
	}
}

func shortSizes() sizes {
	return sizes{
		useTokens: 20, useRate: 100, useTTL: 2 * time.Second, use: 3 * time.Second,
		updateTokens: 200, updateRate: 200, updateTTL: 3 * time.Second, update: 1800 * time.Millisecond,
		births: 50, birthTTL: 1500 * time.Millisecond,
		emptyTTL: time.Minute, // on a slow machine nothing is to be due for refresh
		forgets:  20, outage: 500 * time.Millisecond, hitChunks: 20,
	}
}

// A measurement adds its figures to a report. Without an engine it runs without
// a Store.
type measurement struct {
	letter  string
	without bool // it is also to run without a Store
	ours    bool // it needs an engine that may be stopped
	run     func(r *report, e *engine, s sizes) error
}

func measurements() []measurement {
	all := []measurement{
		{"a", true, false, inUse},
		{"b", true, false, rollingUpdate},
		{"c", true, false, births},
		{"d", false, true, emptied},
		{"e", false, false, forgotten},
	}
	for _, o := range faults() {
		all = append(all, measurement{"f", false, true, o.outage})
	}
	return append(all, measurement{"g", false, false, hits})
}

// measure runs the cases with these letters, and writes to progress which one
// is over.
func measure(e *engine, letters string, s sizes, progress io.Writer) (*report, error) {
	r := newReport(e)
	for _, m := range measurements() {
		if !strings.Contains(letters, m.letter) || m.ours && !e.isOurs() {
			continue
		}
		if m.without {
			if err := m.run(r, nil, s); err != nil {
				return nil, fmt.Errorf("case %s: %w", m.letter, err)
			}
		}
		if err := m.run(r, e, s); err != nil {
			return nil, fmt.Errorf("case %s, with the store: %w", m.letter, err)
		}
		fmt.Fprintln(progress, "measured:", m.letter)
	}
	return r, nil
}

func main() {
	if isReplica() {
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	short := flag.Bool("short", false, "measure less of each, for half a minute")
	letters := flag.String("cases", "abcdefg", "the cases to measure")
	file := flag.String("json", "", "also write the figures to this `file`")
	addr := flag.String("engine", "", "the `address` of an engine, instead of starting one")
	flag.Parse()
	if flag.NArg() > 0 {
		return errors.New("arguments are not expected")
	}
	e := &engine{addr: *addr}
	if *addr == "" {
		if e, err = startEngine(); err != nil {
			return err
		}
	}
	defer e.close()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	go func() { // the replicas end with us, the engine does not
		<-interrupts
		e.close()
		os.Exit(1)
	}()
	s := fullSizes()
	if *short {
		s = shortSizes()
	}
	r, err := measure(e, *letters, s, os.Stderr)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	if *file != "" {
		return r.write(*file)
	}
	return nil
}
