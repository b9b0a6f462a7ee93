package hub

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"
)

// Options say where models come from and where they are kept.
type Options struct {
	Endpoints []string // tried in order; without a slash at the end
	Cache     string   // folder, shared with huggingface_hub
	Token     string   // sent to the endpoints, and to no host that they redirect to; may be empty
	Offline   bool     // nobody is asked
}

// Hub pulls models and finds those that are there. Its methods may be called from several
// goroutines, and several processes may share a cache.
type Hub struct {
	options Options
	client  *http.Client
	limits  limits
}

// limits are how long is waited, and how often tried.
type limits struct {
	rounds  int           // of all endpoints, as long as nothing comes
	backoff time.Duration // before the second round; doubled then
	most    time.Duration // that a server may ask to be waited for
	stall   time.Duration // without a byte
}

// atOnce is the number of files that are loaded at a time.
const atOnce = 4

// New makes a Hub; it asks and writes nothing yet.
func New(o Options) *Hub {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	transport.ResponseHeaderTimeout = 60 * time.Second
	transport.MaxIdleConnsPerHost = atOnce
	return &Hub{
		options: o,
		client:  &http.Client{Transport: transport, CheckRedirect: redirected},
		limits:  limits{rounds: 5, backoff: time.Second, most: 2 * time.Minute, stall: 60 * time.Second},
	}
}

// Progress is how far a pull is.
type Progress struct {
	Files, Done  int   // files wanted, and those in place
	Bytes, Total int64 // of all files, what was there before included
}

// PullOptions say what is pulled, and who is told.
type PullOptions struct {
	Selection
	Progress func(Progress)    // called often, by one goroutine at a time; may be nil
	Note     func(note string) // told of what went another way than was wanted; as Progress
}

// Snapshot is a model in the cache.
type Snapshot struct {
	Ref    Ref
	Commit string
	Dir    string // of the snapshot
	Path   string // to open: Dir, or the file in it that stands for the model
	Files  int    // that were wanted
	Bytes  int64  // of them
	Loaded int64  // bytes that came over the network now
}

func newSnapshot(ref Ref, in repo, sha string, picked picks) Snapshot {
	s := Snapshot{Ref: ref, Commit: sha, Dir: in.snapshot(sha), Files: len(picked.Files)}
	s.Path = filepath.Join(s.Dir, filepath.FromSlash(picked.Entry))
	for _, f := range picked.Files {
		s.Bytes += f.Size
	}
	return s
}

// pull is one call of Pull.
type pull struct {
	*Hub
	ref Ref
	sha string
	to  repo
	o   PullOptions

	mu       sync.Mutex
	prefer   int // the endpoint that answered last
	progress Progress
	loaded   int64
}

// Pull brings a model's files into the cache, those that are not there yet. What came before an
// error or the context's end stays, and the next Pull goes on from there. Errors are those of
// errors.go, and of the context.
func (h *Hub) Pull(ctx context.Context, ref Ref, o PullOptions) (Snapshot, error) {
	if h.options.Offline {
		return h.locate(ref, o.Selection)
	}
	p := &pull{Hub: h, ref: ref, o: o}
	var err error
	if p.to, err = h.repo(ref.Repo); err != nil {
		return Snapshot{}, err
	}
	var files []File
	what := query{ref: ref}
	err = p.ask(ctx, what.what(), func(endpoint string) (err error) {
		p.sha, files, err = h.modelInfo(ctx, endpoint, ref)
		return err
	})
	if err != nil {
		return Snapshot{}, err
	}
	picked, err := pick(files, ref, o.Selection)
	if err != nil {
		return Snapshot{}, err
	}
	if err := p.identify(ctx, picked.Files); err != nil {
		return Snapshot{}, err
	}
	unlock, err := p.to.hold(ctx)
	if err != nil {
		return Snapshot{}, err
	}
	defer unlock()
	if err := p.load(ctx, picked.Files); err != nil {
		return Snapshot{}, err
	}
	for _, f := range picked.Files {
		if err := p.to.link(p.sha, f); err != nil {
			return Snapshot{}, err
		}
	}
	s := newSnapshot(ref, p.to, p.sha, picked)
	s.Loaded = p.loaded
	if ref.Revision != p.sha {
		err = p.to.setRef(ref.Revision, p.sha)
	}
	return s, err
}

// identify completes the files of which the list does not say hash and size.
func (p *pull) identify(ctx context.Context, files []File) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range files {
		f := &files[i]
		if f.etag() != "" && f.Size >= 0 {
			continue
		}
		g.Go(func() error {
			return p.ask(ctx, f.Name, func(endpoint string) error { return p.Hub.identify(ctx, endpoint, p.ref, p.sha, f) })
		})
	}
	return g.Wait()
}

// load brings the blobs of files into the cache, some at a time.
func (p *pull) load(ctx context.Context, files []File) error {
	blobs := map[string]File{}
	var order []string
	for _, f := range files {
		if _, ok := blobs[f.etag()]; !ok {
			order = append(order, f.etag())
			p.progress.Total += f.Size
		}
		blobs[f.etag()] = f
	}
	p.progress.Files = len(order)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, etag := range order {
		g.Go(func() error { return p.fetch(ctx, blobs[etag]) })
	}
	return g.Wait()
}

// count adds to the progress and tells of it.
func (p *pull) count(bytes int64, done int, loaded int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress.Bytes += bytes
	p.progress.Done += done
	p.loaded += loaded
	if p.o.Progress != nil {
		p.o.Progress(p.progress)
	}
}

func (p *pull) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.o.Note != nil {
		p.o.Note(fmt.Sprintf(format, args...))
	}
}

// ask has do ask one endpoint after the other until one answers, and all of them again after a
// while. Only failures that may pass lead on to the next.
func (p *pull) ask(ctx context.Context, what string, do func(endpoint string) error) error {
	endpoints := p.options.Endpoints
	if len(endpoints) == 0 {
		return errors.New("hub.endpoints is empty: name one, such as https://huggingface.co")
	}
	for round := 0; ; round++ {
		var failures []Failure
		var wait time.Duration
		busy := 0
		p.mu.Lock()
		begin := p.prefer
		p.mu.Unlock()
		for i := range endpoints {
			at := (begin + i) % len(endpoints)
			err := do(endpoints[at])
			var t *transient
			switch {
			case err == nil:
				p.mu.Lock()
				p.prefer = at
				p.mu.Unlock()
				return nil
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case !errors.As(err, &t):
				return err
			case t.some:
				round = -1 // it goes on, if haltingly
			}
			failures = append(failures, Failure{endpoints[at], t.err})
			if wait = max(wait, t.wait); t.busy {
				busy++
			}
			if i < len(endpoints)-1 {
				p.note("%s: %s failed (%v); asking %s", what, endpoints[at], t.err, endpoints[(at+1)%len(endpoints)])
			}
		}
		last := round >= p.limits.rounds-1 || wait > p.limits.most
		switch {
		case last && busy == len(endpoints):
			return &RateLimitError{failures[0].Endpoint, wait}
		case last:
			return &UnreachableError{what, failures}
		}
		if round < 0 {
			continue
		}
		pause := p.limits.backoff << round
		pause = max(wait, pause+time.Duration(rand.Int64N(int64(pause/4)+1)))
		p.note("%s: %v; asking again in %v", what, failures[0].Err, pause.Round(100*time.Millisecond))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Locate finds a model in the cache, and asks nobody. Its error is a *NotCachedError or a
// *ChoiceError, or of the file system.
func (h *Hub) Locate(ref Ref) (Snapshot, error) { return h.locate(ref, Selection{}) }

func (h *Hub) locate(ref Ref, want Selection) (Snapshot, error) {
	to, err := h.repo(ref.Repo)
	if err != nil {
		return Snapshot{}, err
	}
	missing := func(found string) (Snapshot, error) {
		return Snapshot{}, &NotCachedError{ref, h.options.Cache, h.options.Offline, found}
	}
	sha, err := to.commit(ref.Revision)
	if err != nil {
		return Snapshot{}, err
	}
	if sha == "" {
		return missing("")
	}
	files, err := to.files(sha)
	if err != nil {
		return Snapshot{}, err
	}
	picked, err := pick(files, ref, want)
	var choice *ChoiceError
	var none *NoModelError
	switch {
	case errors.As(err, &choice) && ref.Variant != "" && !choice.Matched:
		var have []string
		for _, f := range choice.Files {
			have = append(have, f.Name)
		}
		return missing("there is " + strings.Join(have[:min(len(have), 10)], ", "))
	case errors.As(err, &none):
		if len(files) == 0 {
			return missing("")
		}
		return missing(fmt.Sprintf("there are files of it (%s), and no weights that Accel reads", files[0].Name))
	case err != nil:
		return Snapshot{}, err
	}
	return newSnapshot(ref, to, sha, picked), nil
}

// hold keeps the model from being removed while it is pulled.
func (r repo) hold(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(r.locks, 0o755); err != nil {
		return nil, r.fail("make "+r.locks, err)
	}
	l := flock.New(filepath.Join(r.locks, holdLock))
	if _, err := l.TryRLockContext(ctx, lockPoll); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, r.fail("lock it", err)
	}
	return func() { l.Unlock() }, nil
}

func byName(files []File) []File {
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files
}
