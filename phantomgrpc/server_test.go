package phantomgrpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomgrpc"
	"github.com/phantom-token/phantom/phantomtest"
)

// A service records the contexts that its methods are called with.
type service struct {
	testpb.UnimplementedTestServiceServer
	calls []context.Context
}

func (s *service) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	s.calls = append(s.calls, ctx)
	return &testpb.Empty{}, nil
}

func (s *service) StreamingOutputCall(
	_ *testpb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse],
) error {
	s.calls = append(s.calls, stream.Context())
	return stream.Send(&testpb.StreamingOutputCallResponse{})
}

func newMiddleware(t *testing.T, as *phantomtest.AuthorizationServer, opts ...phantom.Option) *phantom.Middleware {
	t.Helper()
	m, err := phantom.New(append(as.Options(), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// protected returns the options of a server behind m.
func protected(m *phantom.Middleware, reqs ...phantom.Requirement) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(phantomgrpc.Unary(m, reqs...)),
		grpc.StreamInterceptor(phantomgrpc.Stream(m, reqs...)),
	}
}

// serve serves in memory until the test ends, and returns a connection.
func serve(t *testing.T, register func(*grpc.Server), opts ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(opts...)
	register(server)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///memory",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return conn
}

// A call is one way to call the service.
type call func(ctx context.Context, client testpb.TestServiceClient) error

var calls = map[string]call{
	"unary": func(ctx context.Context, client testpb.TestServiceClient) error {
		_, err := client.EmptyCall(ctx, &testpb.Empty{})
		return err
	},
	"stream": func(ctx context.Context, client testpb.TestServiceClient) error {
		stream, err := client.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
		if err != nil {
			return err
		}
		for {
			if _, err := stream.Recv(); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
		}
	},
}

// eachCall runs a test for each way, with a service of its own.
func eachCall(
	t *testing.T, m *phantom.Middleware, reqs []phantom.Requirement,
	test func(t *testing.T, s *service, do func(pairs ...string) error),
) {
	t.Helper()
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			s := &service{}
			conn := serve(t, func(r *grpc.Server) { testpb.RegisterTestServiceServer(r, s) }, protected(m, reqs...)...)
			client := testpb.NewTestServiceClient(conn)
			test(t, s, func(pairs ...string) error {
				return call(metadata.AppendToOutgoingContext(t.Context(), pairs...), client)
			})
		})
	}
}
