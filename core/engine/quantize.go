package engine

import (
	"context"
	"errors"

	"github.com/accelhq/accel/core/quantize"
)

// Quantize writes the model at path into a folder with weights of fewer bits. Errors are
// those of Open and of quantize.Run.
func (e *Engine) Quantize(ctx context.Context, path, dir string, o quantize.Options) (_ quantize.Report, err error) {
	if path, err = e.locate(path); err != nil {
		return quantize.Report{}, err
	}
	ck, closeCheckpoint, err := e.openCheckpoint(ctx, path)
	if err != nil {
		return quantize.Report{}, err
	}
	defer func() { err = errors.Join(err, closeCheckpoint()) }()
	return quantize.Run(ctx, ck, dir, o)
}
