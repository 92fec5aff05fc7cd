package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/httpcache"
)

// ReadBody reads a whole body of at most limit bytes. A body that breaks off is
// an outage. A compressed one is refused, because we do not ask for it.
func ReadBody(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	var read bytes.Buffer
	read.Grow(int(max(resp.ContentLength, 0)) + bytes.MinRead) // at once, if the length is known
	_, err := read.ReadFrom(io.LimitReader(resp.Body, limit+1))
	body := read.Bytes()
	switch {
	case err != nil:
		return nil, unanswered("answer broke off", err)
	case int64(len(body)) > limit:
		return nil, tooLarge(limit)
	case len(resp.Header.Values("Content-Encoding")) > 0 || resp.Uncompressed:
		return nil, failure.New(failure.Protocol, "Content-Encoding").Differs("none", encoding(resp))
	}
	return body, nil
}

// ReadAnswer is ReadBody for an endpoint whose answers have other types than
// pages. A router may answer in its place: of a page that is too large or
// compressed, the status and the type tell enough, so it counts as empty.
func ReadAnswer(resp *http.Response, limit int64) ([]byte, error) {
	body, err := ReadBody(resp, limit)
	if err != nil && failure.Of(err).Class == failure.Protocol && isPage(resp) {
		return nil, nil
	}
	return body, err
}

func isPage(resp *http.Response) bool {
	types := resp.Header.Values("Content-Type")
	if len(types) != 1 || resp.StatusCode == http.StatusNoContent {
		return false
	}
	mediaType, _, err := mime.ParseMediaType(types[0])
	return err == nil && mediaType == "text/html"
}

// encoding names the encoding of a body.
func encoding(resp *http.Response) string {
	switch name := resp.Header.Get("Content-Encoding"); name {
	case "gzip", "br", "deflate", "zstd", "compress", "identity":
		return name
	case "":
		return "gzip" // which the transport has decoded
	}
	return "another"
}

func tooLarge(limit int64) error {
	return failure.New(failure.Protocol, fmt.Sprintf("answer larger than %d bytes", limit))
}

// GetDocument fetches a JSON document of the authorization server, without
// credentials. maxAge is negative if the server does not say how long it may be
// kept. The error is a [*StatusError] or a [*failure.Error].
func (c *Client) GetDocument(
	ctx context.Context, target, accept string, limit int64,
) (body []byte, maxAge time.Duration, err error) {
	resp, err := c.documents.send(ctx, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return nil, failure.New(failure.Protocol, "not a URL")
		}
		req.Header.Set("Accept", accept)
		req.Header.Set("Accept-Encoding", "identity")
		return req, nil
	})
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = resp.Body.Close() }() // the body is read or given up: no error matters
	body, err = ReadBody(resp, limit)
	switch {
	case resp.StatusCode != http.StatusOK:
		wait, _ := httpcache.RetryAfter(resp.Header, time.Now())
		return nil, 0, &StatusError{resp.StatusCode, wait}
	case err != nil:
		return nil, 0, err
	}
	return body, httpcache.Freshness(resp.Header, false), nil
}

// A StatusError is the status that came in place of a document, and how long
// the server asked us to wait; 0 if it did not.
type StatusError struct {
	Status int
	Wait   time.Duration
}

// Error describes the error.
func (e *StatusError) Error() string { return fmt.Sprintf("status %d", e.Status) }
