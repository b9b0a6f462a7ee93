package verify

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// indexFile lies beside folders of ONNX tests and may say of each what part of an
// architecture it exports.
const indexFile = "index.json"

// partsOf says which part of an architecture a folder holds: "text" for the export
// of a multimodal one without its vision or sound side. It is empty for whole ones,
// and where no index lists the folder.
func partsOf(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(dir), indexFile))
	if err != nil {
		return ""
	}
	var index struct {
		Architectures []struct {
			Arch  string `json:"arch"`
			Parts string `json:"parts"`
		} `json:"architectures"`
	}
	if json.Unmarshal(data, &index) != nil {
		return "" // another tool's index
	}
	for _, a := range index.Architectures {
		if a.Arch == filepath.Base(dir) && a.Parts != "whole" {
			return a.Parts
		}
	}
	return ""
}
