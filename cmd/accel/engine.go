package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/quantize"
	"github.com/accelhq/accel/core/server"
	"github.com/accelhq/accel/core/verify"
)

// engineAPI is what the commands need of an engine.
type engineAPI interface {
	server.Engine
	verify.Opener
	Start(ctx context.Context) error
	Close(ctx context.Context) error
	Explain(ctx context.Context, model string) (engine.Explanation, error)
	Assess(ctx context.Context, s *engine.Session, dims map[string]int64) (engine.Assessed, error)
	Quantize(ctx context.Context, path, dir string, o quantize.Options) (quantize.Report, error)
	// Machine lists the backend processes and their devices.
	Machine() ([]hosts.BackendStatus, []hosts.DeviceStatus)
}

// opener makes an engine; nothing runs before its Start.
type opener func(config.Config, hclog.Logger) (engineAPI, error)

type realEngine struct{ *engine.Engine }

func (e realEngine) Machine() ([]hosts.BackendStatus, []hosts.DeviceStatus) {
	var devices []hosts.DeviceStatus
	for _, d := range e.Hosts().Devices() {
		devices = append(devices, d.Status())
	}
	return e.Hosts().Backends(), devices
}

// openEngine makes the real engine. Backends lie in the folder `backends` beside
// this program, if nowhere else.
func openEngine(c config.Config, log hclog.Logger) (engineAPI, error) {
	e, err := engine.New(c, engine.Options{Log: log, Beside: beside()})
	if err != nil {
		return nil, err
	}
	return realEngine{e}, nil
}

// beside is the folder of the backends that came with this program.
func beside() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	return filepath.Join(filepath.Dir(exe), "backends")
}
