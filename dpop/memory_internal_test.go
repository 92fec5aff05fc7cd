package dpop

import (
	"encoding/base64"
	"encoding/binary"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// thumbprintOf returns the thumbprint of the key with a number.
func thumbprintOf(n int) string {
	var octets [32]byte
	binary.BigEndian.PutUint64(octets[:], uint64(n))
	return base64.RawURLEncoding.EncodeToString(octets[:])
}

func keyOf(n int) (key [32]byte) {
	binary.BigEndian.PutUint64(key[:], uint64(n))
	return key
}

// What was forgotten is not new because the clock was set back.
func TestAClockSetBackMakesNoProofNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(100)
		add := func(n int, until time.Time) (bool, error) { return m.add(thumbprintOf(n), keyOf(n), until) }
		until := time.Now().Add(time.Minute)
		if fresh, err := add(1, until); !fresh || err != nil {
			t.Fatal(fresh, err)
		}
		time.Sleep(2 * time.Minute)
		if fresh, err := add(1, until); fresh || err != nil {
			t.Errorf("after its time: %v, %v", fresh, err)
		}
		// A bubble's clock cannot be set back, so what was forgotten lies ahead.
		m.forgotten = time.Now().Add(time.Minute).UnixNano()
		if fresh, err := add(2, time.Now().Add(time.Minute)); fresh || err != errClockBack {
			t.Errorf("forgotten until later: %v, %v", fresh, err)
		}
		if fresh, err := add(2, time.Now().Add(time.Minute+1)); !fresh || err != nil {
			t.Errorf("longer than what was forgotten: %v, %v", fresh, err)
		}
	})
}

// The last moment counts, also when others leave in that moment.
func TestAnEntryStaysForItsLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(100)
		until := time.Now().Add(2 * time.Second)
		_, _ = m.add(thumbprintOf(1), keyOf(1), until.Add(-time.Second))
		_, _ = m.add(thumbprintOf(1), keyOf(2), until)
		time.Sleep(2 * time.Second)
		if fresh, err := m.add(thumbprintOf(1), keyOf(2), until); fresh || err != nil {
			t.Errorf("%v, %v", fresh, err)
		}
		if len(m.seen) != 1 {
			t.Errorf("%d entries", len(m.seen))
		}
	})
}

// The counters never part from the entries, and an empty memory has given all
// of its room back.
func TestTheMemoryCountsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(40)
		for i := range 1000 {
			_, _ = m.add(thumbprintOf(i%7), keyOf(i%300), time.Now().Add(time.Duration(1+i%13)*time.Second))
			time.Sleep(time.Duration(i%5) * 100 * time.Millisecond)
			due, counted := 0, 0
			for _, entries := range m.due {
				due += len(entries)
			}
			for _, n := range m.count {
				if n < 1 || n > m.share {
					t.Fatalf("%d entries of one key", n)
				}
				counted += n
			}
			if due != len(m.seen) || counted != len(m.seen) || due > m.capacity {
				t.Fatalf("%d seen, %d due, %d counted", len(m.seen), due, counted)
			}
		}
		time.Sleep(time.Hour)
		_, _ = m.add(thumbprintOf(1), keyOf(1), time.Now().Add(-1))
		if len(m.seen)+len(m.count)+len(m.due) != 0 {
			t.Errorf("%d seen, %d counted, %d due", len(m.seen), len(m.count), len(m.due))
		}
	})
}

// BenchmarkMemory fills a memory as far as it goes, with one proof of each key,
// which costs most, and with as many of one key as it may have.
func BenchmarkMemory(b *testing.B) {
	for _, tc := range []struct {
		name string
		keys int
	}{{"a proof of each key", 100_000}, {"four keys", 4}} {
		b.Run(tc.name, func(b *testing.B) {
			var bytes float64
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				m := newMemory(100_000)
				now := time.Now().Truncate(time.Second).Add(time.Hour)
				for i := range m.capacity {
					fresh, err := m.add(thumbprintOf(i%tc.keys), keyOf(i), now.Add(time.Duration(i%70)*time.Second))
					if !fresh || err != nil {
						b.Fatal(i, err)
					}
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				bytes = float64(after.HeapAlloc-before.HeapAlloc) / float64(m.capacity)
				runtime.KeepAlive(m)
			}
			b.ReportMetric(bytes, "bytes/entry")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*100_000), "ns/entry")
			b.ReportMetric(0, "ns/op")
		})
	}
}
