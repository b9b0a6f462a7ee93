package backendtest

import (
	"encoding/json"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/accelhq/accel/sdk/backend"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// endTimeout is how long a backend may take to end: what the SDK gives it, and
// something for a busy machine.
const endTimeout = 15 * time.Second

// processChecks are the promises of the process; each has a process of its own.
var processChecks = []check[*suite]{
	{"describe", checkDescribe},
	{"configure", checkConfigure},
	{"watch", checkWatch},
	{"unknown device", checkUnknownDevice},
	{"two processes", checkTwoProcesses},
	{"host gone", checkHostGone},
	{"terminated", checkTerminated},
}

func checkDescribe(t T, s *suite) {
	c := s.fresh(t)
	r, err := c.p.RPC.Describe(c.context(), &backendv1.DescribeRequest{})
	c.must("Describe", err)
	info := backend.InfoFromProto(r)
	if info.Name == "" || info.Version == "" {
		t.Errorf("the backend says it is %q, version %q", info.Name, info.Version)
	}
	if r.GetApiMin() > backend.ProtocolVersion || r.GetApiMax() < backend.ProtocolVersion {
		t.Errorf("it understands versions %d to %d, and speaks %d", r.GetApiMin(), r.GetApiMax(), backend.ProtocolVersion)
	}
	for _, l := range info.Libraries {
		switch {
		case l.Name == "":
			t.Error("a library has no name")
		case !l.Found && (l.Reason == "" || l.Remedy == ""):
			t.Errorf("library %s was not found; reason %q, remedy %q", l.Name, l.Reason, l.Remedy)
		}
	}
	if info.ConfigSchema != "" {
		var schema map[string]any
		if err := json.Unmarshal([]byte(info.ConfigSchema), &schema); err != nil {
			t.Errorf("the schema of the settings is no JSON object: %v", err)
		}
	}
}

func checkConfigure(t T, s *suite) {
	c := s.fresh(t)
	set := func(settings string) ([]string, error) {
		r, err := c.p.RPC.Configure(c.context(), &backendv1.ConfigureRequest{SettingsJson: settings})
		return r.GetWarnings(), err
	}
	for _, bad := range []string{"", "7", "null", "[]", `{"a":`} {
		_, err := set(bad)
		c.refused("settings "+bad, err, backend.CodeInvalid)
	}
	_, err := set(`{"no_such_setting_of_any_backend": 1}`)
	c.refused("a setting that does not exist", err, backend.CodeInvalid)
	settings := s.target.Settings
	if settings == "" {
		settings = "{}"
	}
	_, err = set(settings)
	c.must("Configure "+settings, err)
	_, err = set(settings)
	c.refused("to configure twice", err, backend.CodeBadState)

	late := s.fresh(t)
	late.devices()
	_, err = late.p.RPC.Configure(late.context(), &backendv1.ConfigureRequest{SettingsJson: settings})
	late.refused("to configure while the devices are watched", err, backend.CodeBadState)
}

func checkWatch(t T, s *suite) {
	c := s.configured(t)
	list := c.devices()
	if len(list) == 0 {
		t.Error("there is no device, not even one that was not detected and says why")
	}
	seen, epochs := map[string]bool{}, map[uint64]bool{}
	for _, d := range list {
		if seen[d.ID] || epochs[d.Epoch] {
			t.Errorf("device %q: id or epoch %d is another's too", d.ID, d.Epoch)
		}
		seen[d.ID], epochs[d.Epoch] = true, true
		if d.Name == "" {
			t.Errorf("device %q has no name for people", d.ID)
		}
		if d.MemoryTotal > 0 && d.MemoryFree > d.MemoryTotal {
			t.Errorf("device %q has %d bytes, of which %d are free", d.ID, d.MemoryTotal, d.MemoryFree)
		}
		if d.Health == backend.Healthy && (len(d.ElementTypes) == 0 || d.RuntimeVersion == "") {
			t.Errorf("device %q is healthy, with element types %v and runtime version %q", d.ID, d.ElementTypes, d.RuntimeVersion)
		}
	}
	again := c.devices()
	if len(again) != len(list) {
		t.Errorf("a second watcher sees %d devices, the first saw %d", len(again), len(list))
	}
	for i := range min(len(again), len(list)) {
		if again[i].ID != list[i].ID || again[i].Epoch != list[i].Epoch {
			t.Errorf("a second watcher sees %s of epoch %d, the first saw %s of epoch %d",
				again[i].ID, again[i].Epoch, list[i].ID, list[i].Epoch)
		}
	}
}

func checkUnknownDevice(t T, s *suite) {
	c := s.configured(t)
	c.device.ID = "no such device"
	_, err := c.assess(c.doubling(4))
	c.refused("Assess", err, backend.CodeInvalid)
	_, err = c.tryCompile(&backendv1.CompileRequest{GraphDir: c.doubling(4)})
	c.refused("Compile", err, backend.CodeInvalid)
	_, err = c.p.RPC.Alloc(c.context(), &backendv1.AllocRequest{Device: c.device.ID, Length: 64})
	c.refused("Alloc", err, backend.CodeInvalid)
	_, err = c.p.RPC.Map(c.context(), &backendv1.MapRequest{Device: c.device.ID, Length: 64, Mode: backendv1.MapMode_MAP_MODE_READ})
	c.refused("Map", err, backend.CodeInvalid)
	_, r := c.tryExecute(c.device.ID)
	if r.err == nil {
		t.Error("Open succeeded")
	} else {
		c.refused("Open", r.err, backend.CodeInvalid)
	}
}

// Two processes of one backend live side by side, and do not know each other's ids.
func checkTwoProcesses(t T, s *suite) {
	a, b := s.configured(t), s.configured(t)
	for _, d := range a.devices() {
		if d.Health != backend.Healthy || s.target.Devices != nil && !s.target.Devices(d) {
			continue
		}
		a.device, b.device = d, d
		id := a.compile(a.doubling(4)).id
		own := b.compile(b.doubling(4))
		x := b.execute()
		in := []*backendv1.Binding{vectorIn("x", ramp(4))}
		x.failed("to use an executable of another process", x.sendRun(id, in, nil), backend.CodeBadState)
		x.done(x.sendRun(own.id, in, nil))
		return
	}
}

func checkHostGone(t T, s *suite) {
	c := s.configured(t)
	c.devices()
	if err := c.p.CloseHost(); err != nil {
		t.Fatal(err)
	}
	if err := c.p.WaitExit(endTimeout); err != nil {
		t.Errorf("the host is gone: %v", err)
	}
}

func checkTerminated(t T, s *suite) {
	if runtime.GOOS == "windows" {
		t.Skipf("Windows has no SIGTERM")
	}
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		c := s.configured(t)
		c.devices()
		if err := c.p.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := c.p.WaitExit(endTimeout); err != nil {
			t.Fatalf("after %v: %v", sig, err)
		}
		if st := c.p.cmd.ProcessState; st == nil || !st.Success() {
			t.Fatalf("after %v the process ended with %v", sig, st)
		}
	}
}
