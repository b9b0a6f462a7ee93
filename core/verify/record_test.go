package verify

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/sdk/backend"
)

func TestRecordsAreKept(t *testing.T) {
	cache := t.TempDir()
	records := RecordsIn(cache)
	if all, err := records.All(); err != nil || len(all) != 0 {
		t.Fatalf("before anything was kept: %v, %v", all, err)
	}
	low, high, none := 2e-6, 3e-4, 0.0
	res := Result{Path: "models/t5", Model: &Subject{"t5", "t5", []string{"decode", "prepare"}, []string{"generate"}}, Precision: "f32", Status: Whole,
		Placed:  map[string]engine.Cost{"cpu": {FLOPs: 300}, "simulation": {FLOPs: 100}},
		Outputs: []Output{{Name: "a", MaxRel: &low, Tolerance: 1e-6}, {Name: "b", Problem: "no number"}, {Name: "c", MaxRel: &high, Tolerance: 1e-3}, {Name: "d", MaxRel: &none}}}
	keep := func(device string, kind backend.Kind, version string) Record {
		t.Helper()
		r, err := res.Record(device, kind, version, time.Date(2026, 11, 29, 1, 2, 3, 4, time.UTC))
		if err == nil {
			err = records.Keep(r)
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := keep("cpu:0", backend.Hardware, "v1")
	if first.Worst == nil || first.Worst.Name != "a" {
		t.Errorf("the worst of its tolerance is %+v", first.Worst)
	}
	if first.Share != 0.75 || first.Outputs != 4 || first.Off != 4 || !filepath.IsAbs(first.Path) || !first.OK() {
		t.Errorf("%+v", first)
	}
	other := keep("simulation:plain", backend.Simulated, "v1")
	res.Status = Wrong
	again := keep("cpu:0", backend.Hardware, "v2") // in the place of the first
	res.Path, res.Outputs = "models/t5_gated", nil
	gated := keep("cpu:0", backend.Hardware, "v2")
	all, err := records.All()
	if err != nil || !reflect.DeepEqual(all, []Record{again, gated, other}) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, all, []Record{again, gated, other})
	}
	if gated.Worst != nil || gated.OK() {
		t.Errorf("%+v", gated)
	}
}

func TestRecordsAreOrdered(t *testing.T) {
	at := func(s Status, err, tolerance float64) Record {
		return Record{Status: s, Worst: &Output{MaxRel: &err, Tolerance: tolerance}}
	}
	sorted := []Record{at(Whole, 1e-6, 1e-3), at(Whole, 1e-6, 1e-4), at(Whole, 2e-6, 1e-4), at(Split, 0, 1e-4), {Status: Refused}, at(Wrong, 1, 1e-4), {Status: Failed}}
	for i := range sorted {
		for j := range sorted {
			if n := sorted[i].Compare(sorted[j]); (n < 0) != (i < j) || (n > 0) != (i > j) {
				t.Errorf("%d against %d: %d", i, j, n)
			}
		}
	}
}

func TestBrokenRecordsAreRefused(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"not JSON":        {`{"model_type"`, "unexpected EOF"},
		"no such status":  {`{"model_type":"t5","device":"cpu:0","date":"2026-11-29T00:00:00Z","status":"fine"}`, `status "fine"`},
		"no device":       {`{"model_type":"t5","date":"2026-11-29T00:00:00Z","status":"whole"}`, "no model_type, device or date"},
		"no error":        {`{"model_type":"t5","device":"cpu:0","date":"2026-11-29T00:00:00Z","status":"whole","worst":{"name":"a"}}`, "no error"},
		"longer than any": {`{"error":"` + strings.Repeat("x", maxRecord), "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			file := filepath.Join(cache, "verified", "a.json")
			if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(tt.content), 0o600)); err != nil {
				t.Fatal(err)
			}
			_, err := RecordsIn(cache).All()
			var e *RecordError
			if !errors.As(err, &e) || e.Path != file || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := RecordsIn(file).Keep(Record{})
	if e := (*RecordError)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), "--no-record") {
		t.Errorf("a cache that is a file: %v", err)
	}
}
