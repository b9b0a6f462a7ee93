package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/accelhq/accel/plugins/openvino/ov"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/machine"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/vendorlib"
)

// envLibrary names the variable that says where the runtime is, in the setting's
// place. "off" has it looked for nowhere.
const envLibrary = "ACCEL_OPENVINO"

const remedy = "run `make setup-openvino` or `pip install openvino`, or say where it is (backends.openvino.settings.library, $" + envLibrary + ")"

// probeLimit is how long the runtime may take to open in the probing process.
const probeLimit = 30 * time.Second

// library is what is looked for: in a folder of the Python package, of an archive or
// of the system.
var library = vendorlib.Search{
	Name:  "OpenVINO",
	Files: map[string][]string{"windows": {"openvino_c.dll"}, "darwin": {"libopenvino_c*.dylib"}}[runtime.GOOS],
	Within: []string{".", "openvino/libs", "libs", "runtime/lib/intel64", "runtime/lib/aarch64", "runtime/lib/arm64/Release",
		"runtime/lib/intel64/Release", "runtime/bin/intel64/Release", "lib"},
}

func init() {
	if library.Files == nil {
		library.Files = []string{"libopenvino_c.so*"}
	}
}

// places are where the runtime may be, the setting's first.
func places(setting string, getenv func(string) string) []vendorlib.Place {
	list := []vendorlib.Place{
		{From: "the setting library", Path: setting, Named: true},
		{From: "$" + envLibrary, Path: getenv(envLibrary), Named: true},
		{From: "$INTEL_OPENVINO_DIR", Path: getenv("INTEL_OPENVINO_DIR")},
	}
	if exe, err := os.Executable(); err == nil {
		if exe, err = filepath.EvalSymlinks(exe); err == nil {
			list = append(list, vendorlib.Place{From: "beside the backend", Path: filepath.Join(filepath.Dir(exe), "openvino")})
		}
	}
	list = append(list, vendorlib.SitePackages(getenv)...)
	if runtime.GOOS != "windows" {
		list = append(list, vendorlib.Place{From: "in /opt/intel", Path: "/opt/intel/openvino*"})
	}
	return append(list, vendorlib.SystemFolders(getenv)...)
}

// find is the runtime's file, or why there is none.
func (s settings) find() (vendorlib.Found, error) {
	if s.Library == "" && os.Getenv(envLibrary) == "off" {
		return vendorlib.Found{}, errors.New("$" + envLibrary + " is off")
	}
	return library.In(places(s.Library, os.Getenv))
}

// look finds and probes a runtime.
func (s settings) look(ctx context.Context) (vendorlib.Found, described, error) {
	at, err := s.find()
	if err != nil {
		return at, described{}, err
	}
	var a answer
	if err := vendorlib.Probe(ctx, question{Library: at.Path}, probeLimit, &a); err != nil {
		return at, described{}, fmt.Errorf("opening %s: %w", at.Path, err)
	}
	if a.Error != "" {
		return at, described{}, errors.New(a.Error)
	}
	return at, *a.Described, nil
}

// kindOf is "CPU" for "CPU" and "GPU" for "GPU.1".
func kindOf(device string) string {
	kind, _, _ := strings.Cut(device, ".")
	return kind
}

// preference is the order in which devices stand for the platform.
var preference = map[string]int{"GPU": 0, "CPU": 1, "NPU": 2}

// offered are the devices that the settings offer, in their order.
func (s settings) offered(d described) (devices []describedDevice, missing []string) {
	if len(s.Devices) == 0 {
		for _, x := range d.Devices {
			if _, known := preference[kindOf(x.ID)]; known {
				devices = append(devices, x)
			}
		}
		slices.SortStableFunc(devices, func(a, b describedDevice) int { return preference[kindOf(a.ID)] - preference[kindOf(b.ID)] })
		return devices, nil
	}
	for _, want := range s.Devices {
		i := slices.IndexFunc(d.Devices, func(x describedDevice) bool { return strings.EqualFold(x.ID, want) })
		if i < 0 {
			missing = append(missing, want)
			continue
		}
		devices = append(devices, d.Devices[i])
	}
	return devices, missing
}

// describe is a device as Watch reports it.
func (d describedDevice) describe(version string) backend.Device {
	out := backend.Device{ID: d.ID, Platform: platform, Name: d.Name, Kind: backend.Hardware, Health: backend.Healthy,
		Attention: backend.AttentionRows, RuntimeVersion: version, Features: d.Capabilities, MemoryTotal: d.Memory, MemoryFree: d.Memory}
	switch kindOf(d.ID) {
	case "CPU":
		out.MemoryTotal, out.MemoryFree = machine.Memory()
	case "NPU":
		out.StaticShapes = true
	}
	for t := tensor.Float32; t.Valid(); t++ {
		if ov.Has(t) && t != tensor.String {
			out.ElementTypes = append(out.ElementTypes, t)
		}
	}
	return out
}
