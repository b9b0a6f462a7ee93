// Package vendorlib opens the libraries of vendors without cgo. It finds them, tries
// them in a short-lived process first (some end the process that opens them), binds
// their functions and compares their versions.
package vendorlib

import (
	"fmt"

	"github.com/ebitengine/purego"
)

// Library is an opened library. It stays loaded until the process ends: vendors'
// libraries keep threads and callbacks that outlive what was made with them.
type Library struct {
	path   string
	handle uintptr
}

// Open loads the library at path, its symbols visible to nobody else. The error is
// *LoadError.
func Open(path string) (*Library, error) {
	h, err := load(path)
	if err != nil {
		return nil, &LoadError{Path: path, Err: err}
	}
	return &Library{path: path, handle: h}, nil
}

// Path is the file that was loaded.
func (l *Library) Path() string { return l.path }

// Symbol is the address of a function or variable. The error is *SymbolError.
func (l *Library) Symbol(name string) (uintptr, error) {
	at, err := symbol(l.handle, name)
	if err != nil {
		return 0, &SymbolError{Path: l.path, Symbol: name, Err: err}
	}
	return at, nil
}

// Func is a function of a library and the Go variable that is to call it.
type Func struct {
	Name string
	To   any // pointer to a variable of function type
	// Optional: a library that lacks it leaves the variable nil.
	Optional bool
}

// Bind sets the variables to the library's functions. It ends at the first that
// can't be: the error, *SymbolError, names it, whether the library lacks it or its
// signature can't be called on this system.
func (l *Library) Bind(functions []Func) error {
	for _, f := range functions {
		at, err := l.Symbol(f.Name)
		if err != nil && f.Optional {
			continue
		}
		if err == nil {
			err = l.register(f, at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// register turns purego's panics into errors.
func (l *Library) register(f Func, at uintptr) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &SymbolError{Path: l.path, Symbol: f.Name, Err: fmt.Errorf("%T can't be bound: %v", f.To, r)}
		}
	}()
	purego.RegisterFunc(f.To, at)
	return nil
}

// LoadError says that a library could not be loaded.
type LoadError struct {
	Path string
	Err  error
}

func (e *LoadError) Error() string { return fmt.Sprintf("load %s: %v", e.Path, e.Err) }

func (e *LoadError) Unwrap() error { return e.Err }

// SymbolError says that a library's symbol could not be bound.
type SymbolError struct {
	Path, Symbol string
	Err          error
}

func (e *SymbolError) Error() string { return fmt.Sprintf("%s of %s: %v", e.Symbol, e.Path, e.Err) }

func (e *SymbolError) Unwrap() error { return e.Err }
