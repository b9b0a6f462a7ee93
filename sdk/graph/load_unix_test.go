//go:build unix

package graph

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestLoadDoesNotWait: a FIFO that nobody writes to would hold its reader for ever.
func TestLoadDoesNotWait(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, ModelFile), externalModel("pipe", "4"))
	for _, name := range []string{"pipe", "model-pipe"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Skip(err)
		}
	}
	done := make(chan error, 2)
	go func() {
		_, err := Load(dir)
		done <- err
		_, err = Load(filepath.Join(dir, "model-pipe"))
		done <- err
	}()
	for i, external := range []bool{true, false} {
		select {
		case err := <-done:
			if ee := (*ExternalError)(nil); err == nil || errors.As(err, &ee) != external {
				t.Errorf("load %d: %v", i, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it waits for the FIFO")
		}
	}
}
