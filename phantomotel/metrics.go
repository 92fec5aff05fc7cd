package phantomotel

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/phantom-token/phantom"
)

// metrics are the instruments. Those that are observed are read from Stats.
type metrics struct {
	meter            metric.Meter
	duration, waited metric.Float64Histogram
	age              metric.Float64ObservableGauge
	numbers          []number
	observed         []metric.Observable
}

// A number is one series of an instrument, and where it is in Stats.
type number struct {
	of   metric.Int64Observable
	set  metric.ObserveOption
	read func(*phantom.Stats) (value int64, ok bool)
}

// buckets are in seconds.
var buckets = []float64{0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5}

// check tells OpenTelemetry's error handler what went wrong, if anything did.
// There is an instrument anyhow.
func check[T any](instrument T, err error) T {
	if err != nil {
		otel.Handle(err)
	}
	return instrument
}

// measure makes the instruments.
func (i *instrument) measure(m metric.Meter) {
	i.meter = m
	i.duration = check(m.Float64Histogram("phantom.lookup.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(buckets...),
		metric.WithDescription("Duration of lookups of tokens.")))
	i.waited = check(m.Float64Histogram("phantom.lookup.wait.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(buckets...),
		metric.WithDescription("Time in which lookups waited for a place at the authorization server.")))
	i.age = check(m.Float64ObservableGauge("phantom.keys.age", metric.WithUnit("s"),
		metric.WithDescription("Time since the key set in use was requested.")))
	i.observed = append(i.observed, i.age)
	i.measureCache(m)
	i.measureLookups(m)
	i.measureStore(m)
}

func (i *instrument) measureCache(m metric.Meter) {
	tokens := i.counter(m, "phantom.cache.tokens", "{token}", "Tokens, by what was remembered of them.")
	for outcome, read := range map[phantom.Outcome]func(*phantom.Stats) uint64{
		phantom.OutcomeHit:      func(s *phantom.Stats) uint64 { return s.Hits },
		phantom.OutcomeStale:    func(s *phantom.Stats) uint64 { return s.Stale },
		phantom.OutcomeNegative: func(s *phantom.Stats) uint64 { return s.Negative },
		phantom.OutcomeMiss:     func(s *phantom.Stats) uint64 { return s.Misses },
	} {
		i.total(tokens, read, outcomeKey.String(string(outcome)))
	}
	entries := i.upDown(m, "phantom.cache.entries", "{entry}", "Places of the cache that are taken.")
	const kind = attribute.Key("phantom.cache.kind")
	i.gauge(entries, func(s *phantom.Stats) int64 { return s.Entries }, kind.String("active"))
	i.gauge(entries, func(s *phantom.Stats) int64 { return s.NegativeEntries }, kind.String("inactive"))
	i.total(i.counter(m, "phantom.cache.evictions", "{entry}", "Tokens that had to make room before their time."),
		func(s *phantom.Stats) uint64 { return s.Evicted })
}

func (i *instrument) measureLookups(m metric.Meter) {
	rejections := i.counter(m, "phantom.rejections", "{request}", "Requests that were rejected, by the reason.")
	for _, reason := range reasons {
		i.total(rejections, func(s *phantom.Stats) uint64 { return s.Rejected[reason] }, errorKey.String(string(reason)))
	}
	i.gauge(i.upDown(m, "phantom.lookup.active", "{lookup}", "Lookups that are at the authorization server."),
		func(s *phantom.Stats) int64 { return s.Active })
	waiting := i.upDown(m, "phantom.lookup.waiting", "{lookup}", "Lookups that wait for a place there.")
	const known = attribute.Key("phantom.lookup.known")
	i.gauge(waiting, func(s *phantom.Stats) int64 { return s.Waiting }, known.Bool(false))
	i.gauge(waiting, func(s *phantom.Stats) int64 { return s.WaitingKnown }, known.Bool(true))
	i.total(i.counter(m, "phantom.lookup.joined", "{request}", "Requests that waited for a lookup of another one."),
		func(s *phantom.Stats) uint64 { return s.Joined })
	open := check(m.Int64ObservableGauge("phantom.breaker.open",
		metric.WithDescription("Whether lookups are refused because the authorization server fails.")))
	i.gauge(open, func(s *phantom.Stats) int64 {
		if s.BreakerOpen {
			return 1
		}
		return 0
	})
	i.total(i.counter(m, "phantom.keys.failures", "{refresh}", "Attempts to fetch the key set that failed."),
		func(s *phantom.Stats) uint64 { return s.KeysFailed })
}

// measureStore makes the instruments of the Store. While all numbers are 0
// there is none, as far as one can tell.
func (i *instrument) measureStore(m metric.Meter) {
	first := len(i.numbers)
	calls := i.counter(m, "phantom.store.calls", "{call}", "Calls of the Store, by what came of them.")
	for outcome, read := range map[string]func(*phantom.Stats) uint64{
		"hit":     func(s *phantom.Stats) uint64 { return s.Store.Hits },
		"miss":    func(s *phantom.Stats) uint64 { return s.Store.Misses },
		"refused": func(s *phantom.Stats) uint64 { return s.Store.Refused },
		"failed":  func(s *phantom.Stats) uint64 { return s.Store.Failed },
		"skipped": func(s *phantom.Stats) uint64 { return s.Store.Skipped },
	} {
		i.total(calls, read, attribute.String("phantom.store.outcome", outcome))
	}
	i.total(i.counter(m, "phantom.store.notes", "{note}", "Notes of other replicas that were followed."),
		func(s *phantom.Stats) uint64 { return s.Store.Notes })
	for n := first; n < len(i.numbers); n++ {
		read := i.numbers[n].read
		i.numbers[n].read = func(s *phantom.Stats) (int64, bool) {
			value, _ := read(s)
			return value, s.Store != phantom.StoreStats{}
		}
	}
}

// reasons are those that Stats counts.
var reasons = []phantom.Reason{
	phantom.ReasonNoCredentials, phantom.ReasonMalformedRequest, phantom.ReasonInactive, phantom.ReasonJWTRejected,
	phantom.ReasonAnswerRejected, phantom.ReasonTokenRejected, phantom.ReasonBinding, phantom.ReasonScope,
	phantom.ReasonProtocol, phantom.ReasonUnavailable, phantom.ReasonKeysUnavailable, phantom.ReasonInternal,
}

func (i *instrument) counter(m metric.Meter, name, unit, what string) metric.Int64Observable {
	return check(m.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(what)))
}

func (i *instrument) upDown(m metric.Meter, name, unit, what string) metric.Int64Observable {
	return check(m.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(what)))
}

// gauge adds a series of the instrument.
func (i *instrument) gauge(of metric.Int64Observable, read func(*phantom.Stats) int64, kv ...attribute.KeyValue) {
	i.observed = append(i.observed, of)
	i.numbers = append(i.numbers, number{
		of:   of,
		set:  metric.WithAttributeSet(attribute.NewSet(append(kv, i.name...)...)),
		read: func(s *phantom.Stats) (int64, bool) { return read(s), true },
	})
}

// total is gauge for one that never goes back.
func (i *instrument) total(of metric.Int64Observable, read func(*phantom.Stats) uint64, kv ...attribute.KeyValue) {
	i.gauge(of, func(s *phantom.Stats) int64 { return int64(read(s)) }, kv...)
}

// attach has the numbers of a Middleware observed, for as long as it is there.
func (i *instrument) attach(stats func() (phantom.Stats, bool)) {
	var registration metric.Registration
	registered := make(chan struct{})
	gone := sync.OnceFunc(func() {
		go func() { // not within the callback, which holds the provider's lock
			<-registered
			check(0, registration.Unregister())
		}()
	})
	age := metric.WithAttributeSet(attribute.NewSet(i.name...))
	registration = check(i.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s, ok := stats()
		if !ok {
			gone()
			return nil
		}
		for _, n := range i.numbers {
			if value, ok := n.read(&s); ok {
				o.ObserveInt64(n.of, value, n.set)
			}
		}
		if s.Keys > 0 {
			o.ObserveFloat64(i.age, s.KeysAge.Seconds(), age)
		}
		return nil
	}, i.observed...))
	close(registered)
}
