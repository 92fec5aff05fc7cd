// Package differential compares phantom with other JOSE implementations: what
// phantom accepts must be accepted by them, and their key sets must serve as
// phantom's. It is a module of its own, so that users of phantom do not depend
// on them.
package differential
