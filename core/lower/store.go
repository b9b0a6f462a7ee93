// Package lower turns a model class's graph into what one device accepts and
// keeps the result in a folder: model.onnx beside its weights. Weights stay in
// the checkpoint's files where the file system can link them.
package lower

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/hashicorp/go-hclog"
)

// Store is a folder of lowered graphs, each named by what is in it. Several
// processes may share one: who uses a folder holds a shared lock on it, who
// writes or removes one an exclusive lock.
type Store struct {
	dir string
	max int64
	log hclog.Logger

	mu     sync.Mutex
	room   int64     // bytes that may be written before the store is measured again
	looked time.Time // when it was measured last
}

// lookAgain is how long a measure of the store counts: other processes write too.
const lookAgain = time.Minute

// Folder is a lowered folder that stays until Release.
type Folder struct {
	Dir  string
	lock *flock.Flock
}

// StoreError is a failure of the store's file system.
type StoreError struct {
	Dir    string
	Op     string // what was being done
	Remedy string
	Err    error
}

func (e *StoreError) Error() string {
	s := fmt.Sprintf("cache %s: %s: %v", e.Dir, e.Op, e.Err)
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

func (e *StoreError) Unwrap() error { return e.Err }

const (
	lockSuffix = ".lock"
	tmpPrefix  = "tmp-"
	lockPoll   = 20 * time.Millisecond
)

// OpenStore opens or makes the folder dir, which may grow to maxBytes (0: no
// bound), and removes what an interrupted writer left.
func OpenStore(dir string, maxBytes int64, log hclog.Logger) (*Store, error) {
	abs, err := filepath.Abs(dir) // backends have folders of their own
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", dir, err)
	}
	dir = abs
	s := &Store{dir: dir, max: maxBytes, log: log}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, s.fail("make it", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, s.fail("list it", err)
	}
	for _, e := range entries {
		key, ok := tmpKey(e.Name())
		if !ok {
			continue
		}
		// The writer holds its key's lock; if it can be had, the writer is gone.
		l := flock.New(s.lockPath(key))
		if got, err := l.TryLock(); err == nil && got {
			err = os.RemoveAll(filepath.Join(dir, e.Name()))
			l.Unlock()
			if err != nil {
				return nil, s.fail("remove an interrupted write", err)
			}
		}
	}
	return s, nil
}

func (s *Store) fail(op string, err error) error {
	e := &StoreError{Dir: s.dir, Op: op, Err: err}
	switch {
	case isNoSpace(err):
		e.Remedy = "free some space, or set cache.dir to a larger file system"
	case errors.Is(err, fs.ErrPermission):
		e.Remedy = "make it writable, or set cache.dir to another folder"
	}
	return e
}

func (s *Store) lockPath(key string) string { return filepath.Join(s.dir, key+lockSuffix) }

func tmpKey(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, tmpPrefix)
	if !ok {
		return "", false
	}
	key, _, ok := strings.Cut(rest, "-")
	return key, ok
}

// Release lets the folder be evicted. It may be called more than once.
func (f *Folder) Release() error {
	if f == nil || f.lock == nil {
		return nil
	}
	return f.lock.Unlock()
}

// Get returns the folder of that key, written by write if it is not there yet.
// write fills the empty folder it is given; its result appears whole or not at
// all, whatever happens to this process.
func (s *Store) Get(ctx context.Context, key string, write func(dir string) error) (*Folder, error) {
	for {
		f, err := s.hold(ctx, key)
		if f != nil || err != nil {
			return f, err
		}
		if err := s.write(ctx, key, write); err != nil {
			return nil, err
		}
	}
}

// hold locks an existing folder for use; nil if there is none.
func (s *Store) hold(ctx context.Context, key string) (*Folder, error) {
	dir := filepath.Join(s.dir, key)
	l := flock.New(s.lockPath(key))
	if _, err := l.TryRLockContext(ctx, lockPoll); err != nil {
		return nil, s.fail("lock "+key, err)
	}
	if _, err := os.Stat(dir); err != nil {
		l.Unlock()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, s.fail("open "+key, err)
	}
	// The lock file's time is the folder's last use.
	now := time.Now()
	if err := os.Chtimes(l.Path(), now, now); err != nil {
		l.Unlock()
		return nil, s.fail("mark "+key+" as used", err)
	}
	return &Folder{Dir: dir, lock: l}, nil
}

func (s *Store) write(ctx context.Context, key string, write func(dir string) error) error {
	l := flock.New(s.lockPath(key))
	if _, err := l.TryLockContext(ctx, lockPoll); err != nil {
		return s.fail("lock "+key, err)
	}
	defer l.Unlock()
	final := filepath.Join(s.dir, key)
	if _, err := os.Stat(final); err == nil {
		return nil // another writer was faster
	}
	var nonce [6]byte
	rand.Read(nonce[:])
	tmp := filepath.Join(s.dir, tmpPrefix+key+"-"+hex.EncodeToString(nonce[:]))
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return s.fail("write "+key, err)
	}
	defer os.RemoveAll(tmp)
	if err := write(tmp); err != nil {
		return s.fail("write "+key, err)
	}
	if err := syncDir(tmp); err != nil {
		return s.fail("sync "+key, err)
	}
	if err := os.Rename(tmp, final); err != nil {
		return s.fail("finish "+key, err)
	}
	if err := syncDir(s.dir); err != nil {
		return s.fail("sync "+key, err)
	}
	return s.evict(key)
}

// evict removes the longest unused folders that nobody holds until the store is
// within its bound. keep is the one just written.
func (s *Store) evict(keep string) error {
	if s.max <= 0 {
		return nil
	}
	written, err := ownBytes(filepath.Join(s.dir, keep))
	if err != nil {
		return s.fail("measure "+keep, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room -= written; s.room >= 0 && time.Since(s.looked) < lookAgain {
		return nil
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return s.fail("list it", err)
	}
	type item struct {
		key  string
		size int64
		used time.Time
	}
	var keys []string
	for _, e := range entries {
		// What has no lock is not the store's.
		if _, err := os.Stat(s.lockPath(e.Name())); err == nil && e.IsDir() && !strings.HasPrefix(e.Name(), tmpPrefix) {
			keys = append(keys, e.Name())
		}
	}
	sizes, err := s.sizes(keys)
	if err != nil {
		return err
	}
	var items []item
	var total int64
	for key, size := range sizes {
		it := item{key: key, size: size}
		if info, err := os.Stat(s.lockPath(key)); err == nil {
			it.used = info.ModTime()
		}
		items = append(items, it)
		total += size
	}
	defer func() { s.room, s.looked = s.max-total, time.Now() }()
	sort.Slice(items, func(i, j int) bool { return items[i].used.Before(items[j].used) })
	for _, it := range items {
		if total <= s.max {
			return nil
		}
		if it.key == keep {
			continue
		}
		l := flock.New(s.lockPath(it.key))
		got, err := l.TryLock()
		if err != nil {
			return s.fail("lock "+it.key, err)
		}
		if !got {
			continue // in use
		}
		err = os.RemoveAll(filepath.Join(s.dir, it.key))
		l.Unlock()
		if err != nil {
			return s.fail("evict "+it.key, err)
		}
		s.log.Info("evicted a lowered folder", "folder", it.key, "bytes", it.size)
		total -= it.size
	}
	if total > s.max {
		s.log.Warn("the cache is over its bound, all that is left is in use", "dir", s.dir, "bytes", total, "bound", s.max)
	}
	return nil
}

// files lists the regular files in dir.
func files(dir string) ([]fs.FileInfo, error) {
	var list []fs.FileInfo
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			list = append(list, info)
		}
		return err
	})
	return list, err
}

// ownBytes is the size of the files in dir that exist nowhere else: a weight file
// that is linked from a checkpoint costs nothing.
func ownBytes(dir string) (int64, error) {
	list, err := files(dir)
	var total int64
	for _, info := range list {
		if _, n := links(info); n == 1 {
			total += info.Size()
		}
	}
	return total, err
}

// sizes are the bytes that the folders of some keys take. What several of them link and
// nobody else, as lowered folders link an imported model's weights, they share.
func (s *Store) sizes(keys []string) (map[string]int64, error) {
	held := map[string][]fs.FileInfo{}
	within := map[fileID]uint64{}
	for _, key := range keys {
		list, err := files(filepath.Join(s.dir, key))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process evicts it
		}
		if err != nil {
			return nil, s.fail("measure "+key, err)
		}
		held[key] = list
		for _, info := range list {
			if id, n := links(info); n > 1 {
				within[id]++
			}
		}
	}
	sizes := map[string]int64{}
	for key, list := range held {
		sizes[key] = 0
		for _, info := range list {
			switch id, n := links(info); {
			case n == 1:
				sizes[key] += info.Size()
			case n == within[id]:
				sizes[key] += info.Size() / int64(n)
			}
		}
	}
	return sizes, nil
}

// place puts the file at path into the folder under name: linked where the file
// system allows, else copied.
func place(path, folder, name string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	to := filepath.Join(folder, name)
	if err := os.Link(real, to); err == nil {
		return nil
	}
	return copyFile(real, to)
}
