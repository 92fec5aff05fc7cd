package conformance_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// An uploaded file has uploadSize bytes. To keep no more than uploadMemory of
// them, net/http puts it into a temporary file.
const (
	uploadSize   = 64 << 10
	uploadMemory = 1 << 10
)

// upload returns a form with a file, and its content type.
func upload() (body []byte, contentType string) {
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	_ = form.WriteField("token", "opaque-token")
	file := must(form.CreateFormFile("file", "upload.bin"))
	must(file.Write(bytes.Repeat([]byte("x"), uploadSize)))
	_ = form.Close()
	return b.Bytes(), form.FormDataContentType()
}

// recovered is an outer handler that turns a panic into a status.
func recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() != nil {
				w.WriteHeader(http.StatusTeapot)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// copied is an outer handler that hands on a copy of the request.
func copied(next http.Handler) http.Handler {
	type key struct{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "value")))
	})
}

// limited is a handler with a time limit, which hands on a copy to a goroutine.
func limited(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Minute, "") }

// plain is no outer handler at all.
func plain(next http.Handler) http.Handler { return next }

// outers are ways to put a handler around another.
func outers() []mounting {
	return []mounting{
		{"alone", plain}, {"copied", copied}, {"limited", limited},
		{"a mux", func(next http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/", next)
			return mux
		}},
	}
}

// wrappers are the mountings of m, and one inside another.
func wrappers(m *phantom.Middleware) []mounting {
	return append(mountings(m), mounting{"nested", func(next http.Handler) http.Handler {
		return m.Handler(m.RequireScopes("read")(next))
	}})
}

// filesAfter sends an upload to h and returns the temporary files
// that are left when h is done.
func filesAfter(t *testing.T, h http.Handler, authorization string) (status int, left []string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	done := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		recovered(h).ServeHTTP(w, r.WithContext(r.Context())) // net/http cleans up after its own request only
	}))
	defer srv.Close()
	body, contentType := upload()
	r := must(http.NewRequest(http.MethodPost, srv.URL+"/orders", bytes.NewReader(body)))
	r.Header.Set("Content-Type", contentType)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	resp := must(srv.Client().Do(r))
	resp.Body.Close()
	<-done
	for _, file := range must(os.ReadDir(dir)) {
		left = append(left, file.Name())
	}
	return resp.StatusCode, left
}

// A handler that parses an uploaded form leaves no temporary file behind. It
// finds the file while it runs.
//
// Catalogue: Q2.
func TestUploadsLeaveNoFile(t *testing.T) {
	for _, tc := range []struct {
		name   string
		end    func()
		status int
	}{
		{"returns", func() {}, 200},
		{"panics", func() { panic("handler") }, 418},
		{"aborts", func() { panic(http.ErrAbortHandler) }, 418},
	} {
		m := newAS(t).middleware()
		for _, inner := range wrappers(m) {
			for _, outer := range outers() {
				t.Run(tc.name+"/"+inner.name+"/"+outer.name, func(t *testing.T) {
					next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						if err := r.ParseMultipartForm(uploadMemory); err != nil {
							t.Error(err)
							return
						}
						file, header, err := r.FormFile("file")
						if err != nil {
							t.Error(err)
							return
						}
						defer file.Close()
						n, err := io.Copy(io.Discard, file)
						if _, onDisk := file.(*os.File); !onDisk || n != uploadSize || header.Size != n || err != nil {
							t.Errorf("a %T of %d bytes, %v", file, n, err)
						}
						tc.end()
					})
					status, left := filesAfter(t, outer.wrap(inner.wrap(next)), "Bearer opaque-token")
					if status != tc.status || len(left) > 0 {
						t.Errorf("status %d, left: %q", status, left)
					}
				})
			}
		}
	}
}

// An extractor or an error handler that parses the form leaves no file either,
// whether the request is let in or not.
//
// Catalogue: Q2.
func TestUploadsThatOthersParseLeaveNoFile(t *testing.T) {
	parse := func(r *http.Request) (string, error) {
		if err := r.ParseMultipartForm(uploadMemory); err != nil {
			return "", err
		}
		return r.PostForm.Get("token"), nil
	}
	extractor := phantom.WithTokenExtractor(parse)
	handler := phantom.WithErrorHandler(func(_ http.ResponseWriter, r *http.Request, _ *phantom.Error) { _, _ = parse(r) })
	for _, tc := range []struct {
		name    string
		options []phantom.Option
		status  int
	}{
		{"extractor", []phantom.Option{extractor}, 200},
		{"extractor, rejected", []phantom.Option{extractor, phantom.WithRequirements(phantom.AllScopes("admin"))}, 403},
		{"error handler", []phantom.Option{handler}, 401},
		{"error handler that panics", []phantom.Option{
			phantom.WithErrorHandler(func(_ http.ResponseWriter, r *http.Request, _ *phantom.Error) {
				_, _ = parse(r)
				panic(http.ErrAbortHandler)
			}),
		}, 418},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newAS(t).middleware(tc.options...)
			status, left := filesAfter(t, m.Handler(&spy{}), "")
			if status != tc.status || len(left) > 0 {
				t.Errorf("status %d, left: %q", status, left)
			}
		})
	}
}

// A form that an outer handler has parsed is its own. It finds the file there
// when the inner handler has returned.
//
// Catalogue: Q2.
func TestUploadOfAnOuterHandlerStays(t *testing.T) {
	m := newAS(t).middleware()
	t.Setenv("TMPDIR", t.TempDir())
	body, contentType := upload()
	r := get("Bearer opaque-token")
	r.Method, r.Body = http.MethodPost, io.NopCloser(bytes.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	if err := r.ParseMultipartForm(uploadMemory); err != nil {
		t.Fatal(err)
	}
	for _, inner := range wrappers(m) {
		serve(inner.wrap(&spy{}), r)
		file, _, err := r.FormFile("file")
		if err != nil {
			t.Fatalf("%s: %v", inner.name, err)
		}
		file.Close()
	}
	if err := r.MultipartForm.RemoveAll(); err != nil {
		t.Error(err)
	}
}

// An outer handler reads the pattern that an inner mux found, as it does
// without the middleware.
//
// Catalogue: Q9.
func TestPatternReachesTheOuterHandler(t *testing.T) {
	m := newAS(t).middleware()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /orders/{id}", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for _, tc := range []struct{ path, authorization, before, want string }{
		{"/orders", "Bearer opaque-token", "", "GET /orders"},
		{"/orders/1", "Bearer opaque-token", "", "GET /orders/{id}"},
		{"/nowhere", "Bearer opaque-token", "", ""},
		{"/orders", "Bearer a b", "", ""},
		{"/orders", "Bearer opaque-token", "/outer/", "/outer/"},
	} {
		for _, inner := range wrappers(m) {
			r := httptest.NewRequest(http.MethodGet, "https://rs.test"+tc.path, nil)
			r.Header.Set("Authorization", tc.authorization)
			r.Pattern = tc.before
			serve(recovered(inner.wrap(mux)), r)
			if r.Pattern != tc.want {
				t.Errorf("%s, %s: pattern %q, want %q", inner.name, tc.path, r.Pattern, tc.want)
			}
		}
	}
}

// A handler that goes on after its time is up, inside or outside, races with
// nobody for the request. The race detector is the judge.
//
// Catalogue: Q2, Q9.
func TestHandlersThatOutliveTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newAS(t).middleware()
		mux := http.NewServeMux()
		mux.HandleFunc("POST /orders", func(_ http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour)
			_ = r.ParseMultipartForm(uploadMemory)
			r.Pattern += "?"
		})
		body, contentType := upload()
		for _, h := range []http.Handler{m.Handler(limited(mux)), limited(m.Handler(mux)), m.Handler(limited(m.Handler(mux)))} {
			r := httptest.NewRequest(http.MethodPost, "https://rs.test/orders", bytes.NewReader(body))
			r.Header.Set("Authorization", "Bearer opaque-token")
			r.Header.Set("Content-Type", contentType)
			rec := serve(h, r)
			time.Sleep(59 * time.Minute) // now the handler goes on as well
			seen := fmt.Sprint(r.Pattern, r.MultipartForm)
			if rec.Code != http.StatusServiceUnavailable || seen != "<nil>" {
				t.Errorf("status %d, seen %q", rec.Code, seen)
			}
			synctest.Wait()
		}
	})
}
