package quantize

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/accelhq/accel/core/checkpoint"
)

// importVersion is part of every key: raise it when what is written changes.
const importVersion = 1

// Store keeps folders by key: Get gives the folder of a key, which write filled when
// it was asked for first. F is how the store hands a folder out.
type Store[F any] interface {
	Get(ctx context.Context, key string, write func(dir string) error) (F, error)
}

// Import makes a Hugging Face folder of a GGUF file and keeps it in the store, by the
// identity of the file: config.json with the layouts of its weights
// (checkpoint.Quantized), model.safetensors, tokenizer.json and tokenizer_config.json.
// What can't be used of the file is a *checkpoint.Error.
func Import[F any](ctx context.Context, store Store[F], g *checkpoint.GGUF) (F, error) {
	return keep(ctx, store, fmt.Sprint("gguf import ", importVersion), g.Identity, func(dir string) error { return Write(ctx, dir, g) })
}

// keep has a store keep the folder that write makes of a file with an identity.
func keep[F any](ctx context.Context, store Store[F], how string, identity func() (string, error), write func(dir string) error) (F, error) {
	var none F
	id, err := identity()
	if err != nil {
		return none, err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s %s", how, id))
	folder, err := store.Get(ctx, hex.EncodeToString(key[:]), write)
	// What is wrong with the file is not the store's failure.
	var wrong *checkpoint.Error
	if errors.As(err, &wrong) {
		return none, wrong
	}
	return folder, err
}

// Write writes the folder that Import keeps into an empty one. What can be refused is
// refused before anything is written.
func Write(ctx context.Context, dir string, g *checkpoint.GGUF) error {
	m, err := readModel(g)
	if err != nil {
		return err
	}
	t, err := readTokenizer(g)
	if err != nil {
		return err
	}
	files := map[string]any{"config.json": m.config, "tokenizer.json": t.definition, "tokenizer_config.json": t.config}
	for name, content := range files {
		if err := writeJSON(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}
	return writeWeights(ctx, filepath.Join(dir, "model.safetensors"), g.Path, m.weights)
}

func writeJSON(path string, v any) (err error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(b.Bytes()); err != nil {
		return err
	}
	return f.Sync()
}
