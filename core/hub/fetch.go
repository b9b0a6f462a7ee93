package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/gofrs/flock"
)

const (
	holdLock   = "accel-pull.lock" // shared while a model is pulled
	lockPoll   = 50 * time.Millisecond
	incomplete = ".incomplete"
)

// newHash is what a file's content is checked with.
func (f *File) newHash() hash.Hash {
	if f.SHA256 != "" {
		return sha256.New()
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", f.Size) // as git hashes (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)
	return h
}

// fetch brings a file's blob into the cache, unless it is there. Of several processes that want
// it one loads it, and the others wait.
func (p *pull) fetch(ctx context.Context, f File) error {
	blob := p.to.blob(f.etag())
	if there(blob, f.Size) {
		p.count(f.Size, 1, 0)
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(blob), 0o755); err != nil {
		return p.to.fail("make "+filepath.Dir(blob), err)
	}
	lock := flock.New(filepath.Join(p.to.locks, f.etag()+".lock"))
	defer lock.Unlock() // also where the pull ends just as it was got
	got, err := lock.TryLock()
	if err == nil && !got {
		p.note("another process loads %s; waiting for it", f.Name)
		_, err = lock.TryLockContext(ctx, lockPoll)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return p.to.fail("lock "+f.etag(), err)
	}
	if there(blob, f.Size) {
		p.count(f.Size, 1, 0)
		return nil
	}
	for try := 0; ; try++ {
		part := &partial{pull: p, file: f, path: blob + incomplete}
		err := part.fill(ctx)
		var wrong *ChecksumError
		switch {
		case err == nil:
			if err := os.Rename(part.path, blob); err != nil {
				return p.to.fail("give "+f.Name+" its place", err)
			}
			p.count(0, 1, 0)
			return nil
		case errors.As(err, &wrong) && part.resumed && try == 0:
			p.note("what was there of %s from before was wrong; loading it anew", f.Name)
		default:
			return err
		}
	}
}

// there reports whether a blob is in its place.
func there(blob string, size int64) bool {
	info, err := os.Stat(blob)
	return err == nil && info.Mode().IsRegular() && info.Size() == size
}

// partial is a file that is being loaded.
type partial struct {
	*pull
	file    File
	path    string
	out     *os.File
	hash    hash.Hash
	at      int64 // bytes that are there
	resumed bool  // some were there before
	from    string
}

// fill loads what is missing and checks the whole. A file with another hash is deleted.
func (l *partial) fill(ctx context.Context) (err error) {
	// What is no plain file was not left by a pull.
	if info, err := os.Lstat(l.path); err == nil && !info.Mode().IsRegular() {
		if err := os.Remove(l.path); err != nil {
			return l.to.fail("replace "+l.path, err)
		}
	}
	if l.out, err = os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return l.to.fail("write "+l.file.Name, err)
	}
	defer func() {
		if cerr := l.out.Close(); cerr != nil && err == nil {
			err = l.to.fail("write "+l.file.Name, cerr)
		}
	}()
	if err := l.resume(ctx); err != nil {
		return err
	}
	if l.at < l.file.Size {
		if err := l.ask(ctx, l.file.Name, func(endpoint string) error { return l.get(ctx, endpoint) }); err != nil {
			return err
		}
	}
	q := query{ref: l.ref, file: l.file.Name}
	if got := hex.EncodeToString(l.hash.Sum(nil)); got != l.file.etag() {
		l.count(-l.at, 0, 0)
		kind := "sha256"
		if l.file.SHA256 == "" {
			kind = "git hash"
		}
		wrong := &ChecksumError{l.ref.Repo, l.file.Name, l.from, kind, l.file.etag(), got}
		if err := os.Remove(l.path); err != nil {
			return errors.Join(wrong, l.to.fail("delete "+q.what(), err))
		}
		return wrong
	}
	if err := l.out.Sync(); err != nil {
		return l.to.fail("write "+l.file.Name, err)
	}
	return nil
}

// resume hashes what an earlier pull left.
func (l *partial) resume(ctx context.Context) error {
	l.hash, l.from = l.file.newHash(), "an earlier pull"
	info, err := l.out.Stat()
	if err != nil {
		return l.to.fail("read "+l.path, err)
	}
	if info.Size() > l.file.Size {
		return l.restart()
	}
	buf := make([]byte, 1<<20)
	for l.at < info.Size() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := l.out.Read(buf[:min(int64(len(buf)), info.Size()-l.at)])
		l.hash.Write(buf[:n])
		l.at += int64(n)
		l.count(int64(n), 0, 0)
		if err != nil && l.at < info.Size() {
			return l.to.fail("read "+l.path, err)
		}
	}
	l.resumed = l.at > 0
	return nil
}

// restart forgets what is there.
func (l *partial) restart() error {
	l.count(-l.at, 0, 0)
	l.at, l.resumed, l.hash = 0, false, l.file.newHash()
	if err := l.out.Truncate(0); err != nil {
		return l.to.fail("write "+l.file.Name, err)
	}
	if _, err := l.out.Seek(0, io.SeekStart); err != nil {
		return l.to.fail("write "+l.file.Name, err)
	}
	return nil
}

var contentRange = regexp.MustCompile(`^bytes (\d+)-(\d+)/(\d+|\*)$`)

var errStalled = errors.New("nothing came for a while")

// get asks an endpoint for what is missing.
func (l *partial) get(parent context.Context, endpoint string) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	q := query{endpoint, l.ref, l.file.Name}
	odd := func(format string, args ...any) error {
		return &AnswerError{endpoint, q.what(), fmt.Sprintf(format, args...)}
	}
	req, err := l.request(ctx, http.MethodGet, endpoint, filePath(l.ref.Repo, l.sha, l.file.Name))
	if err != nil {
		return err
	}
	want := []int{http.StatusOK}
	if l.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", l.at))
		want = append(want, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	}
	resp, err := l.send(l.client, req, q, want...)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		again := &transient{err: fmt.Errorf("it does not go on at byte %d", l.at)}
		if err := l.restart(); err != nil {
			return err
		}
		return again
	case http.StatusPartialContent:
		m := contentRange.FindStringSubmatch(resp.Header.Get("Content-Range"))
		if m == nil || m[1] != strconv.FormatInt(l.at, 10) || m[3] != "*" && m[3] != strconv.FormatInt(l.file.Size, 10) {
			return odd("byte %d of %d was asked for and %q came", l.at, l.file.Size, shorten(resp.Header.Get("Content-Range")))
		}
	case http.StatusOK:
		if l.at > 0 {
			if err := l.restart(); err != nil {
				return err
			}
		}
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return odd("it came as %q", shorten(e))
	}
	if n := resp.ContentLength; n >= 0 && n != l.file.Size-l.at {
		return odd("%d bytes are announced; the list of files says %d", n+l.at, l.file.Size)
	}
	l.from = endpoint
	stalled := time.AfterFunc(l.limits.stall, func() { cancel(errStalled) })
	defer stalled.Stop()
	begin, buf := l.at, make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		stalled.Reset(l.limits.stall)
		if int64(n) > l.file.Size-l.at {
			return odd("it is longer than the %d bytes that the list of files says", l.file.Size)
		}
		if n > 0 {
			if _, werr := l.out.Write(buf[:n]); werr != nil {
				return l.to.fail("write "+l.file.Name, werr)
			}
			l.hash.Write(buf[:n])
			l.at += int64(n)
			l.count(int64(n), 0, int64(n))
		}
		switch {
		case parent.Err() != nil:
			return context.Cause(parent)
		case errors.Is(err, io.EOF) && l.at == l.file.Size:
			return nil
		case ctx.Err() != nil:
			return &transient{err: context.Cause(ctx), some: l.at > begin}
		case err != nil:
			return &transient{err: fmt.Errorf("it ended after byte %d of %d: %w", l.at, l.file.Size, err), some: l.at > begin}
		}
	}
}
