package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/verify"
	"github.com/accelhq/accel/sdk/backend"
)

// verified is a cache folder with these records.
func verified(t *testing.T, records ...verify.Record) string {
	t.Helper()
	cache := t.TempDir()
	for _, r := range records {
		if err := verify.RecordsIn(cache).Keep(r); err != nil {
			t.Fatal(err)
		}
	}
	return cache
}

func record(modelType, path, device string, kind backend.Kind, status verify.Status, worst float64, by string) verify.Record {
	r := verify.Record{Subject: verify.Subject{Class: "t5", ModelType: modelType, Components: []string{"prepare", "decode"}, Tasks: []string{"generate"}},
		Path: path, Device: device, Kind: kind, Precision: "f32", Status: status, Outputs: 16, Share: 1, Version: by, Date: time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)}
	if worst >= 0 {
		r.Worst = &verify.Output{Name: "logits", MaxRel: &worst, Tolerance: 1e-4, OK: worst <= 1e-4}
	}
	if status == verify.Wrong {
		r.Off = 2
	}
	return r
}

func TestClasses(t *testing.T) {
	half := record("t5", "/b", "simulation:a", backend.Simulated, verify.Split, 0, version)
	half.Share = 0.25
	cache := verified(t,
		record("t5", "/a", "cpu:0", backend.Hardware, verify.Whole, 1.9e-6, version),
		record("t5", "/b", "cpu:0", backend.Hardware, verify.Whole, 2.2e-6, version),
		record("t5", "/old", "cpu:0", backend.Hardware, verify.Wrong, 1, "v0"), // says nothing of this program
		half,
		record("t5", "/c", "simulation:b", backend.Simulated, verify.Wrong, 0.5, version),
		record("mt5", "/d", "cpu:0", backend.Hardware, verify.Whole, 1e-6, "v0"),
		record("mt5", "/d", "npu:0", backend.Emulated, verify.Refused, -1, version),
		record("mt5", "/e", "npu:1", backend.Emulated, verify.Failed, -1, version),
	)
	f := machine()
	f.devices = append(f.devices, hosts.DeviceStatus{Device: backend.Device{ID: "a", Platform: "simulation", Kind: backend.Simulated, Health: backend.Healthy}, Ref: "simulation:a", Backend: "reference"})
	status, out, errs := call(t.Context(), f, []string{"ACCEL_CACHE=" + cache}, "classes", "t5")
	want := `CLASS  MODEL TYPE  TASKS     COMPONENTS       DEVICE        MEASURED
t5     mt5         generate  prepare, decode  cpu:0         ok 1.0e-06 of 1e-04 (hardware), by version v0 on 2026-11-28
                                              cuda:0        not measured
                                              simulation:a  not measured
                                              npu:0         refused (emulated)
                                              npu:1         FAILED (emulated)
t5     t5          generate  prepare, decode  cpu:0         ok 2.2e-06 of 1e-04 (hardware), the worst of 2 models; 1 more by other versions
                                              cuda:0        not measured
                                              simulation:a  ok 0.0e+00 of 1e-04 (simulated), 25% of the operations
                                              simulation:b  FAILED, 2 of 16 outputs off (simulated)
t5     umt5        -         -                -             not measured
`
	if status != 0 || out != want {
		t.Errorf("status %d %s\ngot\n%s\nwant\n%s", status, errs, out, want)
	}
	var all struct {
		Version string
		Classes []classRow
	}
	status, out, errs = call(t.Context(), f, []string{"ACCEL_CACHE=" + cache}, "classes", "--json", "mt5", "bert")
	if err := json.Unmarshal([]byte(out), &all); err != nil || status != 0 || all.Version != version {
		t.Fatalf("status %d, %v: %s%s", status, err, out, errs)
	}
	types := 0
	for _, c := range all.Classes {
		types++
		switch c.ModelType {
		case "mt5":
			if len(c.Devices) != 5 || !c.Devices[0].Here || c.Devices[0].Records[0].Version != "v0" || c.Devices[4].Here || c.Devices[4].Records[0].Status != verify.Failed || c.Devices[4].Kind != "" {
				t.Errorf("%+v", c)
			}
		case "bert":
			if len(c.Devices) != 3 || len(c.Devices[0].Records) != 0 || len(c.Components) != 0 {
				t.Errorf("%+v", c)
			}
		}
	}
	if types != 7 || !strings.Contains(out, `"records":[]`) {
		t.Errorf("%d model types in %s", types, out)
	}
}

func TestClassesRefuses(t *testing.T) {
	cache := t.TempDir()
	if status, _, errs := call(t.Context(), machine(), []string{"ACCEL_CACHE=" + cache}, "classes", "wisper"); status != exitNotFound || !strings.Contains(errs, `did you mean "whisper"?`) {
		t.Errorf("status %d: %s", status, errs)
	}
	file := filepath.Join(cache, "verified", "a.json")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := call(t.Context(), machine(), []string{"ACCEL_CACHE=" + cache}, "classes"); status != exitFailed || !strings.Contains(errs, file) {
		t.Errorf("status %d: %s", status, errs)
	}
	if _, out, _ := call(t.Context(), machine(), nil, "__complete", "classes", "wh"); !strings.Contains(out, "whisper\n") {
		t.Errorf("completions: %s", out)
	}
}

// TestVerifyKeepsWhatWasMeasured: a result of a model of a class, on a device that is there.
func TestVerifyKeepsWhatWasMeasured(t *testing.T) {
	devices := machine().devices
	subject := &verify.Subject{Class: "t5", ModelType: "t5"}
	for name, tt := range map[string]struct {
		result verify.Result
		device string // of the record; empty: there is none
	}{
		"ran":                       {verify.Result{Model: subject, Platform: "cpu", Device: "cpu:0", Status: verify.Whole}, "cpu:0"},
		"refused":                   {verify.Result{Model: subject, Platform: "cpu", Status: verify.Refused}, "cpu:0"},
		"refused by an absent one":  {verify.Result{Model: subject, Platform: "metal", Status: verify.Refused}, ""},
		"refused by an ailing one":  {verify.Result{Model: subject, Platform: "cuda", Status: verify.Refused}, ""},
		"an ONNX model":             {verify.Result{Platform: "cpu", Device: "cpu:0", Status: verify.Whole}, ""},
		"a folder without a record": {verify.Result{Status: verify.PassedOver}, ""},
	} {
		records := verify.RecordsIn(t.TempDir())
		if err := keep(records, tt.result, devices); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		all, err := records.All()
		switch {
		case err != nil || len(all) > 1 || (len(all) == 1) != (tt.device != ""):
			t.Errorf("%s: %v, %+v", name, err, all)
		case len(all) == 1 && (all[0].Device != tt.device || all[0].Kind != backend.Hardware || all[0].Version != version || all[0].Status != tt.result.Status):
			t.Errorf("%s: %+v", name, all[0])
		}
	}
}
