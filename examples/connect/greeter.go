package main

import (
	"context"
	"fmt"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/phantom-token/phantom"
)

// The procedures. With a .proto file, protoc-gen-connect-go makes these names
// and the handler below.
const (
	greetProcedure  = "/greet.v1.Greeter/Greet"  // unary
	repeatProcedure = "/greet.v1.Greeter/Repeat" // a stream of answers
)

// newGreeter returns the handler of the service, which is not protected.
func newGreeter() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(greetProcedure, connect.NewUnaryHandlerSimple(greetProcedure, greet))
	mux.Handle(repeatProcedure, connect.NewServerStreamHandlerSimple(repeatProcedure, repeat))
	return mux
}

func greet(ctx context.Context, word *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	tok, ok := phantom.FromContext(ctx)
	if !ok {
		return nil, connect.NewError(connect.CodeInternal, phantom.ErrNoToken) // not protected
	}
	return wrapperspb.String(fmt.Sprintf("%s, %s", word.GetValue(), tok.Subject())), nil
}

// repeat greets three times. The token was verified when the stream began: one
// that goes on for long ends itself at [phantom.Token.Expiry].
func repeat(
	ctx context.Context, word *wrapperspb.StringValue, stream *connect.ServerStream[wrapperspb.StringValue],
) error {
	for range 3 {
		greeting, err := greet(ctx, word)
		if err != nil {
			return err
		}
		if err := stream.Send(greeting); err != nil {
			return err
		}
	}
	return nil
}
