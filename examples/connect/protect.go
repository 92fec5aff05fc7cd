package main

import (
	"context"
	"errors"
	"net/http"

	"connectrpc.com/authn"
	"connectrpc.com/connect"

	"github.com/phantom-token/phantom"
)

// withHandler puts the middleware before the service as before any other
// handler. That is complete: the client gets the challenge, the service the JWT
// in Authorization and the token in the context. The body of a rejection is of
// no protocol of Connect. Clients make the code from the HTTP status:
//
//	400       CodeInternal
//	401       CodeUnauthenticated
//	403       CodePermissionDenied
//	500       CodeUnknown
//	502, 503  CodeUnavailable
func withHandler(auth *phantom.Middleware, service http.Handler) http.Handler {
	return auth.Handler(service)
}

// withAuthn uses the middleware of authn-go, whose rejections are of the
// client's protocol and have the exact code: CodeInvalidArgument for 400,
// CodeInternal for 500. But there is no challenge, no line in phantom's log,
// and Authorization keeps the opaque token.
func withAuthn(auth *phantom.Middleware, service http.Handler) http.Handler {
	return authn.NewMiddleware(func(_ context.Context, r *http.Request) (any, error) {
		tok, err := auth.Authenticate(r)
		if err != nil {
			return nil, rejection(err)
		}
		return tok, nil
	}).Wrap(withToken(service))
}

// withToken puts the token that authn found where [phantom.FromContext] looks.
func withToken(service http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tok, _ := authn.GetInfo(r.Context()).(*phantom.Token)
		service.ServeHTTP(w, r.WithContext(phantom.NewContext(r.Context(), tok)))
	})
}

// rejection returns Connect's error for one of Authenticate. Its message is a
// constant: what [phantom.Error] says is for operators.
func rejection(err error) *connect.Error {
	code, status := connect.CodeInternal, http.StatusInternalServerError
	var e *phantom.Error
	if errors.As(err, &e) {
		status = e.StatusCode()
	}
	switch status {
	case http.StatusBadRequest:
		code = connect.CodeInvalidArgument
	case http.StatusUnauthorized:
		code = connect.CodeUnauthenticated
	case http.StatusForbidden:
		code = connect.CodePermissionDenied
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		code = connect.CodeUnavailable
	}
	return connect.NewError(code, errors.New(http.StatusText(status)))
}
