package valkeystore_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
	"github.com/phantom-token/phantom/valkeystore"
)

// appUser is a user with no more rights than the package comment names.
const appUser = "--user app on >secret ~app:* resetchannels +get +pttl +set +evalsha +eval +xadd +xread +time " +
	"+hello +auth +client +select +ping"

// opened returns a function that opens Stores with the options.
func opened(t *testing.T, options valkey.ClientOption, opts ...valkeystore.Option) func() phantom.Store {
	return func() phantom.Store {
		store := valkeystore.New(options, opts...)
		t.Cleanup(store.Close)
		return store
	}
}

// newCluster returns three servers that share the slots.
func newCluster(t *testing.T, args ...string) []*server {
	t.Helper()
	var nodes []*server
	for range 3 {
		_, bus, _ := net.SplitHostPort(freeAddr(t))
		nodes = append(nodes, newServer(t, append([]string{"--cluster-enabled", "yes", "--cluster-port", bus,
			"--cluster-node-timeout", "2000"}, args...)...))
	}
	must := func(s *server, words ...string) {
		t.Helper()
		if err := s.do(words...).Error(); err != nil {
			t.Fatalf("%q: %v", words, err)
		}
	}
	for i, s := range nodes {
		must(s, "CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*5461), fmt.Sprint(min((i+1)*5461-1, 16383)+i/2))
		must(s, "CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
	}
	for _, s := range nodes[1:] {
		host, port, _ := net.SplitHostPort(s.addr)
		must(nodes[0], "CLUSTER", "MEET", host, port, s.args[3])
	}
	for _, s := range nodes {
		eventually(t, "a cluster", 10*time.Second, func() bool {
			info, _ := s.do("CLUSTER", "INFO").ToString()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return nodes
}

// In a cluster, keys and notes are where their slots are.
//
// Catalogue: H47.
func TestStoreOnACluster(t *testing.T) {
	nodes := newCluster(t, strings.Fields(appUser+" +cluster")...)
	options := valkey.ClientOption{InitAddress: []string{nodes[0].addr}, Username: "app", Password: "secret"}
	open := opened(t, options, valkeystore.WithPrefix("app:"))
	phantomtest.TestStore(t, open)
	for i, s := range nodes {
		if size, err := s.do("DBSIZE").AsInt64(); size == 0 {
			t.Errorf("node %d has nothing: %v", i+1, err)
		}
	}
	svc := newService()
	storeA, storeB := open(), open()
	a, b := svc.replica(t, storeA), svc.replica(t, storeB)
	eventually(t, "connected", 5*time.Second, func() bool {
		return works(storeA.(*valkeystore.Store)) && works(storeB.(*valkeystore.Store))
	})
	var tokens []string
	for i := range 20 {
		tokens = append(tokens, svc.as.Issue(map[string]any{"jti": fmt.Sprint(i)}))
		svc.verify(t, a, tokens[i])
	}
	time.Sleep(200 * time.Millisecond) // until all are stored
	for _, token := range tokens {
		svc.verify(t, b, token)
	}
	svc.expect(t, "shared", len(tokens))
	for _, token := range tokens {
		if err := a.Forget(token); err != nil {
			t.Error(err)
		}
	}
	time.Sleep(500 * time.Millisecond)
	for _, token := range tokens {
		svc.verify(t, b, token)
	}
	svc.expect(t, "forgotten", 2*len(tokens))
}

// A Store finds the primary through sentinels, and after a failover the next
// one, with the notes.
//
// Catalogue: H48.
func TestStoreWithSentinels(t *testing.T) {
	acl := strings.Fields(appUser + " +role")
	primary := newServer(t, acl...)
	host, port, _ := net.SplitHostPort(primary.addr)
	second := newServer(t, append(acl, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")...)
	eventually(t, "a replica", 10*time.Second, func() bool {
		info, _ := second.do("INFO", "replication").ToString()
		return strings.Contains(info, "master_link_status:up")
	})
	sentinel := newSentinel(t, host, port)
	options := valkey.ClientOption{
		InitAddress: []string{sentinel.addr}, Username: "app", Password: "secret",
		Sentinel: valkey.SentinelOption{MasterSet: "fleet", Username: "watch", Password: "secret"},
	}
	open := opened(t, options, valkeystore.WithPrefix("app:"))
	phantomtest.TestStore(t, open)
	svc := newService()
	storeA := open().(*valkeystore.Store)
	a := svc.replica(t, storeA)
	eventually(t, "connected", 5*time.Second, func() bool { return works(storeA) })
	token := svc.as.Issue(nil)
	svc.verify(t, a, token)
	if err := a.Purge(); err != nil {
		t.Error(err)
	}
	time.Sleep(200 * time.Millisecond) // until the replica has it
	primary.kill()
	eventually(t, "failover", 30*time.Second, func() bool { return works(storeA) && a.Forget("another") == nil })
	storeB := open().(*valkeystore.Store)
	b := svc.replica(t, storeB)
	eventually(t, "connected", 5*time.Second, func() bool { return works(storeB) })
	svc.verify(t, b, token)
	svc.expect(t, "a copy from before the Purge", 2)
}

// newSentinel returns a sentinel of the primary there, with no more rights for
// its user than the package comment names.
func newSentinel(t *testing.T, host, port string) *server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	config := fmt.Sprintf("sentinel monitor fleet %s %s 1\nsentinel down-after-milliseconds fleet 500\n"+
		"sentinel failover-timeout fleet 2000\n"+
		"user watch on >secret allchannels +sentinel +subscribe +hello +auth +client +ping\n", host, port)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, path: findServer(t), addr: freeAddr(t), config: file, args: []string{"--sentinel"}}
	s.start()
	t.Cleanup(s.kill)
	eventually(t, "a sentinel that knows the replica", 15*time.Second, func() bool {
		known, _ := s.do("SENTINEL", "REPLICAS", "fleet").ToArray()
		return len(known) == 1
	})
	return s
}

// A Store reads from the primary alone: a replica may not have heard of what
// was forgotten.
//
// Catalogue: H49.
func TestStoreReadsFromThePrimary(t *testing.T) {
	primary, other := newServer(t), newServer(t) // which will never have anything
	options := valkey.ClientOption{
		InitAddress:    []string{primary.addr},
		Standalone:     valkey.StandaloneOption{ReplicaAddress: []string{other.addr}},
		SendToReplicas: func(cmd valkey.Completed) bool { return cmd.IsReadOnly() },
	}
	phantomtest.TestStore(t, opened(t, options))
}

// Catalogue: H50.
func TestStoreWithTLS(t *testing.T) {
	dir := t.TempDir()
	pool := writeCertificate(t, dir)
	_, port, _ := net.SplitHostPort(freeAddr(t))
	newServer(t, "--tls-port", port, "--tls-cert-file", filepath.Join(dir, "cert"), "--tls-key-file",
		filepath.Join(dir, "key"), "--tls-ca-cert-file", filepath.Join(dir, "cert"), "--tls-auth-clients", "no")
	addr := net.JoinHostPort("127.0.0.1", port)
	phantomtest.TestStore(t, opened(t, valkey.ClientOption{
		InitAddress: []string{addr}, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
	}))
	stranger := opened(t, valkey.ClientOption{
		InitAddress: []string{addr}, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	})().(*valkeystore.Store)
	time.Sleep(500 * time.Millisecond)
	if works(stranger) {
		t.Error("a certificate that nobody vouches for")
	}
}

func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for name, block := range map[string]*pem.Block{
		"cert": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		text := pem.EncodeToMemory(block)
		if name == "cert" {
			pool.AppendCertsFromPEM(text)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pool
}
