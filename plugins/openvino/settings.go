package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/accelhq/accel/sdk/backend"
)

// settings are what a configuration file may say of this backend.
type settings struct {
	Library      string                       `json:"library"`
	Devices      []string                     `json:"devices"`
	Performance  string                       `json:"performance"`
	Streams      int                          `json:"streams"`
	Threads      int                          `json:"threads"`
	Precision    string                       `json:"precision"`
	Quantization int                          `json:"dynamic_quantization"`
	Cache        string                       `json:"cache"`
	Properties   map[string]map[string]string `json:"properties"`
}

const settingsSchema = `{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "library": {"type": "string", "description": "path of libopenvino_c, or of a folder of OpenVINO; empty: $ACCEL_OPENVINO, else where it is found"},
    "devices": {"type": "array", "items": {"type": "string"}, "description": "devices to offer, in this order, as OpenVINO calls them (CPU, GPU.0, NPU); empty: all, GPUs first and NPUs last"},
    "performance": {"type": "string", "enum": ["latency", "throughput"], "description": "what the runtime tunes itself for; empty: latency"},
    "streams": {"type": "integer", "minimum": 0, "description": "runs that a device works on at a time; 0: the runtime's choice"},
    "threads": {"type": "integer", "minimum": 0, "description": "threads of the CPU device; 0: the runtime's choice"},
    "precision": {"type": "string", "enum": ["f32", "f16", "bf16"], "description": "in which float32 is computed; empty: f32, which some devices only do slower"},
    "dynamic_quantization": {"type": "integer", "minimum": 0, "description": "activations that share a scale where the runtime may quantise those of weight-compressed products; 0: none is quantised"},
    "cache": {"type": "string", "enum": ["auto", "on", "off"], "description": "keep compiled models beside the lowered ones; empty or auto: for devices that compile slowly, which are GPUs and NPUs"},
    "properties": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {"type": "string"}}, "description": "further properties of the runtime, by device (CPU, GPU, NPU)"}
  }
}`

// parseSettings reads and checks the settings.
func parseSettings(raw json.RawMessage) (settings, error) {
	var s settings
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return s, backend.Invalid("settings", "%v", err)
	}
	for _, c := range []struct {
		name, value string
		allowed     map[string]bool
	}{
		{"performance", s.Performance, map[string]bool{"": true, "latency": true, "throughput": true}},
		{"precision", s.Precision, map[string]bool{"": true, "f32": true, "f16": true, "bf16": true}},
		{"cache", s.Cache, map[string]bool{"": true, "auto": true, "on": true, "off": true}},
	} {
		if !c.allowed[c.value] {
			return s, backend.Invalid("settings", "%s is %q", c.name, c.value)
		}
	}
	if s.Streams < 0 || s.Threads < 0 || s.Quantization < 0 {
		return s, backend.Invalid("settings", "streams, threads and dynamic_quantization are 0 or more")
	}
	return s, nil
}
