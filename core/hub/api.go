package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// File is one of a model's files.
type File struct {
	Name   string // with slashes, from the model's root
	Size   int64  // bytes; -1: not known yet
	SHA256 string // of files in LFS, 64 hex digits
	SHA1   string // of the others: git's id of the blob, 40 hex digits
}

// etag names the file's blob in the cache; empty: not known yet.
func (f *File) etag() string {
	if f.SHA256 != "" {
		return f.SHA256
	}
	return f.SHA1
}

// Bounds on what an API may answer.
const (
	maxAnswer = 32 << 20
	maxFiles  = 100_000
	maxSize   = 1 << 46 // of a file
)

// parseModel reads what the API says of a revision: the commit and its files. What could not be a
// hub's answer is an error: names that lead elsewhere, twice the same, sizes below 0.
func parseModel(data []byte) (sha string, files []File, err error) {
	var a struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name   string `json:"rfilename"`
			Size   *int64 `json:"size"`
			BlobID string `json:"blobId"`
			LFS    *struct {
				SHA256 string `json:"sha256"`
				Size   *int64 `json:"size"`
			} `json:"lfs"`
		} `json:"siblings"`
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return "", nil, fmt.Errorf("it is not the JSON of a model: %s", shorten(err.Error()))
	}
	if !hexSHA1.MatchString(a.SHA) {
		return "", nil, fmt.Errorf("the commit %q is not 40 hex digits", shorten(a.SHA))
	}
	if len(a.Siblings) > maxFiles {
		return "", nil, fmt.Errorf("it has %d files; %d are taken", len(a.Siblings), maxFiles)
	}
	seen := map[string]bool{}
	folders := map[string]bool{}
	for _, s := range a.Siblings {
		if problem := nameProblem(s.Name); problem != "" {
			return "", nil, fmt.Errorf("a file is called %q: %s", shorten(s.Name), problem)
		}
		if seen[s.Name] {
			return "", nil, fmt.Errorf("the file %q is there twice", shorten(s.Name))
		}
		seen[s.Name] = true
		for i, c := range s.Name {
			if c == '/' {
				folders[s.Name[:i]] = true
			}
		}
		f := File{Name: s.Name, Size: -1}
		if s.Size != nil {
			f.Size = *s.Size
		}
		switch {
		case s.LFS != nil:
			f.SHA256 = s.LFS.SHA256
			if s.LFS.Size != nil {
				f.Size = *s.LFS.Size
			}
			if !hexSHA256.MatchString(f.SHA256) {
				return "", nil, fmt.Errorf("the sha256 of %q is %q, which is none", shorten(f.Name), shorten(f.SHA256))
			}
		case s.BlobID != "":
			f.SHA1 = s.BlobID
			if !hexSHA1.MatchString(f.SHA1) {
				return "", nil, fmt.Errorf("the blob id of %q is %q, which is none", shorten(f.Name), shorten(f.SHA1))
			}
		}
		if f.Size < -1 || f.Size > maxSize || f.Size < 0 && s.Size != nil {
			return "", nil, fmt.Errorf("%q has %d bytes", shorten(f.Name), f.Size)
		}
		files = append(files, f)
	}
	for folder := range folders {
		if seen[folder] {
			return "", nil, fmt.Errorf("%q is a file and a folder", shorten(folder))
		}
	}
	return a.SHA, files, nil
}

// transient is a failure that may pass, or that another endpoint may not have.
type transient struct {
	err  error
	wait time.Duration // that the server asks for
	busy bool          // 429
	some bool          // part of a file came before it
}

func (t *transient) Error() string { return t.err.Error() }
func (t *transient) Unwrap() error { return t.err }

// request is a GET or HEAD to an endpoint, with the token.
func (h *Hub) request(ctx context.Context, method, endpoint, path string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, endpoint+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "accel")
	// What is sent packed has another length than was announced.
	req.Header.Set("Accept-Encoding", "identity")
	if h.options.Token != "" {
		req.Header.Set("Authorization", "Bearer "+h.options.Token)
	}
	return req, nil
}

// redirected decides about a redirect: the token stays with the host that it was meant for, and
// what was asked for in private is not sent in the open.
func redirected(req *http.Request, via []*http.Request) error {
	first, last := via[0].URL, via[len(via)-1].URL
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	if req.URL.Scheme != "https" && (req.URL.Scheme != "http" || last.Scheme == "https") {
		return fmt.Errorf("it redirects from %s to %s", last.Scheme, req.URL.Scheme)
	}
	if !sameOrigin(first, req.URL) {
		req.Header.Del("Authorization")
	}
	return nil
}

func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }

// send asks and returns the answer if its status is one of want. Other answers are errors:
// *transient or one of those that tell what to do.
func (h *Hub) send(client *http.Client, req *http.Request, q query, want ...int) (*http.Response, error) {
	resp, err := client.Do(req)
	if err != nil {
		if req.Context().Err() != nil {
			return nil, context.Cause(req.Context())
		}
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the address is said elsewhere, and a redirect's may hold a signature
		}
		return nil, &transient{err: err}
	}
	for _, w := range want {
		if resp.StatusCode == w {
			return resp, nil
		}
	}
	defer resp.Body.Close()
	return nil, h.refusal(resp, q)
}

// query is what is asked of an endpoint.
type query struct {
	endpoint string
	ref      Ref
	file     string // empty: the list of files
}

// refusal makes an error of an answer's status and headers.
func (h *Hub) refusal(resp *http.Response, q query) error {
	token := h.options.Token != ""
	code, message := resp.Header.Get("X-Error-Code"), shorten(resp.Header.Get("X-Error-Message"))
	switch status := resp.StatusCode; {
	case code == "GatedRepo":
		return &GatedError{q.ref.Repo, q.endpoint, token, message}
	case code == "RevisionNotFound":
		return &RevisionNotFoundError{q.ref.Repo, q.ref.Revision, q.endpoint}
	case code == "EntryNotFound":
		return &FileNotFoundError{q.ref.Repo, q.ref.Revision, q.file, q.endpoint}
	case code == "RepoNotFound", status == http.StatusNotFound && q.file == "", status == http.StatusUnauthorized && !token:
		return &RepoNotFoundError{q.ref.Repo, q.endpoint, token}
	case status == http.StatusNotFound:
		return &FileNotFoundError{q.ref.Repo, q.ref.Revision, q.file, q.endpoint}
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return &AccessError{q.ref.Repo, q.endpoint, status, token, message}
	case status == http.StatusTooManyRequests:
		return &transient{err: errors.New(resp.Status), wait: retryAfter(resp), busy: true}
	case status == http.StatusRequestTimeout, status >= 500:
		return &transient{err: errors.New(resp.Status), wait: retryAfter(resp)}
	}
	return &AnswerError{q.endpoint, q.what(), "it answered " + resp.Status + " " + message}
}

func (q *query) what() string {
	if q.file == "" {
		return "the files of " + q.ref.String()
	}
	return q.file + " of " + q.ref.Repo
}

// retryAfter reads the header's two forms (RFC 9110, 10.2.3).
func retryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return time.Duration(min(n, 1<<20)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// modelInfo asks one endpoint for a revision's commit and files.
func (h *Hub) modelInfo(ctx context.Context, endpoint string, ref Ref) (sha string, files []File, err error) {
	q := query{endpoint: endpoint, ref: ref}
	req, err := h.request(ctx, http.MethodGet, endpoint, "/api/models/"+ref.Repo+"/revision/"+url.PathEscape(ref.Revision)+"?blobs=true")
	if err != nil {
		return "", nil, err
	}
	resp, err := h.send(h.client, req, q, http.StatusOK)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case ctx.Err() != nil:
		return "", nil, context.Cause(ctx)
	case err != nil:
		return "", nil, &transient{err: err}
	case len(data) > maxAnswer:
		return "", nil, &AnswerError{endpoint, q.what(), fmt.Sprintf("the answer is longer than %d bytes", maxAnswer)}
	}
	if sha, files, err = parseModel(data); err != nil {
		return "", nil, &AnswerError{endpoint, q.what(), err.Error()}
	}
	if hexSHA1.MatchString(ref.Revision) && sha != ref.Revision {
		return "", nil, &AnswerError{endpoint, q.what(), "it answered with the commit " + sha}
	}
	return sha, files, nil
}

// filePath is where an endpoint has a file of a commit.
func filePath(repo, sha, name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return "/" + repo + "/resolve/" + sha + "/" + strings.Join(parts, "/")
}

// identify learns hash and size of a file from headers, for mirrors whose API does not say them.
func (h *Hub) identify(ctx context.Context, endpoint string, ref Ref, sha string, f *File) error {
	q := query{endpoint, ref, f.Name}
	req, err := h.request(ctx, http.MethodHead, endpoint, filePath(ref.Repo, sha, f.Name))
	if err != nil {
		return err
	}
	// The headers of a host that a large file lies at are of another kind.
	stay := *h.client
	stay.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if !sameOrigin(via[0].URL, req.URL) {
			return http.ErrUseLastResponse
		}
		return redirected(req, via)
	}
	resp, err := h.send(&stay, req, q, 200, 301, 302, 303, 307, 308)
	if err != nil {
		return err
	}
	resp.Body.Close()
	first := func(names ...string) string {
		for _, n := range names {
			if v := resp.Header.Get(n); v != "" {
				return v
			}
		}
		return ""
	}
	etag := strings.Trim(strings.TrimPrefix(first("X-Linked-Etag", "ETag"), "W/"), `"`)
	switch {
	case hexSHA256.MatchString(etag):
		f.SHA256, f.SHA1 = etag, ""
	case hexSHA1.MatchString(etag):
		f.SHA256, f.SHA1 = "", etag
	default:
		return &AnswerError{endpoint, q.what(), fmt.Sprintf("its ETag %q is no hash, so that the file could not be checked", shorten(etag))}
	}
	length := first("X-Linked-Size")
	if length == "" && resp.StatusCode == http.StatusOK {
		length = first("Content-Length")
	}
	n, err := strconv.ParseInt(length, 10, 64)
	if err != nil || n < 0 || n > maxSize || f.Size >= 0 && n != f.Size {
		return &AnswerError{endpoint, q.what(), fmt.Sprintf("its size is %q, and %d in the list of files", shorten(length), f.Size)}
	}
	f.Size = n
	return nil
}
