package main

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/phantom-token/phantom"
)

// newEcho uses echo's own adaptor for wrappers of handlers.
func newEcho(auth *phantom.Middleware) http.Handler {
	e := echo.New()
	e.GET("/menu", func(c echo.Context) error { return c.String(http.StatusOK, "espresso") })
	protected := e.Group("", echo.WrapMiddleware(auth.Handler))
	protected.GET("/profile", echoProfile)
	protected.GET("/orders/:drink", echoOrder, echo.WrapMiddleware(auth.RequireScopes("orders:read")))
	protected.GET("/customers/:id", echoCustomer(auth))
	return e
}

func echoProfile(c echo.Context) error {
	tok, _ := phantom.FromContext(c.Request().Context())
	return c.String(http.StatusOK, tok.Subject())
}

func echoOrder(c echo.Context) error {
	tok, _ := phantom.FromContext(c.Request().Context())
	return c.String(http.StatusOK, c.Param("drink")+" for "+tok.Subject())
}

// echoCustomer refuses as the middleware would have. The answer is written, so
// there is no error for echo's own error handler.
func echoCustomer(auth *phantom.Middleware) echo.HandlerFunc {
	return func(c echo.Context) error {
		tok, _ := phantom.FromContext(c.Request().Context())
		if c.Param("id") != tok.Subject() {
			auth.Reject(c.Response(), c.Request(), phantom.ErrInsufficientScope)
			return nil
		}
		return c.String(http.StatusOK, "customer "+tok.Subject())
	}
}
