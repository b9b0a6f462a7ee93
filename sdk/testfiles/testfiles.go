// Package testfiles finds the recorded tests that are not part of the repository.
// A test that needs what is not there is skipped, and says what to do.
package testfiles

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// root is the folder of the repository, above the package that is tested.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	t.Fatalf("no go.mod above the working folder: %v", err)
	return ""
}

// Shared is a path inside the folder of shared test data: $ACCEL_SHARED, or the one
// beside the repository.
func Shared(t testing.TB, elem ...string) string {
	t.Helper()
	dir := os.Getenv("ACCEL_SHARED")
	if dir == "" {
		dir = filepath.Join(root(t), "..", "shared")
	}
	path := filepath.Join(append([]string{dir}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("shared test data is not there (set ACCEL_SHARED): %v", err)
	}
	return path
}

// Model is a file of a real model that `make models` fetches: in $ACCEL_MODELS, or in
// .cache/models of the repository.
func Model(t testing.TB, elem ...string) string {
	t.Helper()
	dir := os.Getenv("ACCEL_MODELS")
	if dir == "" {
		dir = filepath.Join(root(t), ".cache", "models")
	}
	path := filepath.Join(append([]string{dir}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("a real model is not there (run `make models`, or set ACCEL_MODELS): %v", err)
	}
	return path
}

// Exports lists the model folders of the shared exports.
func Exports(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(Shared(t, "onnx"), "*", "model.onnx"))
	if err != nil || len(dirs) == 0 {
		t.Skipf("no exports among the shared test data: %v", err)
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs
}

// ONNX is the folder of ONNX's own tests, which `make onnx-tests` writes; or
// $ACCEL_ONNX_NODE_TESTS. cases.json and models.json list them.
func ONNX(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("ACCEL_ONNX_NODE_TESTS")
	if dir == "" {
		dir = filepath.Join(root(t), "build", "onnx-node-tests")
	}
	if _, err := os.Stat(filepath.Join(dir, "cases.json")); err != nil {
		t.Skipf("ONNX's tests are not there (run `make onnx-tests`, or set ACCEL_ONNX_NODE_TESTS): %v", err)
	}
	return dir
}

// NodeTests lists the model folders of ONNX's node tests.
func NodeTests(t testing.TB) []string {
	t.Helper()
	dir := ONNX(t)
	data, err := os.ReadFile(filepath.Join(dir, "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct{ Name string }
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	dirs := make([]string, len(cases))
	for i, c := range cases {
		dirs[i] = filepath.Join(dir, c.Name)
	}
	return dirs
}

// OpenVINO is the folder of the runtime that `make setup-openvino` fetches; or what
// $ACCEL_OPENVINO names.
func OpenVINO(t testing.TB) string {
	t.Helper()
	dir, ok := FindOpenVINO(t)
	if !ok {
		t.Skipf("OpenVINO is not in %s (run `make setup-openvino`, or set ACCEL_OPENVINO)", dir)
	}
	return dir
}

// FindOpenVINO is OpenVINO for tests that can do without.
func FindOpenVINO(t testing.TB) (dir string, ok bool) {
	t.Helper()
	if dir = os.Getenv("ACCEL_OPENVINO"); dir == "" || dir == "off" {
		dir = filepath.Join(root(t), ".cache", "openvino")
	}
	_, err := os.Stat(dir)
	return dir, err == nil
}
