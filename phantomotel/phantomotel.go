// Package phantomotel reports what a phantom Middleware does to OpenTelemetry:
// metrics, and a span for each lookup.
//
//	auth, err := phantom.New(..., phantomotel.Instrument())
//
// # Metrics
//
// All but the two histograms are read from [phantom.Middleware.Stats] when they
// are collected, so a hit costs nothing. They are there from the first
// collection on, so that rates count from 0, except for the keys and the Store,
// which are only there if they are used.
//
//	phantom.cache.tokens          counter, {token}
//	phantom.cache.entries         up-down counter, {entry}
//	phantom.cache.evictions       counter, {entry}
//	phantom.rejections            counter, {request}
//	phantom.lookup.duration       histogram, s
//	phantom.lookup.wait.duration  histogram, s
//	phantom.lookup.active         up-down counter, {lookup}
//	phantom.lookup.waiting        up-down counter, {lookup}
//	phantom.lookup.joined         counter, {request}
//	phantom.breaker.open          gauge, 0 or 1
//	phantom.keys.age              gauge, s
//	phantom.keys.failures         counter, {refresh}
//	phantom.store.calls           counter, {call}
//	phantom.store.notes           counter, {note}
//
// Their attributes:
//
//	phantom.cache.outcome   of tokens: hit, stale, negative, miss
//	phantom.cache.kind      of entries: active, inactive
//	error.type              of rejections: a [phantom.Reason];
//	                        of both histograms too, if the lookup failed
//	phantom.lookup.refresh  of both histograms: nobody waited for it
//	phantom.lookup.shared   of both: the answer was a copy out of the Store
//	phantom.lookup.known    of waiting: the token was verified before
//	phantom.store.outcome   of calls: hit, miss, refused, failed, skipped
//
// Each has phantom.name too, if [WithName] is given. No attribute comes from a
// request, a token or the authorization server.
//
// # Spans
//
// A lookup is a span of kind internal, phantom.lookup. Its parent is the span
// of the request that started it, which it may outlive. A request's own span
// gets phantom.cache.outcome and, if it was rejected, error.type.
//
// Nothing here tells the authorization server of a trace. Requests to it are
// for otelhttp to report:
//
//	none := propagation.NewCompositeTextMapPropagator()
//	transport := otelhttp.NewTransport(phantom.NewTransport(),
//		otelhttp.WithPropagators(none))
//	phantom.WithHTTPClient(&http.Client{Transport: transport})
//
// Without that option otelhttp sends the server trace context and baggage, if
// the process has a global propagator for them.
package phantomotel

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/phantom-token/phantom"
)

// scope is what the instruments and spans are reported under.
const scope = "github.com/phantom-token/phantom/phantomotel"

// An Option configures [Instrument].
type Option func(*config)

type config struct {
	meters  metric.MeterProvider
	tracers trace.TracerProvider
	name    string
}

// WithMeterProvider sets where the metrics go. Default, also if it is nil: the
// global provider of package otel.
func WithMeterProvider(p metric.MeterProvider) Option { return func(c *config) { c.meters = p } }

// WithTracerProvider sets where the spans go. Default, also if it is nil: the
// global provider of package otel.
func WithTracerProvider(p trace.TracerProvider) Option { return func(c *config) { c.tracers = p } }

// WithName adds the attribute phantom.name to all metrics and to the spans of
// lookups. Default, also if it is empty: none. Two Middlewares of one process
// need names, or their metrics come together.
func WithName(name string) Option { return func(c *config) { c.name = name } }

// Instrument returns an option that reports what a Middleware does. It is for
// [phantom.New] and [phantom.Dispatch], and may be given to several. A
// Middleware that is not used any more reports nothing. What goes wrong is told
// to the error handler of package otel, and costs points alone.
//
// A dispatcher reports its own rejections. Give its members the option too: all
// else is theirs.
func Instrument(opts ...Option) phantom.Option {
	var c config
	for _, o := range opts {
		o(&c)
	}
	if c.meters == nil {
		c.meters = otel.GetMeterProvider()
	}
	if c.tracers == nil {
		c.tracers = otel.GetTracerProvider()
	}
	i := &instrument{tracer: c.tracers.Tracer(scope)}
	if c.name != "" {
		i.name = []attribute.KeyValue{attribute.String("phantom.name", c.name)}
	}
	i.measure(c.meters.Meter(scope))
	return phantom.WithTrace(&phantom.Trace{
		Attach:      i.attach,
		LookupStart: i.start,
		LookupDone:  i.done,
		Decided:     decided,
	})
}

// An instrument is what Instrument makes. It is also the key of its spans in
// the context of a lookup: there may be another one.
type instrument struct {
	name   []attribute.KeyValue
	tracer trace.Tracer
	metrics
}

const (
	outcomeKey = attribute.Key("phantom.cache.outcome")
	errorKey   = attribute.Key("error.type")
	refreshKey = attribute.Key("phantom.lookup.refresh")
	sharedKey  = attribute.Key("phantom.lookup.shared")
)

// start begins the span of a lookup. Of the request's context it takes the span
// and nothing else, which may not outlive the request.
func (i *instrument) start(request context.Context) context.Context {
	parent := trace.ContextWithSpan(context.Background(), trace.SpanFromContext(request))
	ctx, span := i.tracer.Start(parent, "phantom.lookup", trace.WithAttributes(i.name...))
	return context.WithValue(ctx, i, span)
}

// done ends the span, and records the histograms.
func (i *instrument) done(ctx context.Context, l phantom.Lookup) {
	attributes := append(i.name[:len(i.name):len(i.name)], refreshKey.Bool(l.Refresh), sharedKey.Bool(l.Shared))
	if l.Err != nil {
		attributes = append(attributes, errorKey.String(string(l.Err.Reason)))
	}
	set := metric.WithAttributeSet(attribute.NewSet(attributes...))
	i.duration.Record(ctx, l.Duration.Seconds(), set)
	i.waited.Record(ctx, l.Waited.Seconds(), set)
	span, ok := ctx.Value(i).(trace.Span)
	if !ok {
		return
	}
	span.SetAttributes(attributes...)
	if l.Err != nil && l.Err.StatusCode() >= 500 { // a bad token is no fault of the service
		span.SetStatus(codes.Error, string(l.Err.Reason))
	}
	span.End()
}

// decided describes the request's own span.
func decided(ctx context.Context, d phantom.Decision) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	if d.Outcome != phantom.OutcomeNone { // an outer handler may have set it
		span.SetAttributes(outcomeKey.String(string(d.Outcome)))
	}
	if d.Err != nil {
		span.SetAttributes(errorKey.String(string(d.Err.Reason)))
	}
}
