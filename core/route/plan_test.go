package route_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
)

func TestPlan(t *testing.T) {
	cpu := route.Device{Platform: "cpu", Ref: "cpu", Kind: backend.Hardware}
	cpuBack := route.Device{Platform: "cpu", Ref: "cpu", Kind: backend.Hardware, Presence: route.Returning, ReadyIn: time.Second, Reason: "restarting after signal: killed"}
	cpuGone := route.Device{Platform: "cpu", Ref: "cpu", Kind: backend.Hardware, Presence: route.Unhealthy, Reason: "crash loop"}
	cuda := route.Device{Platform: "cuda", Ref: "cuda", Kind: backend.Hardware}
	noCuda := route.Device{Platform: "cuda", Ref: "cuda", Kind: backend.Hardware, Presence: route.Undetected, Reason: "libcuda.so.1 was not found"}
	npu := route.Device{Platform: "qnn", Ref: "qnn", Kind: backend.Hardware}
	htp := route.Device{Platform: "qnn", Ref: "qnn", Kind: backend.Emulated}
	sim := route.Device{Platform: "simulation", Ref: "simulation", Kind: backend.Simulated}
	static := route.Device{Platform: "simulation", Ref: "simulation:static", Kind: backend.Simulated}
	standard := []string{"cuda", "rocm", "openvino", "cpu", "simulation"}

	for _, tt := range []struct {
		name     string
		q        route.Query
		devices  []route.Device
		want     []string
		first    string
		refused  []string // platform or device: reason, in order
		fallback bool     // were the first of want to answer
	}{
		{name: "the first of the route that is there", devices: []route.Device{sim, noCuda, cpu},
			want: []string{"cpu", "simulation"}, first: "cpu",
			refused: []string{"cuda: libcuda.so.1 was not found", "rocm: no backend offers it", "openvino: no backend offers it"}},
		{name: "order is the route's, not the backends'", devices: []route.Device{sim, cpu, cuda},
			want: []string{"cuda", "cpu", "simulation"}, first: "cuda", refused: []string{"rocm: no backend offers it", "openvino: no backend offers it"}},
		{name: "preferred wins", q: route.Query{Preferred: "simulation"}, devices: []route.Device{cpu, sim},
			want: []string{"simulation", "cpu"}, first: "simulation", refused: []string{"cuda: no backend offers it", "rocm: no backend offers it", "openvino: no backend offers it"}},
		{name: "preferred device beside its platform", q: route.Query{Preferred: "simulation:static", Platforms: []string{"simulation"}}, devices: []route.Device{sim, static},
			want: []string{"simulation:static", "simulation"}, first: "simulation:static"},
		{name: "preferred and missing is a fallback", q: route.Query{Preferred: "cuda", Platforms: []string{"cpu"}}, devices: []route.Device{noCuda, cpu},
			want: []string{"cpu"}, first: "cuda", refused: []string{"cuda: libcuda.so.1 was not found"}, fallback: true},
		{name: "preferred, missing and denied is nothing", q: route.Query{Preferred: "cuda", Platforms: []string{"cpu"}, Policy: route.Deny}, devices: []route.Device{noCuda, cpu},
			first: "cuda", refused: []string{"cuda: libcuda.so.1 was not found", "cpu: fallback is denied"}},
		{name: "what comes back in time is waited for", q: route.Query{RestartWait: 5 * time.Second, Platforms: []string{"cpu", "simulation"}}, devices: []route.Device{cpuBack, sim},
			want: []string{"cpu", "simulation"}, first: "cpu"},
		{name: "what comes back too late is not", q: route.Query{RestartWait: time.Millisecond, Platforms: []string{"cpu", "simulation"}}, devices: []route.Device{cpuBack, sim},
			want: []string{"simulation"}, first: "cpu", refused: []string{"cpu: restarting after signal: killed"}, fallback: true},
		{name: "a sick first one is still the first", q: route.Query{Platforms: []string{"cpu", "simulation"}}, devices: []route.Device{cpuGone, sim},
			want: []string{"simulation"}, first: "cpu", refused: []string{"cpu: crash loop"}, fallback: true},
		{name: "excluded for this request", q: route.Query{Platforms: []string{"cpu", "simulation"}, Excluded: map[string]route.Refusal{"cpu": {Platform: "cpu", Device: "cpu", Reason: "no LSTM"}}},
			devices: []route.Device{cpu, sim}, want: []string{"simulation"}, first: "cpu", refused: []string{"cpu: no LSTM"}, fallback: true},
		{name: "hardware of no route serves where it is alone", q: route.Query{Platforms: []string{"cuda", "cpu"}}, devices: []route.Device{cpu, npu},
			want: []string{"qnn", "cpu"}, first: "qnn", refused: []string{"cuda: no backend offers it"}},
		{name: "but not beside hardware of the route", q: route.Query{Platforms: []string{"cuda", "cpu"}}, devices: []route.Device{cpu, cuda, npu},
			want: []string{"cuda", "cpu"}, first: "cuda"},
		{name: "and an emulated device never", q: route.Query{Platforms: []string{"cpu"}}, devices: []route.Device{cpu, htp}, want: []string{"cpu"}, first: "cpu"},
		{name: "nothing at all", q: route.Query{Platforms: []string{"cpu"}}, refused: []string{"cpu: no backend offers it"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.q.Platforms == nil {
				tt.q.Platforms = standard
			}
			if tt.q.Policy == "" {
				tt.q.Policy = route.Warn
			}
			got, d, err := route.Plan(tt.q, tt.devices)
			if err != nil {
				t.Fatal(err)
			}
			var refs, refused []string
			for _, g := range got {
				refs = append(refs, g.Ref)
			}
			for _, r := range d.Refused {
				name := r.Device
				if name == "" {
					name = r.Platform
				}
				refused = append(refused, name+": "+r.Reason)
			}
			if !reflect.DeepEqual(refs, tt.want) {
				t.Errorf("usable: got %v, want %v", refs, tt.want)
			}
			if d.First != tt.first {
				t.Errorf("first: got %q, want %q", d.First, tt.first)
			}
			if !reflect.DeepEqual(refused, tt.refused) {
				t.Errorf("refused: got %q, want %q", refused, tt.refused)
			}
			if len(got) > 0 {
				d.Chosen = route.Choice{Platform: got[0].Platform, Device: got[0].Ref, Kind: got[0].Kind}
				if d.Fallback() != tt.fallback {
					t.Errorf("fallback: got %v, want %v", d.Fallback(), tt.fallback)
				}
				if s := d.Summary(); (s != "") != tt.fallback {
					t.Errorf("summary %q though fallback is %v", s, tt.fallback)
				}
			}
		})
	}
}

func TestPlanRefusesUnknownPolicy(t *testing.T) {
	if _, _, err := route.Plan(route.Query{Policy: "maybe"}, nil); !errors.Is(err, route.ErrPolicy) {
		t.Errorf("got %v, want ErrPolicy", err)
	}
}

func TestSummaryNamesReplays(t *testing.T) {
	d := route.Decision{First: "cpu", Chosen: route.Choice{Platform: "cpu", Device: "cpu"},
		Replays: []route.Refusal{{Platform: "cpu", Device: "cpu", Reason: "signal: killed"}}}
	if d.Fallback() {
		t.Error("a replay on the same device is no fallback")
	}
	if s := d.Summary(); !strings.Contains(s, "signal: killed") || strings.Contains(s, "instead") {
		t.Errorf("summary %q should tell of the death and of no other device", s)
	}
}

func TestRest(t *testing.T) {
	dev := func(platform string, p route.Presence) route.Device {
		return route.Device{Platform: platform, Ref: platform + ":0", Presence: p, ReadyIn: time.Second}
	}
	npu, cpu, sim := dev("npu", route.Ready), dev("cpu", route.Ready), dev("simulation", route.Ready)
	all := []route.Device{npu, cpu, sim}
	route3 := []string{"npu", "cpu", "simulation"}
	for _, tt := range []struct {
		name    string
		q       route.Query
		of      route.Device
		devices []route.Device
		want    string
	}{
		{"the CPU", route.Query{Split: route.SplitAuto, Policy: route.Warn, Platforms: route3}, npu, all, "cpu:0"},
		{"of the CPU, the next", route.Query{Split: route.SplitAuto, Policy: route.Warn, Platforms: []string{"cpu", "simulation"}}, cpu, all, "simulation:0"},
		{"only the CPU where it is not the refuser", route.Query{Split: route.SplitAuto, Policy: route.Warn, Platforms: []string{"npu", "simulation"}}, npu, all, ""},
		{"not what the route does not list", route.Query{Split: route.SplitForce, Policy: route.Warn, Platforms: []string{"npu"}}, npu, all, ""},
		{"off", route.Query{Split: route.SplitOff, Policy: route.Allow, Platforms: route3}, npu, all, ""},
		{"nothing said is off", route.Query{Policy: route.Allow, Platforms: route3}, npu, all, ""},
		{"denied", route.Query{Split: route.SplitAuto, Policy: route.Deny, Platforms: route3}, npu, all, ""},
		{"denied and forced", route.Query{Split: route.SplitForce, Policy: route.Deny, Platforms: route3}, npu, all, "cpu:0"},
		{"what returns in time", route.Query{Split: route.SplitAuto, Policy: route.Warn, Platforms: route3, RestartWait: time.Minute}, npu, []route.Device{npu, dev("cpu", route.Returning)}, "cpu:0"},
		{"what returns too late", route.Query{Split: route.SplitAuto, Policy: route.Warn, Platforms: route3}, npu, []route.Device{npu, dev("cpu", route.Returning)}, ""},
		{"what is excluded", route.Query{Split: route.SplitAuto, Policy: route.Warn, Platforms: route3, Excluded: map[string]route.Refusal{"cpu:0": {}}}, npu, all, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := route.Rest(tt.q, tt.of, tt.devices)
			if got.Ref != tt.want || ok != (tt.want != "") {
				t.Errorf("got %q, want %q", got.Ref, tt.want)
			}
		})
	}
}
