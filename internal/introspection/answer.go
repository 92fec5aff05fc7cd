package introspection

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/claims"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/httpcache"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/upstream"
)

// An Answer is what the authorization server says of an active token.
type Answer struct {
	JWT     string      // for the format Signed, the answer itself, not yet read
	Members jose.Object // of a JSON answer, without the JWT
	IsJSON  bool
	Expiry  time.Time     // the answer's own exp; zero if it has none
	MaxAge  time.Duration // how long it may be kept; negative: not said
}

// errInactive is the server's word.
var errInactive = failure.New(failure.Inactive, "")

func protocolFault(detail string) *failure.Error { return failure.New(failure.Protocol, detail) }

// read classifies a response by its status, then its media type, then its body.
// A 204 is an answer only to application/jwt.
func (c *Client) read(resp *http.Response) (*Answer, error) {
	body, err := upstream.ReadAnswer(resp, maxAnswerSize)
	outage := upstream.Outage(resp)
	switch status := resp.StatusCode; {
	case outage != nil:
		return nil, outage
	case err != nil:
		return nil, err
	case status == http.StatusOK:
	case status == http.StatusNoContent && c.Format == JWT && len(body) == 0:
		return nil, errInactive
	default:
		return nil, c.refusedStatus(status, body)
	}
	types := resp.Header.Values("Content-Type")
	if len(types) != 1 {
		return nil, notOfRFC7662("Content-Type missing or repeated").Differs(c.accept(), "(none, or several)")
	}
	mediaType, _, err := mime.ParseMediaType(types[0])
	if err != nil {
		return nil, notOfRFC7662("Content-Type malformed").Differs(c.accept(), "(no media type)")
	}
	maxAge := httpcache.Freshness(resp.Header, c.Strict)
	switch {
	case mediaType == typeSigned && c.Format != Signed:
		return nil, protocolFault("an RFC 9701 answer, which is no access token").Differs(c.accept(), typeSigned)
	case mediaType == typeSigned, mediaType == typeJWT && (c.Format == JWT || c.Format == JWTMember):
		if line, ok := bytes.CutSuffix(body, []byte("\n")); ok {
			body = bytes.TrimSuffix(line, []byte("\r"))
		}
		return &Answer{JWT: string(body), MaxAge: maxAge}, nil
	case c.Format == Signed && (mediaType == typeJWT || mediaType == typeJSON):
		return nil, protocolFault("not signed as RFC 9701 demands: "+mediaType).Differs(typeSigned, mediaType)
	case mediaType == typeJWT:
		return nil, protocolFault(typeJWT+" in place of "+typeJSON).Differs(typeJSON, typeJWT)
	case mediaType == typeJSON:
		return c.readJSON(body, maxAge)
	}
	return nil, notOfRFC7662("neither "+typeJWT+" nor "+typeJSON).Differs(c.accept(), shown(mediaType))
}

// shown returns a media type if it is one that servers and routers use.
func shown(mediaType string) string {
	switch mediaType {
	case "text/html", "text/plain", "text/xml", "application/xml", "application/xhtml+xml",
		"application/octet-stream", "application/problem+json", "application/hal+json", "text/json",
		"application/x-www-form-urlencoded":
		return mediaType
	}
	return "another"
}

// notOfRFC7662 is the failure of what a router may answer in place of the
// server.
func notOfRFC7662(detail string) *failure.Error {
	f := failure.New(failure.Protocol, detail)
	f.Unanswered = true
	return f
}

// refusedStatus classifies a status that brings no answer of RFC 7662. Two of
// them are verdicts all the same: a server may say "inactive" with a status of
// its own, and one that does not introspect this kind of token might as well.
// But the word "inactive" counts only if it is signed where it has to be.
func (c *Client) refusedStatus(status int, body []byte) error {
	members, err := jose.ParseObject(body)
	isObject := err == nil && status >= 400
	if active, ok := members.Get("active").Bool(); isObject && ok && !active {
		if c.Format == Signed {
			return protocolFault(fmt.Sprintf("inactive, but not signed: status %d", status))
		}
		return failure.New(failure.Inactive, fmt.Sprintf("status %d", status))
	}
	code, _ := members.Get("error").Text()
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return refusedCredentials(status)
	case isObject && (code == "invalid_client" || code == "unauthorized_client"):
		return refusedCredentials(status)
	case isObject && status == http.StatusBadRequest && code == "unsupported_token_type":
		return failure.New(failure.Inactive, "unsupported_token_type")
	}
	f := upstream.NotOK(failure.Protocol, "", status)
	f.Unanswered = status != http.StatusBadRequest // the router's, while the server is redeployed
	return f
}

func refusedCredentials(status int) error {
	const text = "the authorization server refuses the introspection client's credentials: "
	return upstream.NotOK(failure.Protocol, text, status)
}

// readJSON reads the answer of RFC 7662 section 2.2, as the format wants it:
// with the JWT as one of its members, or without a JWT.
func (c *Client) readJSON(body []byte, maxAge time.Duration) (*Answer, error) {
	members, err := jose.ParseObject(body)
	if err != nil {
		return nil, protocolFault("not strict JSON")
	}
	answer := &Answer{MaxAge: maxAge}
	if err := answer.Read(members); err != nil || c.Format == Members {
		return answer, err
	}
	name, err := c.member(members)
	if err != nil {
		return nil, err
	}
	var ok bool
	if answer.JWT, ok = members.Get(name).Text(); !ok {
		return nil, protocolFault("the JWT member is no string")
	}
	answer.Members = members.Without(name)
	return answer, nil
}

// Read reads the members of an answer: whether the token is active, and until
// when. The error is a [*failure.Error], also for a token that is not.
func (a *Answer) Read(members jose.Object) error {
	active, ok := members.Get("active").Bool()
	if !ok {
		return protocolFault("active is missing or no boolean")
	}
	if !active {
		return errInactive
	}
	a.Members, a.IsJSON = members, true
	if exp := members.Get("exp"); exp.Exists() && !exp.IsNull() {
		sec, ok := exp.NumericDate()
		if !ok {
			return protocolFault("exp is no date")
		}
		a.Expiry = time.Unix(sec, 0)
	}
	return nil
}

// member returns the name of the one member that holds the JWT: the configured
// one, or else Curity's or Keycloak's.
func (c *Client) member(members jose.Object) (string, error) {
	names := []string{"phantom_token", "jwt"}
	if c.Format == JWTMember {
		names = []string{c.Member}
	}
	found := ""
	for _, name := range names {
		switch {
		case !members.Get(name).Exists():
		case found != "":
			return "", protocolFault("more than one JWT member")
		default:
			found = name
		}
	}
	if found == "" {
		if err := c.Rules.CheckUse(members); err != nil {
			return "", err // a verdict comes before a fault in the set-up
		}
		f := protocolFault("active, but no JWT: switch it on at the server, or see WithMinter, WithoutJWT and WithTokenExchange")
		f.Lasting = true
		if f.Differs(typeJWT+", or a member phantom_token or jwt", "members without it"); c.Format == JWTMember {
			f.Differs("the member "+c.Member, "members without it")
		}
		return "", f
	}
	return found, nil
}

// minDistinct is the length from which no text contains a token by
// chance.
const minDistinct = 16

// Clean returns the members without those that hold the opaque token, at any
// depth, and without those in which servers put a JWT or the token itself. None
// of them may be kept or handed on. A member by which the token is judged must
// not vanish: a weaker rule would apply, and a logout would not find a session
// without its name. Then the token is refused.
func Clean(members jose.Object, token string) (clean jose.Object, err error) {
	holds := func(text string) bool {
		return text == token || len(token) >= minDistinct && strings.Contains(text, token)
	}
	clean = members.Keep(func(name string, v jose.Value) bool {
		switch name {
		case "phantom_token", "jwt", "token_string":
			return false
		}
		if !holds(name) && !v.Holds(holds) {
			return true
		}
		if claims.IsJudged(name) {
			err = failure.New(failure.RefusedAnswer, name+" holds the token")
		}
		return false
	})
	return clean, err
}
