package config

import (
	"reflect"
	"testing"
)

// TestHubVariables: what huggingface_hub reads is a default here.
func TestHubVariables(t *testing.T) {
	file := write(t, "accel.yaml", "hub: {endpoints: ['https://a.example', 'http://127.0.0.1:1/hf'], offline: false}\n")
	for _, x := range []struct {
		name string
		file string
		env  []string
		want Hub
		from map[string]string // origins
	}{
		{name: "none", want: Hub{Endpoints: []string{"https://huggingface.co"}, Cache: "/default"}, from: map[string]string{"hub.cache": "default"}},
		{name: "HF_HOME", env: []string{"XDG_CACHE_HOME=/xdg", "HF_HOME=/hf"}, want: Hub{Endpoints: []string{"https://huggingface.co"}, Cache: "/hf/hub"}, from: map[string]string{"hub.cache": "$HF_HOME"}},
		{name: "XDG", env: []string{"XDG_CACHE_HOME=/xdg", "HF_HOME="}, want: Hub{Endpoints: []string{"https://huggingface.co"}, Cache: "/xdg/huggingface/hub"}},
		{name: "all", env: []string{"HF_HUB_OFFLINE=1", "HF_TOKEN=t", "HUGGING_FACE_HUB_TOKEN=old", "HF_ENDPOINT=https://mirror.example/", "HF_HUB_CACHE=/c", "HF_HOME=/hf"},
			want: Hub{Endpoints: []string{"https://mirror.example"}, Cache: "/c", Token: "t", Offline: true},
			from: map[string]string{"hub.endpoints": "$HF_ENDPOINT", "hub.cache": "$HF_HUB_CACHE", "hub.token": "$HF_TOKEN", "hub.offline": "$HF_HUB_OFFLINE"}},
		{name: "a file over them", file: file, env: []string{"HF_ENDPOINT=https://mirror.example", "HF_HUB_OFFLINE=yes"},
			want: Hub{Endpoints: []string{"https://a.example", "http://127.0.0.1:1/hf"}, Cache: "/default"}, from: map[string]string{"hub.endpoints": file + ":1"}},
		{name: "our own over all", file: file, env: []string{"ACCEL_HUB_ENDPOINTS=https://b.example", "ACCEL_HUB_CACHE=/ours", "HF_HUB_CACHE=/c", "ACCEL_HUB_TOKEN=u", "HF_TOKEN=t", "HF_HUB_OFFLINE=0"},
			want: Hub{Endpoints: []string{"https://b.example"}, Cache: "/ours", Token: "u"}, from: map[string]string{"hub.cache": "$ACCEL_HUB_CACHE"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			def := defaults()
			def.Hub.Cache = "/default"
			l, err := Load(Sources{Defaults: def, File: x.file, Environ: x.env})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(l.Config.Hub, x.want) {
				t.Errorf("got %#v, want %#v", l.Config.Hub, x.want)
			}
			for key, want := range x.from {
				if got := l.Origin(key).String(); got != want {
					t.Errorf("%s comes from %s, want %s", key, got, want)
				}
			}
		})
	}
	_, err := Load(Sources{Defaults: defaults(), Environ: []string{"HF_ENDPOINT=mirror.example"}})
	if want := `$HF_ENDPOINT: hub.endpoints.0 = "mirror.example": want an address such as https://huggingface.co, without a slash at the end`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestHubPaths: a model of the hub is no file beside the configuration.
func TestHubPaths(t *testing.T) {
	file := write(t, "accel.yaml", "models: {smol: {path: 'hub:org/name@v1:Q4_K_M'}}\n")
	run := write(t, "run.yaml", "task: embed\nmodel: hub:org/MiniLM\ninputs: {texts: [a]}\n")
	l, err := Load(Sources{Defaults: defaults(), File: file, RunFile: run})
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Config.Models["smol"].Path; got != "hub:org/name@v1:Q4_K_M" {
		t.Errorf("got %q", got)
	}
	if got := l.Config.Models[l.Run.Model].Path; got != "hub:org/MiniLM" || l.Run.Model != "MiniLM" {
		t.Errorf("the run's model is %q at %q", l.Run.Model, got)
	}
}
