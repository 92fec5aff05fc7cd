// Package phantomgrpc puts a [phantom.Middleware] in front of gRPC services.
//
// A call is treated as an HTTP request that carries its authorization metadata
// and nothing else. It takes the same way through the Middleware as any request
// does: the same cache, requirements, log lines and rejections. The service
// gets the JWT in place of the opaque token in the incoming metadata (or no
// authorization, with [phantom.WithoutJWT]), and the verified [phantom.Token]
// in the context:
//
//	tok, ok := phantom.FromContext(ctx)
//
// Every method is checked, also those of the health and reflection services. To
// leave methods out, wrap the interceptors with the selector package of
// go-grpc-middleware, as the example does.
//
// Tokens that are bound to a key or a certificate (RFC 9449, RFC 8705) are
// refused, because a call brings no proof: the metadata dpop is not looked at.
// Neither is grpcgateway-authorization, which a gateway makes from a header
// field of its client. A gateway that is to pass a token on must map the field
// to authorization.
package phantomgrpc

import (
	"context"
	"net/http"
	"net/url"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/phantom-token/phantom"
)

// authorization is the key of the one metadata value that is looked at.
const authorization = "authorization"

// Unary returns an interceptor that requires a token that meets all of the
// requirements, and those of [phantom.WithRequirements], for every unary call.
// It answers a call that it refuses with the codes and details of [Status].
//
// A call has one authorization value. None is Unauthenticated, and several are
// InvalidArgument; with [phantom.WithTokenExtractor], the extractor decides.
// A client that has left gets DeadlineExceeded or Canceled, while the lookup
// goes on for others. An error handler ([phantom.WithErrorHandler]) runs as it
// does for HTTP. Of what it writes, only the status, Retry-After and the detail
// of a problem (RFC 9457) reach the client.
//
// Interceptors of one Middleware may follow each other: the token is looked up
// once.
//
// Unary panics if m is nil or zero or a requirement is nil. The interceptor is
// safe for concurrent use.
func Unary(m *phantom.Middleware, reqs ...phantom.Requirement) grpc.UnaryServerInterceptor {
	protected := protection(m, reqs)
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := admit(ctx, protected, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// Stream returns an interceptor that does for streams what [Unary] does for
// unary calls.
//
// A stream is checked at its start only. One that goes on for long lives past
// the token's expiry and past a revocation: end it at [phantom.Token.Expiry].
func Stream(m *phantom.Middleware, reqs ...phantom.Requirement) grpc.StreamServerInterceptor {
	protected := protection(m, reqs)
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := admit(stream.Context(), protected, info.FullMethod)
		if err != nil {
			return err
		}
		return handler(srv, &admittedStream{stream, ctx})
	}
}

// An admittedStream has the context of an admitted call.
type admittedStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // that is what a ServerStream is
}

func (s *admittedStream) Context() context.Context { return s.ctx }

// protection returns the handler that all calls go through. It is made once: a
// Middleware prepares for a route what it will say there.
func protection(m *phantom.Middleware, reqs []phantom.Requirement) http.Handler {
	return m.Require(reqs...)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		// The writer may be another by now. The context is what a Middleware
		// hands on.
		answer, _ := r.Context().Value(answerKey{}).(*answer)
		answer.admitted = r
	}))
}

// answerKey is the key of a call's answer in the context of its request.
type answerKey struct{}

// admit sends a call's authorization through the Middleware. It returns the
// context for the service, or a status error.
func admit(ctx context.Context, protected http.Handler, method string) (_ context.Context, err error) {
	// An error handler may panic to abort its answer. Here no server would
	// catch that.
	defer func() {
		if recover() != nil {
			err = status.Error(codes.Internal, textUnchecked)
		}
	}()
	answer := &answer{header: http.Header{}}
	protected.ServeHTTP(answer, request(context.WithValue(ctx, answerKey{}, answer), method))
	switch {
	case answer.admitted != nil:
		return admittedContext(answer.admitted), nil
	case answer.status == http.StatusServiceUnavailable && ctx.Err() != nil:
		return nil, callerLeft(ctx.Err())
	}
	return nil, answer.rejection()
}

// request returns the HTTP request that stands for a call. Hooks find in it
// what a gRPC request has over HTTP: the method POST and the path.
func request(ctx context.Context, method string) *http.Request {
	r := &http.Request{
		Method:     http.MethodPost,
		URL:        &url.URL{Path: method},
		Proto:      "HTTP/2.0",
		ProtoMajor: 2,
		Header:     http.Header{},
		Body:       http.NoBody,
		RequestURI: method,
	}
	if values := metadata.ValueFromIncomingContext(ctx, authorization); len(values) > 0 {
		r.Header["Authorization"] = values
	}
	return r.WithContext(ctx)
}

// admittedContext returns the context of an admitted request. Its metadata have
// the authorization that the request has now, if it has any.
func admittedContext(r *http.Request) context.Context {
	ctx := r.Context()
	md, _ := metadata.FromIncomingContext(ctx) // a copy
	if md == nil {
		md = metadata.MD{}
	}
	delete(md, authorization)
	if values := r.Header.Values("Authorization"); len(values) > 0 {
		md[authorization] = values
	}
	return metadata.NewIncomingContext(ctx, md)
}
