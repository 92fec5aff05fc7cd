package phantomgrpc

import (
	"net/http"
	"slices"
	"testing"

	"google.golang.org/grpc/metadata"
)

// Where the Middleware takes Authorization from the request instead of putting
// a JWT there, none is left in the metadata either, under any spelling.
func TestAuthorizationIsTakenFromTheMetadataToo(t *testing.T) {
	md := metadata.MD{"authorization": {"Bearer opaque"}, "Authorization": {"Bearer opaque"}, "x-trace": {"7"}}
	r, err := http.NewRequestWithContext(metadata.NewIncomingContext(t.Context(), md), http.MethodPost, "/a.B/C", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := metadata.FromIncomingContext(admittedContext(r))
	if len(got) != 1 || !slices.Equal(got["x-trace"], []string{"7"}) {
		t.Errorf("metadata %v", got)
	}
	if len(md["authorization"]) != 1 {
		t.Error("the caller's metadata changed")
	}
}
