package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/accelhq/accel/core/hub/hubtest"
)

// TestPullRefusesWrongContent: what does not have its hash or size is deleted and named.
func TestPullRefusesWrongContent(t *testing.T) {
	weights := model()["model.safetensors"]
	answer := func(header map[string]string, data []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/lfs/") {
				return false
			}
			for k, v := range header {
				w.Header().Set(k, v)
			}
			for i := 0; i < len(data); i += 1 << 16 {
				w.Write(data[i:min(i+1<<16, len(data))]) // in chunks, without a length
				http.NewResponseController(w).Flush()
			}
			return true
		}
	}
	wrong := bytes.Clone(weights)
	wrong[77] ^= 1
	for name, x := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request) bool
		err   string
	}{
		"one bit":        {answer(nil, wrong), "model.safetensors of org/tiny is wrong: its sha256 is " + hubtest.SHA256(wrong) + ", wanted " + hubtest.SHA256(weights)},
		"too long":       {answer(nil, append(bytes.Clone(weights), 0)), "it is longer than the 1048576 bytes"},
		"announced more": {answer(map[string]string{"Content-Length": "2000000"}, nil), "2000000 bytes are announced"},
		"packed":         {answer(map[string]string{"Content-Encoding": "gzip"}, weights), `it came as "gzip"`},
		"a page of a proxy": {answer(map[string]string{"Content-Type": "text/html", "Content-Length": "12"}, []byte("<html>login!")),
			"12 bytes are announced"},
	} {
		t.Run(name, func(t *testing.T) {
			s := hubtest.New(t)
			s.Add("org/tiny", hubtest.Repo{Files: model()})
			s.SetFault(x.fault)
			h := open(t, "", s.URL)
			_, err := h.Pull(t.Context(), ref, PullOptions{})
			if err == nil || !strings.Contains(err.Error(), x.err) {
				t.Fatalf("got %v", err)
			}
			blob := filepath.Join(h.options.Cache, "models--org--tiny", "blobs", hubtest.SHA256(weights))
			if _, err := os.Stat(blob); err == nil {
				t.Error("it was kept")
			}
			var sum *ChecksumError
			if _, serr := os.Stat(blob + incomplete); errors.As(err, &sum) && serr == nil {
				t.Error("its wrong content was kept")
			}
			s.SetFault(nil)
			got, err := h.Pull(t.Context(), ref, PullOptions{})
			if err != nil {
				t.Fatalf("afterwards: %v", err)
			}
			check(t, got, model(), taken...)
		})
	}
	t.Run("a small file", func(t *testing.T) {
		s := hubtest.New(t)
		s.Add("org/tiny", hubtest.Repo{Files: model()})
		s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/config.json") {
				return false
			}
			w.Write([]byte(`{"model_type": "bloom"}`))
			return true
		})
		var sum *ChecksumError
		if _, err := open(t, "", s.URL).Pull(t.Context(), ref, PullOptions{}); !errors.As(err, &sum) || sum.Hash != "git hash" {
			t.Errorf("got %v", err)
		}
	})
}

// TestPullRefusesHostileAnswers: nothing is written of what no hub should say.
func TestPullRefusesHostileAnswers(t *testing.T) {
	sha, blob := strings.Repeat("a", 40), strings.Repeat("b", 40)
	list := func(siblings string) string { return `{"sha":"` + sha + `","siblings":[` + siblings + `]}` }
	named := func(name string) string {
		return list(`{"rfilename":"config.json","size":2,"blobId":"` + blob + `"},{"rfilename":"` + name + `","size":2,"blobId":"` + blob + `"}`)
	}
	for name, x := range map[string]struct{ body, err string }{
		"not JSON":          {"<html>", "it is not the JSON of a model"},
		"another thing":     {"[1]", "it is not the JSON of a model"},
		"no commit":         {`{"siblings":[]}`, `the commit "" is not 40 hex digits`},
		"a commit of dots":  {`{"sha":"../../../../../../../../../../../../x"}`, "is not 40 hex digits"},
		"up":                {named("../config.json"), "does not lead to a file inside"},
		"up in the middle":  {named("a/../../b.json"), "does not lead to a file inside"},
		"absolute":          {named("/etc/passwd"), "does not lead to a file inside"},
		"a backslash":       {named(`..\\..\\x`), `it holds a \`},
		"a control letter":  {named(`x\u001b[2J.json`), "it holds a control character"},
		"a NUL":             {named(`x\u0000.json`), "it holds a control character"},
		"empty":             {named(""), "it is empty"},
		"dot":               {named("./x.json"), "does not lead to a file inside"},
		"long":              {named(strings.Repeat("n", 300)), "does not lead to a file inside"},
		"twice":             {named("config.json"), "is there twice"},
		"a file and folder": {named("config.json/x.json"), "is a file and a folder"},
		"a hash of dots":    {list(`{"rfilename":"config.json","size":2,"blobId":"../../../x"}`), "which is none"},
		"an LFS hash":       {list(`{"rfilename":"m.gguf","lfs":{"sha256":"../x","size":1}}`), "which is none"},
		"capitals":          {list(`{"rfilename":"m.gguf","lfs":{"sha256":"` + strings.Repeat("A", 64) + `","size":1}}`), "which is none"},
		"a negative size":   {list(`{"rfilename":"m.gguf","size":-5,"blobId":"` + blob + `"}`), "has -5 bytes"},
		"minus one":         {list(`{"rfilename":"m.gguf","size":-1,"blobId":"` + blob + `"}`), "has -1 bytes"},
		"a huge size":       {list(`{"rfilename":"m.gguf","size":999999999999999999,"blobId":"` + blob + `"}`), "bytes"},
		"an endless list":   {`{"sha":"` + strings.Repeat(" ", maxAnswer), "longer than"},
		"a deep list":       {strings.Repeat("[", 100_000), "it is not the JSON of a model"},
		"a hostile etag":    {list(`{"rfilename":"config.json"},{"rfilename":"model.safetensors","size":2,"blobId":"` + blob + `"}`), "is no hash"},
	} {
		t.Run(name, func(t *testing.T) {
			s := hubtest.New(t)
			s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodHead {
					w.Header().Set("ETag", `"../../../evil"`)
					return true
				}
				w.Write([]byte(x.body))
				return true
			})
			h := open(t, "", s.URL)
			_, err := h.Pull(t.Context(), ref, PullOptions{Selection: Selection{All: true}})
			var odd *AnswerError
			if !errors.As(err, &odd) || !strings.Contains(err.Error(), x.err) || strings.ContainsAny(err.Error(), "\x1b\x00") {
				t.Errorf("got %.300v", err)
			}
			if entries, _ := os.ReadDir(h.options.Cache); len(entries) != 0 {
				t.Errorf("something was written: %v", entries)
			}
		})
	}
}

// TestPullAccess: each refusal says what to do.
func TestPullAccess(t *testing.T) {
	s := hubtest.New(t)
	s.Add("org/tiny", hubtest.Repo{Files: model()})
	s.Add("org/gated", hubtest.Repo{Files: model(), Gated: true})
	s.Add("org/private", hubtest.Repo{Files: model(), Private: true})
	for _, x := range []struct {
		ref, token string
		as         func(error) bool
		says       string
	}{
		{"org/nothing", "", isA[*RepoNotFoundError], "give a token that may read it by $HF_TOKEN or hub.token"},
		{"org/private", "", isA[*RepoNotFoundError], "or it is private"},
		{"org/nothing", hubtest.Token, isA[*RepoNotFoundError], "the one that was shown may not read it"},
		{"org/gated", "", isA[*GatedError], "accept its terms at " + s.URL + "/org/gated, then give a token"},
		{"org/tiny@v9", "", isA[*RevisionNotFoundError], "org/tiny has no revision v9: " + s.URL},
		{"org/tiny", "hf_bad", isA[*AccessError], "Invalid credentials in Authorization header): check the token"},
		{"org/gated", hubtest.Token, nil, ""},
		{"org/private", hubtest.Token, nil, ""},
	} {
		r, err := ParseRef(x.ref)
		if err != nil {
			t.Fatal(err)
		}
		h := open(t, "", s.URL)
		h.options.Token = x.token
		got, err := h.Pull(t.Context(), r, PullOptions{})
		if x.as == nil {
			if err != nil {
				t.Errorf("%s with %q: %v", x.ref, x.token, err)
				continue
			}
			check(t, got, model(), taken...)
			continue
		}
		if !x.as(err) || !strings.Contains(err.Error(), x.says) || strings.Contains(err.Error(), "hf_") {
			t.Errorf("%s with %q: got %v", x.ref, x.token, err)
		}
	}
	// A file that is listed and not there.
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/resolve/") {
			http.NotFound(w, r)
			return true
		}
		return false
	})
	if _, err := open(t, "", s.URL).Pull(t.Context(), ref, PullOptions{}); !isA[*FileNotFoundError](err) {
		t.Errorf("got %v", err)
	}
}

func isA[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// TestRedirects: a redirect must not lead from https to http, nor for ever.
func TestRedirects(t *testing.T) {
	s := hubtest.New(t)
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, r.URL.String(), http.StatusFound)
		return true
	})
	_, err := open(t, "", s.URL).Pull(t.Context(), ref, PullOptions{})
	if !isA[*UnreachableError](err) || !strings.Contains(err.Error(), "more than 10 redirects") {
		t.Errorf("got %v", err)
	}
	request := func(url, token string) *http.Request {
		r, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", token)
		return r
	}
	for _, x := range []struct {
		from, to string
		ok, told bool
	}{
		{"https://hub.example", "https://hub.example/other", true, true},
		{"https://hub.example", "https://cdn.hub.example/x", true, false},
		{"https://hub.example", "https://hub.example:8443/x", true, false},
		{"http://hub.example", "https://hub.example/x", true, false},
		{"https://hub.example", "http://hub.example/x", false, false},
		{"http://hub.example", "file:///etc/passwd", false, false},
	} {
		to := request(x.to, "Bearer x")
		err := redirected(to, []*http.Request{request(x.from, "Bearer x")})
		if (err == nil) != x.ok || x.ok && (to.Header.Get("Authorization") != "") != x.told {
			t.Errorf("%s to %s: %v, token %q", x.from, x.to, err, to.Header.Get("Authorization"))
		}
	}
}

// TestPullTriesAgain: 429, 5xx and silence pass; what lasts is told.
func TestPullTriesAgain(t *testing.T) {
	for _, x := range []struct {
		name   string
		status int
		after  string
		times  int64
		err    func(error) bool
	}{
		{"429 once", 429, "0", 1, nil},
		{"503 twice", 503, "", 2, nil},
		{"429 for ever", 429, "", 1000, isA[*RateLimitError]},
		{"429 for an hour", 429, "3600", 1000, isA[*RateLimitError]},
		{"500 for ever", 500, "", 1000, isA[*UnreachableError]},
		{"silence", 0, "", 1, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := hubtest.New(t)
			files := model()
			s.Add("org/tiny", hubtest.Repo{Files: files})
			var left atomic.Int64
			left.Store(x.times)
			s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, "/lfs/") || left.Add(-1) < 0 {
					return false
				}
				if x.status == 0 {
					w.Header().Set("Content-Length", fmt.Sprint(len(files["model.safetensors"])))
					w.Write(files["model.safetensors"][:100])
					http.NewResponseController(w).Flush()
					select {
					case <-r.Context().Done():
					case <-time.After(5 * time.Second):
					}
					return true
				}
				w.Header().Set("Retry-After", x.after)
				w.WriteHeader(x.status)
				return true
			})
			var notes []string
			got, err := open(t, "", s.URL).Pull(t.Context(), ref, PullOptions{Note: func(n string) { notes = append(notes, n) }})
			if x.err != nil {
				if !x.err(err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			check(t, got, files, taken...)
			if x.status != 0 && (len(notes) == 0 || !strings.Contains(notes[0], "asking again in")) {
				t.Errorf("it was told %q", notes)
			}
		})
	}
	// Who ends it need not wait.
	s := hubtest.New(t)
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(429)
		return true
	})
	h := open(t, "", s.URL)
	h.limits.most = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := h.Pull(ctx, ref, PullOptions{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("got %v after %v", err, time.Since(begin))
	}
}
