package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/quantize"
	"github.com/accelhq/accel/sdk/testfiles"
)

// TestQuantize: what is written runs on the CPU backend, near the model it was made of;
// calibrated by texts it is within the loss that is asked for, or refused with the figure.
func TestQuantize(t *testing.T) {
	out := t.TempDir()
	model := testfiles.Shared(t, "tiny", "bert")
	quantised := func(name string, args ...string) (r quantize.Report, status int, errs string) {
		t.Helper()
		status, text, errs := accel(t, ".", append([]string{"quantize", model, "--output", filepath.Join(out, name), "--json"}, args...)...)
		if text != "" {
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
		}
		return r, status, errs
	}
	r, status, errs := quantised("int8", "--bits", "8")
	if status != 0 || r.Bits > 10 || r.Loss != nil {
		t.Fatalf("status %d, %.2f bits, %+v: %s", status, r.Bits, r.Loss, errs)
	}
	// The recorded outputs, within what 8 bits cost.
	golden, err := os.ReadFile(filepath.Join(model, "golden.safetensors"))
	if err == nil {
		err = os.WriteFile(filepath.Join(out, "int8", "golden.safetensors"), golden, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if status, text, errs := accel(t, ".", "verify", filepath.Join(out, "int8"), "--platform", "cpu", "--tolerance", "0.1"); status != 0 {
		t.Errorf("verify: status %d: %s%s", status, text, errs)
	}

	var texts strings.Builder
	for i := range 40 {
		fmt.Fprintf(&texts, "text number %d of forty is about %d brown foxes and a lazy dog\n", i, 7*i%13)
	}
	file := filepath.Join(out, "texts.txt")
	if err := os.WriteFile(file, []byte(texts.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r, status, errs = quantised("mixed", "--bits", "4-mixed", "--calibrate", file, "--max-loss", "1%")
	if status != 0 || r.Loss == nil || r.Loss.Loss > 0.01 || len(r.Sensitivity) == 0 {
		t.Errorf("status %d, %+v: %s", status, r.Loss, errs)
	}
	r, status, errs = quantised("int2", "--bits", "2", "--calibrate", file, "--max-loss", "0.0001%")
	if status != 1 || r.Loss == nil || !strings.Contains(errs, "precision int2 is refused: the loss of encode is ") {
		t.Errorf("status %d, %+v: %s", status, r.Loss, errs)
	}
	if _, err := os.Stat(filepath.Join(out, "int2")); err == nil {
		t.Error("what was refused is there")
	}
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"--bits", "7"}, `precision: found \"7\"`},
		{[]string{"--bits", "8", "--max-loss", "1%"}, "--calibrate FILE"},
		{[]string{"--bits", "8", "--calibrate", file, "--max-loss", "x"}, "want a part above 0"},
		{[]string{"--bits", "8", "--calibrate", "nowhere.txt"}, "nowhere.txt"},
		{[]string{"--bits", "8"}, "is there already"},
	} {
		if _, status, errs := quantised("int8", x.args...); status != 2 || !strings.Contains(errs, x.want) {
			t.Errorf("%v: status %d: %s", x.args, status, errs)
		}
	}
}
