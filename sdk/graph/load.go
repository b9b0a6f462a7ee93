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

// WithLinks lets external data be symbolic links that lead out of the model's
// folder, as in the cache of the Hugging Face hub. Only for trusted folders.
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
	if st, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	} else if st.IsDir() {
		path = filepath.Join(path, ModelFile)
	}
	path, err := filepath.Abs(path)
	if err != nil {
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
	if err := mapExternal(path, extern, o, files); err != nil {
		return nil, err
	}
	return m, nil
}

// mapExternal maps the files that tensors lie in, each once.
func mapExternal(model string, tensors []*Initializer, o options, files *fileSet) error {
	if len(tensors) == 0 {
		return nil
	}
	dir := filepath.Dir(model)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("load model: %w", err)
	}
	defer root.Close()
	open := root.Open // refuses paths and links that lead outside
	if o.links {
		open = func(name string) (*os.File, error) { return os.Open(filepath.Join(dir, name)) }
	}
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
			f, err := open(filepath.FromSlash(ext.Path))
			if err != nil {
				return fail("the file can't be opened", err)
			}
			data, err = files.add(f)
			f.Close()
			if err != nil {
				return fail("the file can't be mapped", err)
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
