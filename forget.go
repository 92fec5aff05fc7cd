package phantom

import "github.com/phantom-token/phantom/internal/fleet"

// Forget drops what m remembers about an opaque token. It is for logout and
// revocation webhooks. The result of a lookup under way is not remembered
// either.
//
// With a [Broadcaster] ([WithStore]) the other replicas forget it too. The
// error, an [*Error] that wraps [ErrUnavailable], says that they could not be
// told within a second: then they may serve it until [WithMaxTTL] is over. With
// a mere Store, only what is stored goes, and the error is nil, as it is
// without a Store.
func (m *Middleware) Forget(token string) error {
	return m.forget(func(member *Middleware) func() error {
		return member.forgetDigest(member.digests.of(token))
	})
}

// Forget drops what the Middleware remembers about the opaque token behind t,
// for handlers that end a session. It does what [Middleware.Forget] does, the
// error included.
func (t *Token) Forget() error { return t.owner.forgetDigest(t.digest())() }

func (m *Middleware) forgetDigest(d digest) (tell func() error) {
	m.memory.forget(d, m.memory.clock.Now())
	return func() error { return m.shared.tell(&d, fleet.OneToken, d[:]) }
}

// Purge is Forget for every token. Nothing is deleted in a Store, but no
// replica takes what it has from before.
func (m *Middleware) Purge() error {
	return m.forget(func(member *Middleware) func() error {
		member.memory.purge(member.memory.clock.Now())
		return func() error { return member.shared.tell(nil, fleet.AllTokens, nil) }
	})
}

// forget has each member forget something, and only then tell the others.
func (m *Middleware) forget(local func(member *Middleware) (tell func() error)) error {
	var tellings []func() error
	m.each(func(member *Middleware) {
		if tell := local(member); member.shared != nil {
			tellings = append(tellings, tell)
		}
	})
	told := make(chan error, len(tellings))
	for _, tell := range tellings {
		go func() { told <- tell() }()
	}
	var first error
	for range tellings {
		if err := <-told; first == nil {
			first = err
		}
	}
	return first
}
