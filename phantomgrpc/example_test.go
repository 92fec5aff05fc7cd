package phantomgrpc_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomgrpc"
	"github.com/phantom-token/phantom/phantomtest"
)

// greeter is the service: any of generated code will do.
type greeter struct {
	testpb.UnimplementedTestServiceServer
}

func (greeter) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	tok, _ := phantom.FromContext(ctx)
	return &testpb.SimpleResponse{Username: tok.Subject()}, nil
}

// A server that checks every method but those of the health service, which the
// selector leaves out. A load balancer that probes it has no token.
func Example_selector() {
	as := phantomtest.New() // in a real program, the options name your authorization server
	auth, err := phantom.New(as.Options()...)
	if err != nil {
		log.Fatal(err)
	}

	checked := selector.MatchFunc(func(_ context.Context, call interceptors.CallMeta) bool {
		return call.Service != healthpb.Health_ServiceDesc.ServiceName
	})
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(selector.UnaryServerInterceptor(phantomgrpc.Unary(auth), checked)),
		grpc.ChainStreamInterceptor(selector.StreamServerInterceptor(phantomgrpc.Stream(auth), checked)),
	)
	testpb.RegisterTestServiceServer(server, greeter{})
	healthpb.RegisterHealthServer(server, health.NewServer())

	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:///memory",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	ctx := context.Background()
	state, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	fmt.Println(state.GetStatus(), status.Code(err))

	client := testpb.NewTestServiceClient(conn)
	_, err = client.UnaryCall(ctx, &testpb.SimpleRequest{})
	fmt.Println(status.Code(err), status.Convert(err).Message())

	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+as.Issue(nil))
	answer, err := client.UnaryCall(ctx, &testpb.SimpleRequest{})
	fmt.Println(answer.GetUsername(), status.Code(err))
	// Output:
	// SERVING OK
	// Unauthenticated A bearer token is required.
	// alice OK
}
