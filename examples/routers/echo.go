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
