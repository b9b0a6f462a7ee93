package main

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/accelhq/accel/plugins/openvino/ov"
	"github.com/accelhq/accel/sdk/graph"
)

// question is what a child of this process is asked: the runtime may end the process
// that opens it, or hands it a model.
type question struct {
	Library string
	// Model is a file to be read; empty: the devices are asked for.
	Model      string
	Device     string            // compile the model for it; empty: only read it
	Properties map[string]string // to compile with
}

// answer is the runtime's.
type answer struct {
	Described *described `json:",omitempty"`
	Error     string     `json:",omitempty"` // of the runtime's, with the model
	// Outputs are the types that the runtime gives a model's outputs, in their order.
	Outputs []*graph.Type `json:",omitempty"`
}

// described is a runtime and its devices.
type described struct {
	Version string
	Devices []describedDevice
}

type describedDevice struct {
	ID           string
	Name         string
	Capabilities []string // the runtime's words
	Memory       int64    // bytes; 0: it does not say
}

// child is the runtime in a process of its own.
type child struct {
	lib  *ov.Library
	core *ov.Core
}

func (c *child) answer(raw json.RawMessage) (any, error) {
	var q question
	if err := json.Unmarshal(raw, &q); err != nil {
		return nil, err
	}
	a, err := c.ask(q)
	if err != nil {
		return answer{Error: brief(err)}, nil
	}
	return a, nil
}

func (c *child) ask(q question) (answer, error) {
	if c.core == nil {
		lib, err := ov.Open(q.Library)
		if err != nil {
			return answer{}, err
		}
		core, err := lib.NewCore()
		if err != nil {
			return answer{}, err
		}
		c.lib, c.core = lib, core
	}
	if c.lib.Path() != q.Library {
		return answer{}, errors.New("another library is open already")
	}
	if q.Model == "" {
		d, err := c.describe()
		return answer{Described: d}, err
	}
	m, err := c.core.Read(q.Model)
	if err != nil {
		return answer{}, err
	}
	defer m.Close()
	var ports []ov.Port
	if q.Device == "" {
		ports, err = m.Outputs()
	} else {
		var x *ov.Compiled
		if x, err = c.core.Compile(m, q.Device, q.Properties); err == nil {
			ports = x.Outputs
			x.Close()
		}
	}
	var a answer
	for _, p := range ports {
		a.Outputs = append(a.Outputs, p.Type)
	}
	return a, err
}

// describe asks the runtime for its devices. What a device does not say of itself it
// is used without.
func (c *child) describe() (*described, error) {
	d := &described{Version: c.lib.Version()}
	names, err := c.core.Devices()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		x := describedDevice{ID: name, Name: name}
		if full, err := c.core.Property(name, "FULL_DEVICE_NAME"); err == nil {
			x.Name = strings.TrimSpace(full)
		}
		if words, err := c.core.Property(name, "OPTIMIZATION_CAPABILITIES"); err == nil {
			x.Capabilities = strings.Fields(words)
		}
		for _, key := range []string{"GPU_DEVICE_TOTAL_MEM_SIZE", "NPU_DEVICE_TOTAL_MEM_SIZE"} {
			if text, err := c.core.Property(name, key); err == nil {
				x.Memory, _ = strconv.ParseInt(text, 10, 64) // 0: it says something else
			}
		}
		d.Devices = append(d.Devices, x)
	}
	return d, nil
}
