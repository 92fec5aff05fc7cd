// Package valkeystore keeps what replicas share in Valkey (any version) or
// Redis (6.2 and later), for [phantom.WithStore], and which proofs were used,
// for package dpop.
//
//	store := valkeystore.New(valkey.ClientOption{
//		InitAddress: []string{"valkey:6379"},
//		TLSConfig:   &tls.Config{},
//	})
//	defer store.Close()
//	auth, err := phantom.New(..., phantom.WithStore(store, secret))
//
// A service starts without the server: the Store connects in the background,
// again and again. The first calls wait for the first attempt, within their
// context. After that, and while the Store cannot read the notes of the other
// replicas, calls fail, and each Middleware asks for itself.
//
// # What the server needs
//
// The commands GET, PTTL, SET, EVALSHA, EVAL, XADD, XREAD and TIME, and those
// with which the client connects: HELLO, AUTH, CLIENT, SELECT, PING, and
// CLUSTER unless there are sentinels. With sentinels it needs ROLE in place of
// that, and of the sentinels SENTINEL and SUBSCRIBE. CLIENT TRACKING is not
// used. The names are the prefix ([WithPrefix]) followed by 32 characters for a
// token, "notes" for the stream of notes, and "proof:" with 43 characters for a
// proof. Everything but the stream expires; the stream is cut to ten minutes
// whenever a note comes.
//
// Tokens need neither persistence nor memory without end. If the server evicts
// keys, let it be by a policy that spares those that do not expire
// (volatile-lru and the like): with the stream, a replica that was cut off
// loses what it missed. Proofs must not be lost at all. One that was used
// passes again, within its time, if the server evicts it, restarts without
// persistence, or fails over to a replica that did not have it yet. Give
// package dpop a server of its own if tokens may be evicted.
//
// # The client
//
// It is github.com/valkey-io/valkey-go, which runs goroutines of its own. A
// panic in one of these ends the process.
package valkeystore

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/phantom-token/phantom"
)

// A Store is a [phantom.Broadcaster] and a ReplayStore of package dpop. It is
// safe for concurrent use, and runs one goroutine until Close.
type Store struct {
	options valkey.ClientOption
	prefix  string

	client  atomic.Pointer[valkey.Client] // nil: not connected yet
	isReady atomic.Bool                   // all notes up to now were read
	last    atomic.Int64                  // the time of the note that was read last, by the server's clock

	end  context.Context
	stop context.CancelFunc
	done chan struct{}

	mu        sync.Mutex
	receivers []func(note []byte)
	isNew     bool // somebody receives who does not have the notes of before
	interrupt context.CancelFunc
	outcome   chan struct{} // closed: who came last has the notes of before, or the attempt failed
}

var _ phantom.Broadcaster = (*Store)(nil)

// An Option configures a [Store].
type Option interface{ apply(s *Store) }

type option func(s *Store)

func (o option) apply(s *Store) { o(s) }

// WithPrefix sets what all names begin with. Default: "phantom:". Several
// services may use one prefix: they never meet.
func WithPrefix(prefix string) Option { return option(func(s *Store) { s.prefix = prefix }) }

// Time limits of the client, unless the caller sets others.
const (
	dialTimeout = time.Second
	callTimeout = 500 * time.Millisecond
)

// New returns a Store on the server, cluster or sentinels of the options. It
// does no I/O and never fails: it connects in the background. It sets
// DisableCache, DisableRetry and AlwaysPipelining and, if they are 0,
// Dialer.Timeout (1 s) and ConnWriteTimeout (500 ms). SendToReplicas is not
// called: a replica of the server may not have heard yet of what was forgotten.
// All else is the caller's.
func New(options valkey.ClientOption, opts ...Option) *Store {
	options.DisableCache, options.DisableRetry, options.AlwaysPipelining = true, true, true
	if options.SendToReplicas != nil { // the client demands one with other options
		options.SendToReplicas = func(valkey.Completed) bool { return false }
	}
	if options.Dialer.Timeout == 0 {
		options.Dialer.Timeout = dialTimeout
	}
	if options.ConnWriteTimeout == 0 {
		options.ConnWriteTimeout = callTimeout
	}
	s := &Store{options: options, prefix: "phantom:", done: make(chan struct{}), outcome: make(chan struct{})}
	for _, o := range opts {
		o.apply(s)
	}
	s.end, s.stop = context.WithCancel(context.Background())
	go s.run()
	return s
}

// Close ends the Store's goroutine and its connections. Calls fail afterwards.
func (s *Store) Close() {
	s.stop()
	<-s.done
}

// errNotReady says that the Store is not connected, or not yet up to date.
var errNotReady = errors.New("valkeystore: not connected")

// connected returns the client once it is there. A service that starts is not
// to take the time of the first attempt to connect for trouble with the server:
// its calls wait for how that ends.
func (s *Store) connected(ctx context.Context) (valkey.Client, error) {
	if !s.isReady.Load() {
		s.mu.Lock()
		outcome := s.outcome
		s.mu.Unlock()
		select {
		case <-outcome:
		case <-s.end.Done():
		case <-ctx.Done():
		}
	}
	if client := s.client.Load(); client != nil && s.end.Err() == nil {
		return *client, nil
	}
	return nil, errNotReady
}

// ready returns the client while all notes are read. A replica that does not
// know the latest ones must take nothing from the Store.
func (s *Store) ready(ctx context.Context) (valkey.Client, error) {
	client, err := s.connected(ctx)
	if err == nil && !s.isReady.Load() {
		return nil, errNotReady
	}
	return client, err
}

// What is kept under a key is one of these, which stands before the value.
const (
	isValue   = "v"
	isDropped = "x"
)

// setUnlessDropped sets the value, unless its key is held.
var setUnlessDropped = valkey.NewLuaScript(`if redis.call('GET', KEYS[1]) == 'x' then return 0 end ` +
	`redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1`)

// Get implements [phantom.Store].
func (s *Store) Get(ctx context.Context, key string) (value []byte, left time.Duration, err error) {
	client, err := s.ready(ctx)
	if err != nil {
		return nil, 0, err
	}
	// In this order: what takes the value's place in between looks older than it
	// is.
	name := s.prefix + key
	results := client.DoMulti(ctx, client.B().Pttl().Key(name).Build(), client.B().Get().Key(name).Build())
	ms, err := results[0].AsInt64()
	if err != nil {
		return nil, 0, err
	}
	kept, err := results[1].ToString()
	switch {
	case valkey.IsValkeyNil(err):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	case ms < 0 || len(kept) < 1 || kept[:1] != isValue:
		return nil, 0, nil
	}
	return []byte(kept[1:]), time.Duration(ms) * time.Millisecond, nil
}

// Set implements [phantom.Store].
func (s *Store) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	client, err := s.ready(ctx)
	if err != nil {
		return err
	}
	args := []string{isValue + string(value), milliseconds(ttl)}
	return setUnlessDropped.Exec(ctx, client, []string{s.prefix + key}, args).Error()
}

// Drop implements [phantom.Store].
func (s *Store) Drop(ctx context.Context, key string, hold time.Duration) error {
	client, err := s.connected(ctx)
	if err != nil {
		return err
	}
	ms := max(hold.Milliseconds(), 1)
	return client.Do(ctx, client.B().Set().Key(s.prefix+key).Value(isDropped).PxMilliseconds(ms).Build()).Error()
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }

// proofSkew is how far the clocks of two replicas may differ before a proof
// that was used at one can be used again at the other.
const proofSkew = 10 * time.Second

// Add makes a Store a ReplayStore of package dpop: it remembers key until then
// and ten seconds longer, since the clocks of replicas differ, and says whether
// it was new.
func (s *Store) Add(ctx context.Context, key [32]byte, until time.Time) (fresh bool, err error) {
	client, err := s.connected(ctx)
	if err != nil {
		return false, err
	}
	left := time.Until(until)
	if left < 0 {
		return false, nil // it may have been here
	}
	name := s.prefix + "proof:" + base64.RawURLEncoding.EncodeToString(key[:])
	ms := (left + proofSkew).Milliseconds() + 1
	err = client.Do(ctx, client.B().Set().Key(name).Value("").Nx().PxMilliseconds(ms).Build()).Error()
	if valkey.IsValkeyNil(err) {
		return false, nil
	}
	return err == nil, err
}
