package engine

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/core/config"
)

func TestFetch(t *testing.T) {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	mux.HandleFunc("/small", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("picture")) })
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) { w.Write(bytes.Repeat([]byte("x"), 65)) })
	mux.HandleFunc("/none", http.NotFound)
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.example/x", http.StatusFound)
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	open := config.Fetch{Enabled: true, Private: true, MaxBytes: 64, Timeout: 500 * time.Millisecond}
	here, _ := url.Parse(server.URL)
	listed, shut := open, open
	listed.Hosts = []string{"*.example.org", here.Hostname()}
	shut.Private = false
	for _, c := range []struct {
		config    config.Fetch
		url, want string // what comes, or what its error says
	}{
		{open, server.URL + "/small", "picture"},
		{listed, server.URL + "/small", "picture"},
		{open, server.URL + "/large", "more than 64 bytes"},
		{open, server.URL + "/none", "404"},
		{open, server.URL + "/round", "redirected more than 3 times"},
		{open, server.URL + "/file", `its scheme is "file"`},
		{open, server.URL + "/slow", "can't be fetched"},
		{open, "ftp://x/y", `its scheme is "ftp"`},
		{open, "http://me:secret@x/y", "names a user"},
		{open, "http://%zz", "malformed"},
		{listed, "http://example.org/x", "none of fetch.hosts"},
		{listed, server.URL + "/away", "elsewhere.example is none of fetch.hosts"},
		{shut, server.URL + "/small", "is not public"},
		{shut, "http://[::1]:1/x", "is not public"},
		{shut, "http://169.254.169.254/latest", "is not public"},
		{shut, "http://100.64.0.1/", "is not public"},
		{shut, "http://[::ffff:10.0.0.1]/", "is not public"},
		{shut, "http://0.0.0.0/", "is not public"},
	} {
		data, err := newFetcher(c.config).Fetch(t.Context(), c.url)
		if got := string(data); err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: found %v, wanted %q", c.url, err, c.want)
			}
		} else if got != c.want {
			t.Errorf("%s: found %q, wanted %q", c.url, got, c.want)
		}
	}
	if newFetcher(config.Fetch{}) != nil {
		t.Error("what is not configured is fetched")
	}
}
