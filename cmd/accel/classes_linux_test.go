package main_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/verify"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/testfiles"
)

// tinyDevices are the devices that tiny models are verified on, and what stands behind them.
var tinyDevices = map[string]backend.Kind{
	"cpu:0": backend.Hardware, "simulation:plain": backend.Simulated, "simulation:static": backend.Simulated, "simulation:picky": backend.Simulated,
}

// TestVerifyTiny holds every tiny model against what its reference made of it, on devices that
// attend and take shapes in each of the ways there are, and `accel classes` against what came out.
func TestVerifyTiny(t *testing.T) {
	own, err := filepath.Glob(tiny(t, "*"))
	if err != nil || len(own) == 0 {
		t.Fatalf("no tiny models: %v", err)
	}
	t.Run("own", func(t *testing.T) { verifyTiny(t, own) })
	t.Run("shared", func(t *testing.T) {
		dirs, err := filepath.Glob(filepath.Join(testfiles.Shared(t, "tiny"), "*"))
		if err != nil {
			t.Fatal(err)
		}
		verifyTiny(t, slices.DeleteFunc(dirs, func(dir string) bool {
			return slices.Contains(own, tiny(t, filepath.Base(dir))) // a copy
		}))
	})
}

func verifyTiny(t *testing.T, dirs []string) {
	t.Parallel()
	cache := "ACCEL_CACHE=" + t.TempDir()
	run := func(into any, args ...string) int {
		t.Helper()
		cmd := command(t, args...)
		cmd.Env = append(cmd.Env, cache)
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, into); err != nil {
			t.Fatalf("%v: %v\n%s\n%s", args, err, out, said.String())
		}
		return cmd.ProcessState.ExitCode()
	}
	var report verify.Report
	status := run(&report, append([]string{"verify", "--json", "--platform", "cpu,simulation,simulation:static,simulation:picky"}, dirs...)...)
	type pair struct{ modelType, device string }
	measured := map[pair]int{}
	held, over := 0, 0
	for _, dir := range dirs {
		golden := true
		if _, err := os.Stat(filepath.Join(dir, "golden.safetensors")); err != nil {
			golden = false
		}
		results := report.Results[:min(len(tinyDevices), len(report.Results))]
		if !golden {
			results = report.Results[:min(1, len(report.Results))]
		}
		report.Results = report.Results[len(results):]
		if !golden {
			over++
			if len(results) != 1 || results[0].Path != dir || results[0].Status != verify.PassedOver || results[0].OK || !strings.Contains(results[0].Error, "golden.safetensors") {
				t.Errorf("%s records nothing: %+v", dir, results)
			}
			continue
		}
		on := map[string]bool{}
		for _, r := range results {
			on[r.Device] = true
			platform, _, _ := strings.Cut(r.Device, ":")
			if r.Path != dir || !r.OK || r.Status != verify.Whole || r.Kind != tinyDevices[r.Device] || r.Kind == "" || len(r.Outputs) < 3 || r.Placed[platform].FLOPs == 0 {
				t.Errorf("%s on %s: %+v", dir, r.Platform, r)
				continue
			}
			held++
			measured[pair{r.Model.ModelType, r.Device}]++
			// What generates does so in each way that pages are laid out, shared and given up.
			if slices.Contains(r.Model.Components, models.Decode) && len(r.Outputs) < 14 {
				t.Errorf("%s on %s: only %d outputs", dir, r.Device, len(r.Outputs))
			}
		}
		if len(on) != len(tinyDevices) {
			t.Errorf("%s ran on %v", dir, on)
		}
	}
	if status != 0 || len(report.Results) != 0 || report.Passed != held || report.Whole != held || report.PassedOver != over {
		t.Errorf("status %d, %d results left over, %+v of %d that held and %d without a record", status, len(report.Results), report.Count, held, over)
	}
	t.Logf("%d models on %d devices each; %d folders record nothing", held/len(tinyDevices), len(tinyDevices), over)

	var classes struct {
		Classes []struct {
			ModelType         string `json:"model_type"`
			Components, Tasks []string
			Devices           []struct {
				Device  string
				Here    bool
				Kind    backend.Kind
				Records []verify.Record
			}
		}
	}
	if status := run(&classes, "classes", "--json"); status != 0 || len(classes.Classes) != len(models.Classes()) {
		t.Errorf("status %d, %d classes", status, len(classes.Classes))
	}
	for _, c := range classes.Classes {
		for _, d := range c.Devices {
			n := measured[pair{c.ModelType, d.Device}]
			if len(d.Records) != n || !d.Here || d.Kind != tinyDevices[d.Device] {
				t.Errorf("%s on %+v: measured were %d", c.ModelType, d, n)
			}
			for _, r := range d.Records {
				if r.Kind != d.Kind || !r.OK() || r.Worst == nil || r.Share != 1 || len(c.Components) == 0 {
					t.Errorf("%s on %s: %+v", c.ModelType, d.Device, r)
				}
			}
			delete(measured, pair{c.ModelType, d.Device})
		}
	}
	if len(measured) > 0 {
		t.Errorf("measured and not listed: %v", measured)
	}
}
