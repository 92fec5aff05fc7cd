// Mcp is an MCP server that keeps notes for the users of an authorization
// server: the metadata that lead a client there (RFC 9728), tools that know
// whose notes they handle, and sessions that nobody else can join. It is a
// module of its own; run it from its folder:
//
//	ISSUER=https://login.example.com/oauth/v2/oauth-anonymous \
//	    RESOURCE=https://mcp.example.com/mcp \
//	    CLIENT_ID=gateway_client CLIENT_SECRET=… go run .
//
// RESOURCE is the URL of the MCP endpoint as clients know it, and the audience
// of their tokens, which need the scope notes. Without a token, the answer
// leads to the metadata, and those to the authorization server:
//
//	curl -i http://127.0.0.1:8080/mcp
//	curl -i http://127.0.0.1:8080/.well-known/oauth-protected-resource/mcp
//
// What to look at: protect puts phantom outside and the SDK's own middleware
// inside, where it has no verdict left to give.
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/resource"
)

func main() {
	h, err := protect(newServer(), os.Getenv("RESOURCE"), os.Getenv("ISSUER"),
		phantom.WithClientAuth(phantom.ClientSecretBasic(os.Getenv("CLIENT_ID"), os.Getenv("CLIENT_SECRET"))),
	)
	if err != nil {
		log.Fatal(err) // every mistake in the options, at once
	}
	srv := &http.Server{Addr: "127.0.0.1:8080", Handler: h, ReadHeaderTimeout: 5 * time.Second}
	log.Print("serving on http://", srv.Addr)
	log.Fatal(srv.ListenAndServe())
}

// scope is what a token needs for the MCP endpoint.
const scope = "notes"

// protect returns the metadata, for everyone, and the server's MCP endpoint,
// for those who have a token for it.
func protect(server *mcp.Server, endpoint, issuer string, opts ...phantom.Option) (http.Handler, error) {
	metadata, err := resource.New(resource.Metadata{
		Resource:             endpoint,
		Name:                 "Notes",
		AuthorizationServers: []string{issuer},
		Scopes:               []string{scope},
	})
	if err != nil {
		return nil, err
	}
	tokens, err := phantom.New(append(opts,
		phantom.WithIssuer(issuer),
		phantom.WithAudience(endpoint), // no other server's tokens, as MCP demands
		phantom.WithoutJWT(),           // the tools know the user, and pass nothing on
		phantom.WithResourceMetadataURL(metadata.URL()),
	)...)
	if err != nil {
		return nil, err
	}

	server.AddReceivingMiddleware(ownToken)
	// On loopback, the SDK refuses a Host that is not. Behind a proxy that keeps
	// the Host, set DisableLocalhostProtection: no request passes without a token.
	sessions := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)
	bind := auth.RequireBearerToken(knownUser, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true})

	mux := http.NewServeMux()
	mux.Handle(metadata.Path(), metadata)
	mux.Handle("/mcp", tokens.RequireScopes(scope)(whileValid(bind(sessions))))
	return mux, nil
}

// whileValid ends a stream of events when the token ends. Phantom has removed
// the Authorization field, and RequireBearerToken insists on one.
func whileValid(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", "Bearer -")
		tok, ok := phantom.FromContext(r.Context())
		if ok && r.Method == http.MethodGet && !tok.Expiry().IsZero() {
			ctx, cancel := context.WithDeadline(r.Context(), tok.Expiry())
			defer cancel()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

// knownUser tells the SDK who is behind a request; only RequireBearerToken can.
// It checks nothing: phantom has, and its answers say more. The SDK refuses a
// request to a session that another UserID began.
func knownUser(ctx context.Context, _ string, _ *http.Request) (*auth.TokenInfo, error) {
	tok, ok := phantom.FromContext(ctx)
	if !ok {
		return nil, auth.ErrInvalidToken // mounted without phantom
	}
	return &auth.TokenInfo{UserID: userID(tok), Extra: map[string]any{"token": tok}}, nil
}

// userID is unique: a sub is so only beside its issuer.
func userID(tok *phantom.Token) string { return tok.Issuer() + "\x00" + tok.Subject() }

// ownToken gives each call the token of its own request. Otherwise its context
// would be that of the request that began the session, with a token that may
// have expired since or had other scopes.
func ownToken(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		var tok *phantom.Token // nil hides the other one
		if extra := req.GetExtra(); extra != nil && extra.TokenInfo != nil {
			tok, _ = extra.TokenInfo.Extra["token"].(*phantom.Token)
		}
		return next(phantom.NewContext(ctx, tok), method, req)
	}
}

func newServer() *mcp.Server {
	server := mcp.NewServer(&mcp.Implementation{Name: "notes", Version: "1.0.0"}, nil)
	n := &notes{of: map[string][]string{}}
	mcp.AddTool(server, &mcp.Tool{Name: "add_note", Description: "Keeps a note."}, n.add)
	return server
}

// notes are kept until the program ends.
type notes struct {
	mu sync.Mutex
	of map[string][]string // by user
}

type note struct {
	Text string `json:"text" jsonschema:"what to remember"`
}

type list struct {
	Subject string   `json:"subject"`
	Notes   []string `json:"notes"`
}

// add keeps a note of the caller and returns all of theirs. The token says who
// that is, never an argument.
func (n *notes) add(ctx context.Context, _ *mcp.CallToolRequest, in note) (*mcp.CallToolResult, list, error) {
	tok, ok := phantom.FromContext(ctx)
	if !ok {
		return nil, list{}, errors.New("no token")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	user := userID(tok)
	n.of[user] = append(n.of[user], in.Text)
	return nil, list{tok.Subject(), slices.Clone(n.of[user])}, nil
}
