// Package config is what users say: defaults, then a file (YAML or JSON), then
// ACCEL_* variables, then flags, each over the one before. One typed Config comes
// out of it; whatever it can't hold is refused, with its place and a remedy.
package config

import (
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Config is all that can be configured. The tags are the one description of a
// key: its name, what it is for, and what it takes. Checks, variables, `accel
// config show` and the JSON Schema are made from them.
//
//	doc       what it is for
//	enum      the values it takes
//	min       smallest number, or fewest entries of a list
//	path      a relative one in a file is meant from that file's folder
//	env       its variable, where that isn't ACCEL_ and the key in capitals
//	list      path: its variable is split as PATH is
//	format    name of a check in formats
//	required  it must not end up empty
type Config struct {
	Models   map[string]Model    `koanf:"models" doc:"Models by the name that requests ask for."`
	Route    map[string][]string `koanf:"route" min:"1" format:"platform" doc:"Platforms in order of preference, by model class; 'default' is for classes that are not named. The first that is there is taken."`
	Fallback Fallback            `koanf:"fallback" doc:"What may happen when a wanted platform can't serve."`
	Split    string              `koanf:"split" enum:"off,auto,force" doc:"Whether a device that takes only part of a graph runs that part, and the CPU the rest. off: the next platform runs it whole. auto: where it is worth carrying values over, and fallback is not denied. force: wherever the device takes anything."`
	Backends map[string]Backend  `koanf:"backends" doc:"Backends by name. Those found on the search path need no entry here."`
	Hosts    Hosts               `koanf:"hosts" doc:"How backend processes are found, started and restarted."`
	Memory   Memory              `koanf:"memory" doc:"What models may take on a device together."`
	KVCache  KVCache             `koanf:"kv_cache" doc:"Where models that generate keep the keys and values of the tokens before."`
	Generate Generate            `koanf:"generate" doc:"How requests to generate share a model."`
	Fetch    Fetch               `koanf:"fetch" doc:"Pictures that requests name by URL instead of carrying them."`
	Hub      Hub                 `koanf:"hub" doc:"Where 'accel pull' gets models from, and where they are kept. The variables of Python's huggingface_hub ($HF_HOME, $HF_HUB_CACHE, $HF_ENDPOINT, $HF_TOKEN, $HF_HUB_OFFLINE) are read too, below a file."`
	Cache    Cache               `koanf:"cache" doc:"Where lowered models are kept."`
	Server   Server              `koanf:"server" doc:"The HTTP server of 'accel serve'."`
	Log      Log                 `koanf:"log" doc:"What is logged, to standard error."`
}

// Model says where a model lies and what is wanted of it.
type Model struct {
	Path      string `koanf:"path" path:"true" required:"true" doc:"Folder of the model, a .gguf or .onnx file, or hub:ORG/NAME[@REVISION][:VARIANT] for one that 'accel pull' fetched."`
	Task      string `koanf:"task" enum:"embed,generate,classify,detect,transcribe" doc:"What the model is for; empty: as its files say."`
	Platform  string `koanf:"platform" format:"platform" doc:"Preferred platform or device, such as cpu or simulation:static; empty: as the route says."`
	Precision string `koanf:"precision" enum:"f32" doc:"Precision to run in; empty: as the policy says."`
	Fallback  string `koanf:"fallback" enum:"deny,warn,allow" doc:"Overrides fallback.policy for this model."`
	// What quantised weights are multiplied with.
	Activations string `koanf:"activations" enum:"f32,bf16,int8" doc:"What weights of fewer bits are multiplied with. f32: exact. bf16: rounded to it before bf16 weights, faster on processors that multiply bf16; permitted before those of 8 bits and fewer. int8: of 8 bits and fewer; faster, with one scale a block. Empty: f32."`
}

// Memory says what models may take on a device together.
type Memory struct {
	Budget Bytes `koanf:"budget" min:"0" doc:"Bytes on each device for weights, and for the KV caches of models that generate. Before it is passed, components that were used longest ago are let go, until a request wants them again. 0: no bound."`
}

// KVCache says how large and of what the pools of keys and values are.
type KVCache struct {
	Memory   Bytes  `koanf:"memory" min:"0" doc:"Bytes of a model's pools on its device. 0: what its requests can use, at most half of the device's free memory."`
	PageSize int    `koanf:"page_size" min:"1" doc:"Tokens a page."`
	Key      string `koanf:"key" enum:"f32,f16,bf16,int8,int4" doc:"Element type of keys."`
	Value    string `koanf:"value" enum:"f32,f16,bf16,int8,int4" doc:"Element type of values."`
	Swap     Bytes  `koanf:"swap" min:"0" doc:"Host memory for the pages of requests that had to make room for others. 0: they are computed again."`
}

// Generate says how requests to generate share a model.
type Generate struct {
	MaxLength     int    `koanf:"max_length" min:"0" doc:"Most tokens of a request, prompt and output together. 0: what the model takes."`
	StepTokens    int    `koanf:"step_tokens" min:"1" doc:"Most tokens that a model computes at a time: one for each request that generates, the rest for prompts."`
	MaxSequences  int    `koanf:"max_sequences" min:"1" doc:"Most texts in the KV cache at a time; others wait."`
	MaxWaiting    int    `koanf:"max_waiting" min:"1" doc:"Most requests that wait for a model; more are answered 429."`
	Preemption    string `koanf:"preemption" enum:"auto,swap,recompute" doc:"What becomes of a request's pages when others need the room. auto: whichever is faster."`
	Deterministic bool   `koanf:"deterministic" doc:"Make answers independent of what else runs. It costs throughput."`
}

// Fallback says what may happen when a wanted platform can't serve.
type Fallback struct {
	Policy      string        `koanf:"policy" enum:"deny,warn,allow" doc:"deny: an error. warn: the next platform of the route, with a warning in the log. allow: the next platform of the route."`
	RestartWait time.Duration `koanf:"restart_wait" doc:"How long a request waits for its device to come back before it goes to the next platform."`
}

// Backend overrides what discovery finds for one backend.
type Backend struct {
	Path     string            `koanf:"path" path:"true" doc:"Executable; empty: accel-backend-NAME on the search path."`
	Args     []string          `koanf:"args" doc:"Arguments of the executable."`
	Env      map[string]Secret `koanf:"env" doc:"Variables added to its environment. Never shown."`
	Settings map[string]any    `koanf:"settings" doc:"Settings of the backend itself, checked against the schema that it declares."`
	Disabled bool              `koanf:"disabled" doc:"Leave this backend alone."`
}

// Hosts says how backend processes are found, started and restarted.
type Hosts struct {
	SearchPath   []string      `koanf:"search_path" env:"ACCEL_BACKEND_PATH" list:"path" path:"true" doc:"Folders looked through for accel-backend-NAME, before those installed and the folder 'backends' beside the accel program."`
	Installed    string        `koanf:"installed" path:"true" doc:"Folder of the backends that 'accel backends install' took; by default accel/backends in the user's data folder."`
	StartTimeout time.Duration `koanf:"start_timeout" min:"1" doc:"How long a backend may take to start and describe itself."`
	Backoff      Backoff       `koanf:"backoff" doc:"Waits between restarts in a row, doubled from first up to max. The first restart is immediate, and a while without a death ends the row."`
}

// Backoff bounds the wait between restarts.
type Backoff struct {
	First time.Duration `koanf:"first" min:"1" doc:"Wait before the second restart in a row."`
	Max   time.Duration `koanf:"max" min:"1" doc:"Longest wait before a restart."`
}

// Fetch says whether and from where what requests name by URL is fetched.
type Fetch struct {
	Enabled  bool          `koanf:"enabled" doc:"Fetch from http and https URLs. Off: requests carry their pictures (data: URLs)."`
	Hosts    []string      `koanf:"hosts" doc:"Hosts that may be asked, such as images.example.com or *.example.com. Empty: any."`
	Private  bool          `koanf:"private" doc:"Addresses of this machine and of private networks too. Off: public ones only, whatever a name resolves to."`
	MaxBytes Bytes         `koanf:"max_bytes" min:"1" doc:"Longest file."`
	Timeout  time.Duration `koanf:"timeout" min:"1" doc:"For one file to be fetched."`
}

// Hub says where models are pulled from and kept.
type Hub struct {
	Endpoints []string `koanf:"endpoints" min:"1" format:"endpoint" doc:"The hub and mirrors of it, tried in order: one that can't be reached passes on to the next."`
	Cache     string   `koanf:"cache" path:"true" doc:"Folder of pulled models, in the layout of huggingface_hub and shared with it; by default huggingface/hub in ~/.cache."`
	Token     Secret   `koanf:"token" doc:"Token for gated and private models. It is sent to the endpoints, and to no host that they redirect to. Never shown."`
	Offline   bool     `koanf:"offline" doc:"Ask nobody: only what is in the folder is there."`
}

// Cache says where lowered models are kept.
type Cache struct {
	Dir      string `koanf:"dir" env:"ACCEL_CACHE" path:"true" required:"true" doc:"Folder of the cache; by default 'accel' in the user's cache folder."`
	MaxBytes Bytes  `koanf:"max_bytes" min:"0" doc:"Bytes it may take, links to checkpoints not counted; what nobody holds and was used longest ago goes first. 0: no bound."`
}

// Server configures the HTTP server.
type Server struct {
	Listen        string   `koanf:"listen" format:"address" doc:"Address and port. Port 0 takes a free one."`
	APIKeys       []Secret `koanf:"api_keys" doc:"Keys that clients must show one of (Authorization: Bearer KEY). Never shown."`
	APIKeyFile    string   `koanf:"api_key_file" path:"true" doc:"File with more keys, one a line; empty lines and lines that begin with # are skipped."`
	AllowPublic   bool     `koanf:"allow_public" doc:"Listen beyond loopback even without a key."`
	AllowOrigins  []string `koanf:"allow_origins" format:"origin" doc:"Origins of web pages that may call the server (CORS), such as https://app.example.com."`
	MaxBodyBytes  Bytes    `koanf:"max_body_bytes" min:"1" doc:"Longest request body; longer ones are answered 413."`
	MaxAudioBytes Bytes    `koanf:"max_audio_bytes" min:"1" doc:"Longest request body that holds a sound; longer ones are answered 413. What is past 1 MiB is kept on disk, in the folder for temporary files."`
	MaxInputs     int      `koanf:"max_inputs" min:"1" doc:"Most inputs in one request."`
	Queue         Queue    `koanf:"queue" doc:"Admission. Requests beyond it are answered 429 with Retry-After."`
	Timeouts      Timeouts `koanf:"timeouts" doc:"Bounds on waiting for clients and models."`
}

// Queue bounds the requests that the server has taken on.
type Queue struct {
	MaxRunning int           `koanf:"max_running" min:"1" doc:"Requests given to the engine at a time."`
	MaxWaiting int           `koanf:"max_waiting" min:"0" doc:"Requests that may wait for one of those places."`
	MaxWait    time.Duration `koanf:"max_wait" min:"0" doc:"Longest wait for a place."`
}

// Timeouts of the HTTP server.
type Timeouts struct {
	ReadHeader time.Duration `koanf:"read_header" min:"1" doc:"For a client to send its request's header."`
	ReadBody   time.Duration `koanf:"read_body" min:"1" doc:"For a client to send its request's body."`
	Request    time.Duration `koanf:"request" min:"1" doc:"For a request to be answered, waiting included; then 504."`
	Generate   time.Duration `koanf:"generate" min:"1" doc:"For a text to be generated, waiting included; then 504, or the end of the stream."`
	Write      time.Duration `koanf:"write" min:"1" doc:"For a client to take its answer."`
	Idle       time.Duration `koanf:"idle" min:"1" doc:"For an idle connection to be kept."`
	DrainDelay time.Duration `koanf:"drain_delay" min:"0" doc:"Between SIGTERM, when /readyz begins to fail, and the listener's closing; load balancers need some."`
	Drain      time.Duration `koanf:"drain" min:"0" doc:"For requests in flight to finish after the listener has closed."`
}

// Log says what is logged.
type Log struct {
	Level  string `koanf:"level" enum:"trace,debug,info,warn,error,off" doc:"Least serious level that is logged."`
	Format string `koanf:"format" enum:"auto,json,text" doc:"auto: text on a terminal, else JSON."`
}

// Run is one piece of work: what stands in a run file beside any of Config's
// sections.
type Run struct {
	Task      string `koanf:"task" enum:"embed,generate,transcribe,classify,detect,infer" required:"true" doc:"What to do. embed: a vector for each text. generate: an answer to each line of a file. transcribe: what is said in a sound. classify: what is on pictures or videos, or in sounds. detect: the things in pictures. infer: run a graph as it is, tensors in, tensors out."`
	Model     string `koanf:"model" required:"true" doc:"A name under models, or the path of a model: a folder or, to infer, an .onnx file."`
	Platform  string `koanf:"platform" format:"platform" doc:"Preferred platform or device; overrides the model's."`
	Precision string `koanf:"precision" enum:"f32" doc:"Precision to run in; overrides the model's."`
	Inputs    Inputs `koanf:"inputs" doc:"What to do it to."`
	Output    Output `koanf:"output" doc:"What to do with the answers."`
	Repeat    int    `koanf:"repeat" min:"0" doc:"infer: runs to time, after one that is not timed. 0: run once."`
	// What the lines of a batch have in common, and how they are worked on.
	Request     map[string]any `koanf:"request" doc:"generate: fields that every line has unless it gives its own, as the HTTP API knows them: max_tokens, temperature, seed, stop, response_format and so on. transcribe: language, prompt and temperature, as the HTTP API knows them, and translate (true or false). classify: labels, templates, top. detect: threshold, max_detections."`
	Concurrency int            `koanf:"concurrency" min:"0" doc:"generate: most lines that are worked on at a time. 0: twice generate.max_sequences, but not more than generate.max_waiting."`
}

// Inputs of a run. To embed, exactly one of File and Texts is given; to generate and to transcribe,
// File; to infer, any of File, Tensors and Generate.
type Inputs struct {
	File   string   `koanf:"file" path:"true" doc:"embed: text file in UTF-8, one input a line; empty lines are skipped. generate: JSON lines, each an object with prompt or messages, perhaps an id, and any fields of the HTTP API; or OpenAI's batch form, custom_id and body. transcribe: a sound: WAV, FLAC, MP3, Ogg Vorbis or Ogg Opus. classify, detect: a picture, a video (animated GIF or PNG) or a sound, or a folder of them. infer: inputs by name, an .npz, a .json object, or a folder of .npy, .pb or .json files or with ONNX's input_0.pb."`
	Frames string   `koanf:"frames" path:"true" doc:"classify: folder whose pictures, in the order of their names, are the frames of one video."`
	Texts  []string `koanf:"texts" doc:"embed: the inputs themselves."`
	// Without it a longer input is an error.
	Truncate bool           `koanf:"truncate" doc:"embed: cut inputs that are longer than the model takes."`
	Tensors  map[string]any `koanf:"tensors" path:"true" doc:"infer: inputs by name, over those of file: a file (.npy, .npz, .pb, .json), or the values themselves, such as 3 or [[1, 2], [3, 4]]."`
	Generate string         `koanf:"generate" format:"generator" doc:"infer: make up the inputs that are not given: zeros, ones, random or random:SEED."`
	Dims     map[string]int `koanf:"dims" doc:"infer: sizes of symbolic dimensions, by name."`
	Cast     bool           `koanf:"cast" doc:"infer: convert element types that are not the model's."`
}

// Output of a run.
type Output struct {
	Format   string   `koanf:"format" enum:"table,json,jsonl,npy,npz,pb,text,srt,vtt,verbose_json" doc:"embed: table: the nearest pairs, for people. json: one object. jsonl: one object an input. npy: the vectors as a NumPy array of float32. generate: always jsonl, one object a line. transcribe: table: a line a segment, with its time, for people. text, srt, vtt, json, verbose_json: as the HTTP API has them. classify, detect: table: for people. json: one object. jsonl: one object a file. infer: table: a summary, for people. json: the same as an object. With a file, what is written there: npy, npz, pb or json, by default as its name says; in a folder .npy, and .pb for what NumPy lacks."`
	File     string   `koanf:"file" path:"true" doc:"Where to write; empty: standard output. infer: a file, or a folder that gets a file for each output."`
	Pairs    int      `koanf:"pairs" min:"0" doc:"embed: most pairs in the table."`
	Only     []string `koanf:"only" doc:"infer: the outputs that are wanted; empty: all."`
	Order    string   `koanf:"order" enum:"input,finish" doc:"generate: order of the lines: as the input has them, or as they finish. Empty: input."`
	Resume   bool     `koanf:"resume" doc:"generate: go on with a file that has some of the lines already."`
	Pictures string   `koanf:"pictures" path:"true" doc:"classify, detect: folder that gets a PNG file for each picture, with what was found drawn on it."`
	Record   string   `koanf:"record" path:"true" doc:"infer: folder that gets inputs and outputs as an ONNX test data set, which 'accel verify' holds other devices against."`
}

// Default is the configuration of a machine where nothing was configured. The
// routes are those of configs/policy/routes.yaml.
func Default() Config {
	var cache, hubCache string
	if dir, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(dir, "accel")
	}
	// Of every system, for huggingface_hub has it there.
	if home, err := os.UserHomeDir(); err == nil {
		hubCache = filepath.Join(home, ".cache", "huggingface", "hub")
	}
	return Config{
		Route:    policyRoutes(),
		Fallback: Fallback{Policy: "warn", RestartWait: 5 * time.Second},
		Split:    "auto",
		Hosts: Hosts{
			Installed:    installedBackends(),
			StartTimeout: 15 * time.Second,
			Backoff:      Backoff{First: 100 * time.Millisecond, Max: 30 * time.Second},
		},
		KVCache:  KVCache{PageSize: 16, Key: "f16", Value: "f16", Swap: 1 << 30},
		Generate: Generate{StepTokens: 512, MaxSequences: 64, MaxWaiting: 256, Preemption: "auto"},
		Fetch:    Fetch{MaxBytes: 20 << 20, Timeout: 10 * time.Second},
		Hub:      Hub{Endpoints: []string{"https://huggingface.co"}, Cache: hubCache},
		Cache:    Cache{Dir: cache, MaxBytes: 50 << 30},
		Server: Server{
			Listen:        "127.0.0.1:8399",
			MaxBodyBytes:  32 << 20,
			MaxAudioBytes: 512 << 20,
			MaxInputs:     2048,
			Queue:         Queue{MaxRunning: 32, MaxWaiting: 512, MaxWait: 30 * time.Second},
			Timeouts: Timeouts{
				ReadHeader: 5 * time.Second,
				ReadBody:   30 * time.Second,
				Request:    60 * time.Second,
				Generate:   30 * time.Minute,
				Write:      30 * time.Second,
				Idle:       120 * time.Second,
				DrainDelay: time.Second,
				Drain:      30 * time.Second,
			},
		},
		Log: Log{Level: "info", Format: "auto"},
	}
}

// installedBackends is a folder where each system keeps what belongs to a user and is
// not to be lost.
func installedBackends() string {
	dir, err := os.UserHomeDir()
	switch runtime.GOOS {
	case "windows":
		dir, err = os.UserCacheDir() // %LocalAppData%
	case "darwin":
		dir, err = os.UserConfigDir() // Application Support
	default:
		dir = filepath.Join(dir, ".local", "share")
	}
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "accel", "backends")
}

// defaultRun is a run of which nothing was said.
func defaultRun() Run {
	return Run{Output: Output{Format: "table", Pairs: 10}}
}
