// Package hubtest is a server that speaks the Hugging Face hub's HTTP API, for tests: large files lie
// at another host, models may be gated or private, and what can go wrong in a network can be made to.
package hubtest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Token is the one that the server accepts.
const Token = "hf_good"

// Repo is a model.
type Repo struct {
	Files   map[string][]byte
	LFS     func(name string) bool // nil: what does not end in .json, .txt or .jinja
	Gated   bool                   // files want the token
	Private bool                   // so does all else
	Bare    bool                   // the list of files has no sizes and hashes, as some mirrors' have none

	commit string
}

// Server is a hub.
type Server struct {
	URL string

	t     *testing.T
	files *httptest.Server // the other host

	mu       sync.Mutex
	fault    func(w http.ResponseWriter, r *http.Request) bool
	repos    map[string]map[string]Repo // by name and revision
	blobs    map[string][]byte
	cuts     map[string]int64
	requests []string
}

// New starts a server that ends with the test.
func New(t *testing.T) *Server {
	s := &Server{t: t, repos: map[string]map[string]Repo{}, blobs: map[string][]byte{}, cuts: map[string]int64{}}
	hub := httptest.NewServer(http.HandlerFunc(s.serve))
	s.files = httptest.NewServer(http.HandlerFunc(s.lfs))
	t.Cleanup(hub.Close)
	t.Cleanup(s.files.Close)
	s.URL = hub.URL
	return s
}

// Add gives the server a model, at the revision main, and returns its commit.
func (s *Server) Add(name string, r Repo) string { return s.AddAt(name, "main", r) }

// AddAt gives the server a revision of a model.
func (s *Server) AddAt(name, revision string, r Repo) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.repos[name] == nil {
		s.repos[name] = map[string]Repo{}
	}
	tree := sha1.New()
	for _, file := range slices.Sorted(maps.Keys(r.Files)) {
		fmt.Fprintf(tree, "%q %s\n", file, SHA256(r.Files[file]))
		s.blobs[SHA256(r.Files[file])] = r.Files[file]
	}
	r.commit = hex.EncodeToString(tree.Sum(nil))
	s.repos[name][revision], s.repos[name][r.commit] = r, r
	return r.commit
}

// Cut has the connection break once, after so many bytes of the file with that content.
func (s *Server) Cut(content []byte, after int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts[SHA256(content)] = after
}

// SetFault has f handle requests in place of the server, where it returns true; nil: none. Paths of
// large files at the other host are /lfs/SHA256.
func (s *Server) SetFault(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Requests are those that came, as METHOD PATH [RANGE].
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// GitHash is git's id of a blob.
func GitHash(data []byte) string {
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(data))
	h.Write(data)
	return hex.EncodeToString(h.Sum(nil))
}

// SHA256 is the hash that LFS knows data by.
func SHA256(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (r *Repo) lfs(name string) bool {
	if r.LFS != nil {
		return r.LFS(name)
	}
	for _, small := range []string{".json", ".txt", ".jinja", ".md"} {
		if strings.HasSuffix(name, small) {
			return false
		}
	}
	return true
}

// begin notes a request and says whether it is dealt with.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	fault := s.fault
	s.mu.Unlock()
	return fault != nil && fault(w, r)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", message)
	http.Error(w, message, status)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if s.begin(w, r) {
		return
	}
	given := r.Header.Get("Authorization")
	if given != "" && given != "Bearer "+Token {
		refuse(w, http.StatusUnauthorized, "", "Invalid credentials in Authorization header")
		return
	}
	path := r.URL.EscapedPath()
	api, isAPI := strings.CutPrefix(path, "/api/models/")
	sep := "/resolve/"
	if isAPI {
		path, sep = api, "/revision/"
	}
	name, rest, ok := strings.Cut(strings.TrimPrefix(path, "/"), sep)
	file := ""
	if !isAPI {
		rest, file, _ = strings.Cut(rest, "/")
	}
	revision, err := url.PathUnescape(rest)
	if !ok || err != nil {
		http.NotFound(w, r)
		return
	}
	if file, err = url.PathUnescape(file); err != nil {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	revisions, known := s.repos[name]
	repo, found := revisions[revision]
	s.mu.Unlock()
	switch {
	case !known || repo.Private && given == "":
		refuse(w, http.StatusUnauthorized, "RepoNotFound", "Repository not found")
	case !found:
		refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
	case isAPI:
		s.model(w, r, name, repo)
	case repo.Gated && given == "":
		refuse(w, http.StatusUnauthorized, "GatedRepo", "Access to model "+name+" is restricted")
	default:
		s.file(w, r, repo, file)
	}
}

func (s *Server) model(w http.ResponseWriter, r *http.Request, name string, repo Repo) {
	type object = map[string]any
	siblings := []object{}
	for file, data := range repo.Files {
		f := object{"rfilename": file}
		if !repo.Bare && r.URL.Query().Get("blobs") == "true" {
			f["size"], f["blobId"] = len(data), GitHash(data)
			if repo.lfs(file) {
				f["blobId"] = GitHash([]byte("version https://git-lfs.github.com/spec/v1\n" + SHA256(data)))
				f["lfs"] = object{"sha256": SHA256(data), "size": len(data), "pointerSize": 134}
			}
		}
		siblings = append(siblings, f)
	}
	var gated any = false
	if repo.Gated {
		gated = "manual"
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(object{"id": name, "modelId": name, "sha": repo.commit, "gated": gated, "private": repo.Private, "siblings": siblings})
}

func (s *Server) file(w http.ResponseWriter, r *http.Request, repo Repo, file string) {
	data, ok := repo.Files[file]
	if !ok {
		refuse(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	w.Header().Set("X-Repo-Commit", repo.commit)
	if repo.lfs(file) {
		w.Header().Set("X-Linked-Etag", strconv.Quote(SHA256(data)))
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(data)))
		http.Redirect(w, r, s.files.URL+"/lfs/"+SHA256(data), http.StatusFound)
		return
	}
	w.Header().Set("ETag", strconv.Quote(GitHash(data)))
	s.content(w, r, data)
}

// lfs is the other host: it must never see the token.
func (s *Server) lfs(w http.ResponseWriter, r *http.Request) {
	if s.begin(w, r) {
		return
	}
	if r.Header.Get("Authorization") != "" {
		s.t.Errorf("the token was sent to the host of %s", r.URL)
	}
	s.mu.Lock()
	data, ok := s.blobs[strings.TrimPrefix(r.URL.Path, "/lfs/")]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", `"of-the-other-host"`)
	s.content(w, r, data)
}

func (s *Server) content(w http.ResponseWriter, r *http.Request, data []byte) {
	s.mu.Lock()
	after, cut := s.cuts[SHA256(data)]
	delete(s.cuts, SHA256(data))
	s.mu.Unlock()
	if cut {
		w = &cutting{ResponseWriter: w, left: after}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// cutting breaks the connection after some bytes.
type cutting struct {
	http.ResponseWriter
	left int64
}

func (c *cutting) Write(p []byte) (int, error) {
	if int64(len(p)) < c.left {
		c.left -= int64(len(p))
		return c.ResponseWriter.Write(p)
	}
	c.ResponseWriter.Write(p[:c.left])
	http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}
