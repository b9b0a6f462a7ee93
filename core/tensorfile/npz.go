package tensorfile

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// maxRatio is the most that deflate can make of a byte.
const maxRatio = 1032

// openNPZ lists the arrays of an archive; each is read when it is asked for.
func openNPZ(path string) (*source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	s, err := listNPZ(f, info.Size())
	if err != nil {
		f.Close()
		return nil, err
	}
	s.close = f.Close
	return s, nil
}

func listNPZ(r io.ReaderAt, archive int64) (*source, error) {
	z, err := zip.NewReader(r, archive)
	if err != nil {
		if errors.Is(err, zip.ErrFormat) {
			return nil, bad("it is no archive of NumPy arrays")
		}
		return nil, err
	}
	s := &source{}
	seen := map[string]bool{}
	for _, f := range z.File {
		name, ok := strings.CutSuffix(f.Name, ".npy")
		if !ok {
			return nil, &Error{Entry: f.Name, Problem: "it is no .npy", Remedy: "save the arrays with numpy.savez"}
		}
		if seen[name] {
			return nil, &Error{Entry: f.Name, Problem: "it is there twice"}
		}
		seen[name] = true
		e := entry{name: name, position: -1, label: f.Name, read: func(_ *graph.Type, ok accept) (graph.Datum, error) {
			t, err := readEntry(f, archive, ok)
			return graph.Datum{Kind: graph.KindTensor, Tensor: t}, err
		}}
		// What numpy.savez got without a name.
		var n int
		if _, err := fmt.Sscanf(name, "arr_%d", &n); err == nil && name == fmt.Sprintf("arr_%d", n) {
			e.position = n
		}
		s.entries = append(s.entries, e)
	}
	return s, nil
}

// readEntry unpacks an array. Sizes are held against each other first: a small
// file can't claim, nor unpack to, more than deflate could make of it.
func readEntry(f *zip.File, archive int64, ok accept) (tensor.Tensor, error) {
	size, packed := f.UncompressedSize64, f.CompressedSize64
	switch {
	case packed > uint64(archive):
		return tensor.Tensor{}, bad("it claims %d bytes of an archive of %d", packed, archive)
	case f.Flags&1 != 0:
		return tensor.Tensor{}, bad("it is encrypted")
	case f.Method == zip.Store && size != packed:
		return tensor.Tensor{}, bad("it is stored as it is and yet of two sizes, %d and %d bytes", packed, size)
	case f.Method == zip.Deflate && size > maxUnpacked:
		return tensor.Tensor{}, &Error{Problem: fmt.Sprintf("it unpacks to %d bytes, more than %s", size, mebibytes(maxUnpacked)),
			Remedy: "save it uncompressed: numpy.savez, or numpy.save"}
	case f.Method == zip.Deflate && size/maxRatio > packed:
		return tensor.Tensor{}, bad("it claims to unpack from %d bytes to %d, which no data does", packed, size)
	}
	r, err := f.Open()
	if err != nil {
		return tensor.Tensor{}, err
	}
	defer r.Close()
	t, err := readNPY(r, int64(size), ok)
	if err != nil {
		return t, err
	}
	// Only at its end is the checksum known to hold.
	if n, err := io.Copy(io.Discard, io.LimitReader(r, 1)); err != nil {
		return t, err
	} else if n != 0 {
		return t, bad("it is longer than it says")
	}
	return t, nil
}

// WriteNPZ writes tensors as numpy.savez does, uncompressed.
func WriteNPZ(w io.Writer, values []Named) error {
	z := zip.NewWriter(w)
	for _, v := range values {
		if v.Value.Kind != graph.KindTensor {
			return &Error{Entry: v.Name, Problem: "it is " + kindName(v.Value.Kind) + ", which NumPy has not", Remedy: "write it as .pb"}
		}
		e, err := z.CreateHeader(&zip.FileHeader{Name: v.Name + ".npy", Method: zip.Store})
		if err != nil {
			return err
		}
		if err := WriteNPY(e, v.Value.Tensor); err != nil {
			return at(err, "", v.Name)
		}
	}
	return z.Close()
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

func kindName(k graph.TypeKind) string {
	switch k {
	case graph.KindTensor:
		return "a tensor"
	case graph.KindSequence:
		return "a sequence"
	case graph.KindOptional:
		return "an optional"
	case graph.KindMap:
		return "a map"
	case graph.KindSparse:
		return "a sparse tensor"
	}
	return "of an unknown kind"
}
