package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/httpcache"
)

// FormRequest makes a POST request with the form as its body. Authenticate adds
// this service's credentials to its header or to the form. The request accepts
// one media type alone. Servers compare the whole field with one string and
// silently answer a list or a weight with another type.
func FormRequest(
	ctx context.Context, endpoint, accept string, form url.Values, authenticate func(*http.Request, url.Values) error,
) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, http.NoBody)
	if err != nil {
		return nil, failure.New(failure.Protocol, "endpoint: not a URL")
	}
	req.Header.Set("Accept", accept)
	if err := authenticate(req, form); err != nil {
		// No error of Authenticate is a verdict on the token.
		f := failure.New(failure.Unavailable, "client authentication")
		return nil, f.Saying(failure.Words(err.Error(),
			form.Get("token"), form.Get("subject_token"), form.Get("client_secret"), form.Get("client_assertion")))
	}
	body := form.Encode()
	req.ContentLength = int64(len(body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	req.Body, _ = req.GetBody()
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept-Encoding", "identity") // or the transport asks for gzip and inflates it
	return req, nil
}

// NotOK returns the failure of an answer with a status that is not the one for
// an answer. The prefix goes before its name.
func NotOK(class failure.Class, prefix string, status int) *failure.Error {
	f := failure.New(class, fmt.Sprintf("%sstatus %d", prefix, status))
	return f.Differs(strconv.Itoa(http.StatusOK), strconv.Itoa(status))
}

// Outage returns the failure that a status alone tells, with any body, or nil
// if there is an answer to read. 408, 421 and 425 speak of the request, not of
// the token.
func Outage(resp *http.Response) *failure.Error {
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusMisdirectedRequest, http.StatusTooEarly:
	default:
		if resp.StatusCode < 500 {
			return nil
		}
	}
	f := NotOK(failure.Unavailable, "", resp.StatusCode)
	wait, asked := httpcache.RetryAfter(resp.Header, time.Now())
	f.Wait, f.Unanswered = wait, true
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		f.WaitAll, f.Unanswered = asked, false // it does not want to say
	case http.StatusServiceUnavailable:
		f.WaitAll = asked
	case http.StatusBadGateway, http.StatusGatewayTimeout:
	case http.StatusNotImplemented:
		f.Faulted, f.Unanswered = true, false // it never will
	default:
		f.Faulted = true
	}
	return f
}
