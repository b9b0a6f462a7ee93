package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
)

// identityVersion is part of every identity: raise it when what goes into one
// changes.
const identityVersion = 1

// Blocks of a weight file that go into the identity.
const (
	sampleBlocks = 64
	sampleBytes  = 4096
)

// Identity is 64 hex digits that name what the checkpoint holds, for keys of
// caches. It costs milliseconds whatever the model's size, for of weights it does
// not read everything. Into it go
//
//   - of config.json, the index and what sentence-transformers adds: all bytes;
//   - of each file of weights: name, size, time of last change in nanoseconds,
//     inode, the whole header, and 64 blocks of 4 KiB spread evenly from the first
//     byte to the last.
//
// So a fetch, a fine-tune, a conversion, a swap of two files and a patch in place
// all change it. What it misses is a patch in place that hits none of the blocks
// and sets the file's time back. A copy or a move to another file system changes
// it too, though nothing else did: the inode is in it because caches hold hard
// links, and after a file was overwritten in place and then replaced by its backup
// the old link has the wrong bytes.
func (c *Checkpoint) Identity() (string, error) { return c.identity() }

func (c *Checkpoint) identify() (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "checkpoint %d %s\n", identityVersion, c.Kind)
	for _, f := range c.small {
		fmt.Fprintf(h, "file %q %d\n", f.name, len(f.content))
		h.Write(f.content)
	}
	for _, s := range c.shards {
		fmt.Fprintf(h, "weights %q header %d\n", s.name, s.header)
		h.Write(s.data[:s.header])
		if err := stamp(h, int64(len(s.data)), s.mtime, s.inode, bytes.NewReader(s.data)); err != nil {
			return "", &Error{File: s.file, Err: err}
		}
	}
	switch c.Kind {
	case ONNX:
		if err := c.identifyONNX(h); err != nil {
			return "", err
		}
	case GGUFFile:
		return c.GGUF.Identity()
	case CTranslate2:
		return c.CT2.Identity()
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// stamp hashes what tells a large file from another without reading all of it.
func stamp(h hash.Hash, size, mtime int64, inode uint64, data io.ReaderAt) error {
	fmt.Fprintf(h, "size %d mtime %d inode %d\n", size, mtime, inode)
	if size <= sampleBlocks*sampleBytes {
		_, err := io.Copy(h, io.NewSectionReader(data, 0, size))
		return err
	}
	step := (size - sampleBytes) / (sampleBlocks - 1)
	for i := range int64(sampleBlocks) {
		at := i * step
		if i == sampleBlocks-1 {
			at = size - sampleBytes
		}
		if _, err := io.Copy(h, io.NewSectionReader(data, at, sampleBytes)); err != nil {
			return err
		}
	}
	return nil
}

// identifyONNX hashes the model's file and those that its tensors lie in.
func (c *Checkpoint) identifyONNX(h hash.Hash) error {
	m, err := graph.Load(c.Path, graph.WithLinks())
	if err != nil {
		return &Error{File: c.Path, Err: err}
	}
	defer m.Close()
	files := []string{c.Path}
	for g := range m.Graphs() {
		for _, in := range g.Initializers {
			if in.External != nil {
				files = append(files, in.External.Path)
			}
		}
	}
	slices.Sort(files[1:])
	for _, file := range slices.Compact(files) {
		if err := stampFile(h, c.Dir, file); err != nil {
			return &Error{File: file, Err: err}
		}
	}
	return nil
}

func stampFile(h hash.Hash, dir, file string) error {
	f, info, err := openRegular(file)
	if err != nil {
		return err
	}
	defer f.Close()
	name, err := filepath.Rel(dir, file)
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "weights %q\n", filepath.ToSlash(name))
	return stamp(h, info.Size(), info.ModTime().UnixNano(), inode(f, info), f)
}
