package engine

import (
	"context"
	"errors"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/quantize"
)

// openCheckpoint opens the checkpoint at path. A GGUF file is imported into the cache,
// where it is not there yet, and what is opened is its folder. close closes it and lets
// go of the folder.
func (e *Engine) openCheckpoint(ctx context.Context, path string) (ck *checkpoint.Checkpoint, close func() error, err error) {
	ck, err = checkpoint.Open(path)
	switch {
	case err != nil:
		return nil, nil, err
	case ck.Kind != checkpoint.GGUFFile:
		return ck, ck.Close, nil
	}
	file := ck.Path
	folder, err := quantize.Import(ctx, e.store, ck.GGUF)
	if err := errors.Join(err, ck.Close()); err != nil {
		return nil, nil, errors.Join(err, folder.Release())
	}
	if ck, err = checkpoint.Open(folder.Dir); err != nil {
		return nil, nil, errors.Join(err, folder.Release())
	}
	e.log.Info("a GGUF file is used as the folder that was made of it", "file", file, "folder", folder.Dir, "bits_per_weight", ck.BitsPerWeight())
	return ck, func() error { return errors.Join(ck.Close(), folder.Release()) }, nil
}
