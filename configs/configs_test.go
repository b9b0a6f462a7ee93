package configs

import (
	"io/fs"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The ratings that tables may give, and what may stand behind them.
var (
	ratings  = []string{"excellent", "very_good", "good", "limited", "not_recommended", "not_supported", "full", "partial", "experimental", "none"}
	evidence = []string{"assumed", "measured"}
)

func TestPolicyTables(t *testing.T) {
	names, err := fs.Glob(Policy, "policy/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"adapters", "browsers", "coverage", "kv_cache", "precision", "precision_expectations", "recommended", "routes", "web_precision", "workgroups"}
	if len(names) != len(want) {
		t.Errorf("got %v, want %v", names, want)
	}
	rated := 0
	for _, name := range names {
		data, err := Policy.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var table map[string]any
		if err := yaml.Unmarshal(data, &table); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var walk func(at string, v any)
		walk = func(at string, v any) {
			m, ok := v.(map[string]any)
			if !ok {
				return
			}
			if r, ok := m["rating"]; ok {
				rated++
				if s, _ := r.(string); !slices.Contains(ratings, s) {
					t.Errorf("%s: %s is rated %v", name, at, r)
				}
				if m["evidence"] == nil {
					t.Errorf("%s: %s does not say whether it was measured", name, at)
				}
			}
			if e, ok := m["evidence"]; ok {
				if s, _ := e.(string); !slices.Contains(evidence, s) {
					t.Errorf("%s: %s rests on %v", name, at, e)
				}
			}
			for k, v := range m {
				walk(at+"."+k, v)
			}
		}
		walk("", table)
	}
	// 12 classes by 8 columns, 4 browsers by 2 APIs with 5 precisions and the API itself.
	if want := 12*8 + 4*2*6; rated != want {
		t.Errorf("%d ratings, want %d", rated, want)
	}
}
