package phantom

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/phantom-token/phantom/internal/claims"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/fleet"
	"github.com/phantom-token/phantom/internal/httpcache"
	"github.com/phantom-token/phantom/internal/issuer"
	"github.com/phantom-token/phantom/internal/jose"
)

// maxLogoutRequest bounds the body of a request, in bytes.
const maxLogoutRequest = 64 << 10

// BackchannelLogout returns the handler for the authorization server's logout
// tokens (OpenID Connect Back-Channel Logout 1.0), to be registered there as
// the client's backchannel_logout_uri. It takes POST requests without further
// authentication, since the token is signed.
//
// A logout token with a sid ends that session ([Middleware.ForgetSession]); if
// it has a sub too, also tokens of that subject that have no sid, as access
// tokens of many servers have none. One with a sub alone ends all that the
// subject has ([Middleware.ForgetSubject]). With a [Broadcaster], that reaches
// all replicas.
//
// It is verified with the keys of the issuer, and must have the type
// logout+jwt, JWT or none, the issuer's name in iss, the client id of
// [WithClientAuth] or a value of [WithAudience] in aud, an iat of the last two
// minutes, the event in events, a jti that was not there before, and no nonce.
// Otherwise the answer is 400, and nothing is forgotten. It is 503 if there are
// no keys to verify it with, or if the other replicas could not be told: the
// same token may then come again.
//
// BackchannelLogout panics if m is a dispatcher: each member has its own.
func (m *Middleware) BackchannelLogout() http.Handler {
	if m.dispatcher != nil {
		panic("phantom: BackchannelLogout of a dispatcher: mount one for each member")
	}
	audience := append([]string{m.authority.clientID}, m.authority.rules.Audience...)
	seen := &logouts{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		err := m.logout(w, r, audience, seen)
		if err == nil {
			return
		}
		m.writeLogoutError(w, r, err)
	})
}

// writeLogoutError answers as section 2.8 of the specification has it.
func (m *Middleware) writeLogoutError(w http.ResponseWriter, r *http.Request, err error) {
	f := failure.Of(err)
	status, code, description := http.StatusBadRequest, "invalid_request", "The logout token is not acceptable."
	if !f.IsVerdict() {
		status, code, description = http.StatusServiceUnavailable, "temporarily_unavailable", "Try again."
		w.Header().Set("Retry-After", strconv.FormatInt(httpcache.RetryAfterSeconds(f.Wait), 10))
	}
	m.log.rejected(r, msgLogoutRejected, rejection(f), status)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": description})
}

// logout forgets what the logout token of a request names.
func (m *Middleware) logout(w http.ResponseWriter, r *http.Request, audience []string, seen *logouts) (err error) {
	decided := false
	defer failure.Recover(&decided, &err)
	said, err := m.readLogout(w, r, audience)
	if err == nil {
		err = seen.once(said.ID, func() error { return m.endSession(said) })
	}
	decided = true
	return err
}

// readLogout returns what a verified logout token says.
func (m *Middleware) readLogout(w http.ResponseWriter, r *http.Request, audience []string) (*claims.Logout, error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxLogoutRequest)
	if err := r.ParseForm(); err != nil {
		return nil, failure.New(failure.Malformed, "logout: no form")
	}
	values := r.PostForm["logout_token"]
	if len(values) != 1 {
		const wanted = "no form with one logout_token (application/x-www-form-urlencoded)"
		return nil, failure.New(failure.Malformed, "logout: "+wanted)
	}
	msg, err := jose.Parse(values[0])
	if err != nil {
		return nil, failure.New(failure.Malformed, "logout token: "+failure.Of(issuer.Refusal(err)).Detail)
	}
	rules := &m.authority.rules
	if err := rules.CheckLogoutHeader(msg); err != nil {
		return nil, err
	}
	if _, err := m.authority.logoutSignature(r.Context(), values[0], msg); err != nil {
		if f := failure.Of(err); f.IsVerdict() {
			return nil, failure.New(failure.Malformed, "logout token: "+f.Detail)
		}
		return nil, err
	}
	return rules.CheckLogout(msg, audience, time.Now())
}

// endSession forgets the session or, if only the subject is named, all of its
// sessions.
func (m *Middleware) endSession(said *claims.Logout) error {
	var err error
	switch {
	case said.Session == "":
		err = m.ForgetSubject(said.Subject)
	case said.Subject == "":
		err = m.ForgetSession(said.Session)
	default:
		err = m.forgetNamed(named{fleet.Session, said.Session}, named{fleet.Sessionless, said.Subject})
	}
	if err != nil {
		return errNotTold
	}
	return nil
}

// logouts are the logout tokens that were there before.
type logouts struct {
	mu    sync.Mutex
	seen  map[string]time.Time // until when it could come again
	swept time.Time            // when old ones were last removed
}

// logoutSweep is the time between two looks at all logout tokens: an operator
// may log out everybody at once.
const logoutSweep = 10 * time.Second

var errLogoutTwice = failure.New(failure.Malformed, "logout token: jti")

// once does what a logout token says, unless it was done before.
func (l *logouts) once(id string, do func() error) error {
	now := time.Now()
	l.mu.Lock()
	if now.Sub(l.swept) >= logoutSweep {
		l.swept = now
		for old, until := range l.seen {
			if now.After(until) {
				delete(l.seen, old)
			}
		}
	}
	until, known := l.seen[id]
	if known = known && !now.After(until); !known {
		if l.seen == nil {
			l.seen = map[string]time.Time{}
		}
		l.seen[id] = now.Add(claims.MaxLogoutAge + maxLeeway)
	}
	l.mu.Unlock()
	if known {
		return errLogoutTwice
	}
	err := do()
	if err != nil {
		l.mu.Lock()
		delete(l.seen, id)
		l.mu.Unlock()
	}
	return err
}
