package engine

import (
	"context"
	"errors"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/hub"
	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/quantize"
)

// OpenHub makes the hub that a configuration describes.
func OpenHub(c config.Hub) *hub.Hub {
	return hub.New(hub.Options{Endpoints: c.Endpoints, Cache: c.Cache, Token: c.Token.Reveal(), Offline: c.Offline})
}

// locate is where a model's path leads on this machine: that of a file or folder to itself, that
// of a model of the hub into the hub's cache.
func (e *Engine) locate(path string) (string, error) {
	if !strings.HasPrefix(path, hub.Scheme) {
		return path, nil
	}
	ref, err := hub.ParseRef(path)
	if err != nil {
		return "", err
	}
	s, err := OpenHub(e.config.Hub).Locate(ref)
	return s.Path, err
}

// openCheckpoint opens the checkpoint at path. A GGUF file or a folder of CTranslate2 is imported into the cache,
// where it is not there yet, and what is opened is its folder. close closes it and lets
// go of the folder.
func (e *Engine) openCheckpoint(ctx context.Context, path string) (ck *checkpoint.Checkpoint, close func() error, err error) {
	ck, err = checkpoint.Open(path)
	switch {
	case err != nil:
		return nil, nil, err
	case ck.Kind != checkpoint.GGUFFile && ck.Kind != checkpoint.CTranslate2:
		return ck, ck.Close, nil
	}
	from, kind := ck.Path, ck.Kind
	var folder *lower.Folder
	if ck.Kind == checkpoint.GGUFFile {
		folder, err = quantize.Import(ctx, e.store, ck.GGUF)
	} else {
		folder, err = quantize.ImportCT2(ctx, e.store, ck.CT2)
	}
	if err := errors.Join(err, ck.Close()); err != nil {
		return nil, nil, errors.Join(err, folder.Release())
	}
	if ck, err = checkpoint.Open(folder.Dir); err != nil {
		return nil, nil, errors.Join(err, folder.Release())
	}
	e.log.Info("a model is used as the folder that was made of it", "kind", string(kind), "from", from, "folder", folder.Dir, "bits_per_weight", ck.BitsPerWeight())
	return ck, func() error { return errors.Join(ck.Close(), folder.Release()) }, nil
}
