package main_test

import (
	"encoding/json"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	"github.com/openai/openai-go/shared"

	"github.com/accelhq/accel/core/schedule/constrain/schematest"
)

// longer is tiny/llama with room for 2048 tokens, and a template that knows tools.
func longer(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "llama")
	if err := os.CopyFS(dir, os.DirFS(tiny(t, "llama"))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	config["max_position_embeddings"] = 2048
	if data, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	const template = `{{- bos_token }}{% if tools %}{{ tools | tojson }} <tool_call>{"name": ..., "arguments": ...}</tool_call>{% endif %}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}`
	for name, content := range map[string]string{"config.json": string(data), "chat_template.jinja": template} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestPythonClient asks with OpenAI's Python package, if the Makefile could install it.
func TestPythonClient(t *testing.T) {
	venv, err := filepath.Abs("../../.cache/venv")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(venv, "openai")); err != nil {
		t.Skip("OpenAI's Python package is not there: `make openai-client` installs it, with python3-venv")
	}
	embeds := filepath.Join(filepath.Dir(venv), "models/all-MiniLM-L6-v2")
	if _, err := os.Stat(filepath.Join(embeds, "model.safetensors")); err != nil {
		embeds = tinyBERT(t)
	}
	s := serve(t, map[string]any{"server": map[string]any{"api_keys": []any{"secret"}},
		"models": map[string]any{"chat": map[string]any{"path": longer(t)}, "embed": map[string]any{"path": embeds}}})
	out, err := exec.CommandContext(t.Context(), filepath.Join(venv, "bin/python"), "testdata/openai_client.py", s.url+"/v1", "secret", "chat", "embed").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

var (
	schemasCount = flag.Int("schemas", 300, "how many random schemas TestRandomSchemas asks with")
	schemasModel = flag.String("schemas.model", "", "model that TestRandomSchemas asks (default: testdata/tiny/llama, with room for 2048 tokens)")
)

// schemaTokens bounds the texts of TestRandomSchemas.
const schemaTokens = 256

// TestRandomSchemas holds a model to schemas that nobody thought of: every text that
// ended by itself is valid, and nearly all end by themselves.
func TestRandomSchemas(t *testing.T) {
	path := *schemasModel
	if path == "" {
		path = longer(t)
	}
	s := serve(t, map[string]any{"models": map[string]any{"m": map[string]any{"path": path}}})
	client := openai.NewClient(option.WithBaseURL(s.url+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(3, 5))
	begun := time.Now()
	var taken, refused, stopped, cut, tokens int
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for {
				mu.Lock()
				schema, seed := schematest.Random(random), random.Int64()
				enough := taken == *schemasCount
				if !enough {
					taken++
				}
				mu.Unlock()
				if enough {
					return
				}
				valid, err := schematest.Compile(schema)
				if err != nil {
					t.Error(err)
					return
				}
				p := openai.ChatCompletionNewParams{Model: "m", Temperature: openai.Float(1), Seed: openai.Int(seed), MaxCompletionTokens: openai.Int(schemaTokens),
					Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Answer as the schema says.")}}
				p.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: "answer", Schema: schema}}
				reply, err := client.Chat.Completions.New(t.Context(), p)
				mu.Lock()
				var status *openai.Error
				switch {
				case errors.As(err, &status) && status.StatusCode == 400 && status.Param == "response_format":
					refused++ // no value satisfies it
					taken--
				case err != nil:
					t.Errorf("%s: %v", schema, err)
				default:
					c := reply.Choices[0]
					tokens += int(reply.Usage.CompletionTokens)
					if c.FinishReason != "stop" {
						cut++
						t.Logf("%s\ncut off: %s", schema, c.Message.Content)
					} else if stopped++; valid(c.Message.Content) != nil {
						t.Errorf("%s\n%s\n%v", schema, c.Message.Content, valid(c.Message.Content))
					}
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	if stopped*100 < *schemasCount*99 {
		t.Errorf("%d texts ended by themselves, %d were cut off after %d tokens", stopped, cut, schemaTokens)
	}
	t.Logf("%d schemas, %d more refused: %d texts ended by themselves and are valid, %d were cut off after %d tokens; %.1f tokens a text, %v",
		*schemasCount, refused, stopped, cut, schemaTokens, float64(tokens)/float64(max(1, stopped+cut)), time.Since(begun).Round(time.Millisecond))
}
