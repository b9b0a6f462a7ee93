package graph

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
)

// ModelFile is the name of the model inside a model folder.
const ModelFile = "model.onnx"

// Option changes how a model is read.
type Option func(*options)

type options struct {
	limits Limits
	links  bool
}

// WithLimits replaces the default limits.
func WithLimits(l Limits) Option { return func(o *options) { o.limits = l } }

// WithLinks lets external data be symbolic links as they lie in the cache of the
// Hugging Face hub: where the model's folder is, or lies in, a folder
// REPO/snapshots/REVISION, links may lead to other places inside REPO, such as
// REPO/blobs. Elsewhere, and to anywhere else, links still may not lead out of the
// model's folder.
func WithLinks() Option { return func(o *options) { o.links = true } }

// Load reads a model: an ONNX file, or a folder that holds model.onnx. External
// data must be a relative path that stays inside the model's folder.
//
// Tensor data is not read but mapped, read-only: it may be used until Close of
// the model and of all its clones; nothing is unmapped before, garbage
// collection included. A model that is never closed keeps its address space.
// Mapped files must not be shortened meanwhile; replace them by renaming.
//
// Errors are *FormatError, *LimitError, *ExternalError, or of the file system.
// See Parse for what a Model keeps.
func Load(path string, opts ...Option) (*Model, error) {
	var o options
	for _, f := range opts {
		f(&o)
	}
	st, err := os.Stat(path)
	if err == nil && st.IsDir() {
		path = filepath.Join(path, ModelFile)
		st, err = os.Stat(path)
	}
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	defer f.Close()
	files := &fileSet{}
	files.refs.Store(1)
	m, err := load(f, path, o, files)
	if err != nil {
		return nil, errors.Join(err, files.release())
	}
	m.files = files
	return m, nil
}

func load(f *os.File, path string, o options, files *fileSet) (*Model, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	if limit := o.limits.orDefaults().Bytes; st.Size() > limit {
		return nil, &LimitError{File: path, What: "bytes", Limit: limit, Found: st.Size()}
	}
	data, err := files.add(f)
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", path, err)
	}
	m, extern, err := parse(data, o.limits)
	if err != nil {
		switch e := err.(type) {
		case *FormatError:
			e.File = path
		case *LimitError:
			e.File = path
		}
		return nil, err
	}
	if err := mapExternal(path, st, extern, o, files); err != nil {
		return nil, err
	}
	return m, nil
}

// mapExternal maps the files that tensors lie in, each once.
func mapExternal(model string, self os.FileInfo, tensors []*Initializer, o options, files *fileSet) error {
	if len(tensors) == 0 {
		return nil
	}
	dir := filepath.Dir(model)
	top, within := dir, ""
	if o.links {
		var err error
		if top, within, err = hubRepo(dir); err != nil {
			return fmt.Errorf("load model: %w", err)
		}
	}
	root, err := os.OpenRoot(top) // refuses paths and links that lead outside
	if err != nil {
		return fmt.Errorf("load model: %w", err)
	}
	defer root.Close()
	limits := o.limits.orDefaults()
	var bytes int64
	mapped := map[string][]byte{}
	for _, in := range tensors {
		ext := in.External
		fail := func(reason string, err error) error {
			return &ExternalError{Model: model, Tensor: in.Name, Path: ext.Path, Reason: reason, Err: err}
		}
		data, ok := mapped[ext.Path]
		if !ok {
			if !filepath.IsLocal(filepath.FromSlash(ext.Path)) {
				return fail("the location must be a relative path inside the model's folder", nil)
			}
			if n := int64(len(mapped)) + 1; n > limits.Files {
				return &LimitError{File: model, What: "files with external data", Limit: limits.Files, Found: n}
			}
			if data, err = mapOne(root, filepath.Join(within, filepath.FromSlash(ext.Path)), self, files); err != nil {
				return fail("the file can't be used", err)
			}
			if bytes += int64(len(data)); bytes > limits.External {
				return &LimitError{File: model, What: "bytes of external data", Limit: limits.External, Found: bytes}
			}
			mapped[ext.Path] = data
		}
		end := ext.Offset + ext.Length
		if end > int64(len(data)) {
			return fail(fmt.Sprintf("it ends at byte %d, the file at byte %d", end, len(data)), nil)
		}
		in.Tensor.Data = data[ext.Offset:end:end]
		if err := checkBools(in.Tensor); err != nil {
			return fail(err.Error(), nil)
		}
	}
	for _, in := range tensors {
		in.External.Path = filepath.Join(dir, filepath.FromSlash(in.External.Path))
	}
	return nil
}

// mapOne maps a file inside root that is not the model file itself.
func mapOne(root *os.Root, name string, self os.FileInfo, files *fileSet) ([]byte, error) {
	// Opening what is no file may wait for ever, or do something.
	st, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	switch {
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", name)
	case os.SameFile(st, self):
		return nil, fmt.Errorf("%s is the model file itself", name)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return files.add(f)
}

// hubRepo is the folder of the repository that the model's folder is a snapshot of,
// in a cache of the Hugging Face hub, and the way from there to the model's folder;
// the model's folder itself where it is none.
func hubRepo(dir string) (repo, within string, err error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", "", err
	}
	for at := real; filepath.Dir(at) != at; at = filepath.Dir(at) {
		snapshots := filepath.Dir(at)
		if filepath.Base(snapshots) != "snapshots" {
			continue
		}
		repo = filepath.Dir(snapshots)
		if st, err := os.Stat(filepath.Join(repo, "blobs")); err == nil && st.IsDir() {
			within, err = filepath.Rel(repo, real)
			return repo, within, err
		}
	}
	return dir, "", nil
}

// Close gives back what Load mapped. After Close of a model and all its clones
// no tensor of any of them may be touched. A model that was not loaded from
// files has nothing to close; closing twice does nothing.
func (m *Model) Close() error {
	files := m.files
	m.files = nil
	if files == nil {
		return nil
	}
	return files.release()
}

// fileSet is the mapped files that a model and its clones share.
type fileSet struct {
	refs  atomic.Int64
	unmap []func() error
}

func (s *fileSet) retain() { s.refs.Add(1) }

func (s *fileSet) release() error {
	if s.refs.Add(-1) > 0 {
		return nil
	}
	var errs []error
	for _, f := range s.unmap {
		errs = append(errs, f())
	}
	s.unmap = nil
	return errors.Join(errs...)
}

// add maps a whole file read-only. f may be closed afterwards.
func (s *fileSet) add(f *os.File) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", f.Name())
	}
	if st.Size() == 0 {
		return nil, nil
	}
	if int64(int(st.Size())) != st.Size() {
		return nil, fmt.Errorf("%s has %d bytes, more than this machine can address", f.Name(), st.Size())
	}
	data, unmap, err := mapFile(f, int(st.Size()))
	if errors.Is(err, errors.ErrUnsupported) {
		// Some file systems can't map: read instead.
		data, err = io.ReadAll(f)
		return data, err
	}
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	s.unmap = append(s.unmap, unmap)
	return data, nil
}
