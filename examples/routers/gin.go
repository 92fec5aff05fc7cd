package main

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/phantom-token/phantom"
)

func newGin(auth *phantom.Middleware) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.GET("/menu", func(c *gin.Context) { c.String(http.StatusOK, "espresso") })
	protected := r.Group("/", ginMiddleware(auth.Handler))
	protected.GET("/profile", ginProfile)
	protected.GET("/orders/:drink", ginMiddleware(auth.RequireScopes("orders:read")), ginOrder)
	protected.GET("/customers/:id", ginCustomer(auth))
	return r
}

// ginMiddleware makes a middleware of gin from a wrapper of handlers. The rest
// of gin's chain is the next handler. Gin would go on with the chain after a
// rejection, too: Abort keeps it from that.
func ginMiddleware(wrap func(http.Handler) http.Handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		admitted := false
		wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			admitted = true
			c.Request = r // it has the JWT, and the token in its context
			c.Next()
		})).ServeHTTP(c.Writer, c.Request)
		if !admitted {
			c.Abort()
		}
	}
}

// Handlers of gin look into the request's context. That of gin falls back to it
// only with Engine.ContextWithFallback.
func ginProfile(c *gin.Context) {
	tok, _ := phantom.FromContext(c.Request.Context())
	c.String(http.StatusOK, tok.Subject())
}

func ginOrder(c *gin.Context) {
	tok, _ := phantom.FromContext(c.Request.Context())
	c.String(http.StatusOK, "%s for %s", c.Param("drink"), tok.Subject())
}

// ginCustomer refuses as the middleware would have, and ends the chain.
func ginCustomer(auth *phantom.Middleware) gin.HandlerFunc {
	return func(c *gin.Context) {
		tok, _ := phantom.FromContext(c.Request.Context())
		if c.Param("id") != tok.Subject() {
			auth.Reject(c.Writer, c.Request, phantom.ErrInsufficientScope)
			c.Abort()
			return
		}
		c.String(http.StatusOK, "customer %s", tok.Subject())
	}
}
