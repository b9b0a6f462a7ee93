package bench

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/quantize"
	"github.com/accelhq/accel/sdk/tensor"
)

// billion writes a model of TinyLlama-1.1B's shape with random weights, once. It returns
// the bytes of its largest layer, too.
func billion(b *testing.B) (dir string, largest int64) {
	b.Helper()
	const hidden, inner, layers, heads, kvHeads, vocab = 2048, 5632, 22, 32, 4, 32000
	tensors := map[string]tensor.Tensor{}
	add := func(name string, shape ...int64) {
		tensors[name] = tensor.Tensor{DType: tensor.BFloat16, Shape: shape}
		size, err := tensor.ByteSize(tensor.BFloat16, shape)
		if err != nil {
			b.Fatal(err)
		}
		largest = max(largest, size)
	}
	add("model.embed_tokens.weight", vocab, hidden)
	add("lm_head.weight", vocab, hidden)
	add("model.norm.weight", hidden)
	for i := range layers {
		p := "model.layers." + strconv.Itoa(i) + "."
		add(p+"input_layernorm.weight", hidden)
		add(p+"post_attention_layernorm.weight", hidden)
		add(p+"self_attn.q_proj.weight", hidden, hidden)
		add(p+"self_attn.k_proj.weight", hidden*kvHeads/heads, hidden)
		add(p+"self_attn.v_proj.weight", hidden*kvHeads/heads, hidden)
		add(p+"self_attn.o_proj.weight", hidden, hidden)
		add(p+"mlp.gate_proj.weight", inner, hidden)
		add(p+"mlp.up_proj.weight", inner, hidden)
		add(p+"mlp.down_proj.weight", hidden, inner)
	}
	dir = filepath.Join(repository(), "build", "bench", "llama-1.1b")
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err == nil {
		return dir, largest
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	plan, err := checkpoint.PlanSafetensors(tensors, map[string]string{"format": "pt"})
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(plan.Header); err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	numbers := make([]byte, 2*(1<<22+6))
	for i := 0; i < len(numbers); i += 2 {
		binary.LittleEndian.PutUint16(numbers[i:], uint16(math.Float32bits(float32(rng.NormFloat64()*0.02))>>16))
	}
	for left := plan.Size - int64(len(plan.Header)); left > 0; {
		n, err := f.Write(numbers[:min(left, int64(len(numbers)))])
		if err != nil {
			b.Fatal(err)
		}
		left -= int64(n)
	}
	config := fmt.Sprintf(`{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":%d,"intermediate_size":%d,"num_hidden_layers":%d,`+
		`"num_attention_heads":%d,"num_key_value_heads":%d,"vocab_size":%d,"max_position_embeddings":2048,"hidden_act":"silu"}`, hidden, inner, layers, heads, kvHeads, vocab)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		b.Fatal(err)
	}
	return dir, largest
}

// BenchmarkQuantizeBillion quantises a model of 1.1 billion weights to 4 bits, as the
// program does it, and counts its time, processor time and memory.
func BenchmarkQuantizeBillion(b *testing.B) {
	bin := os.Getenv(envBin)
	if bin == "" {
		b.Skipf("%s does not say where the program is; run `make bench`", envBin)
	}
	dir, largest := billion(b)
	for _, method := range []string{quantize.Nearest, quantize.Fit} {
		b.Run(method, func(b *testing.B) {
			for range b.N {
				to := filepath.Join(b.TempDir(), "out")
				c := exec.Command(filepath.Join(bin, "accel"), "quantize", dir, "--bits", "4", "--method", method, "--output", to, "--json")
				c.Env = append(os.Environ(), "ACCEL_CACHE="+b.TempDir())
				c.Stderr = os.Stderr
				data, err := c.Output()
				if err != nil {
					b.Fatal(err)
				}
				var r quantize.Report
				if err := json.Unmarshal(data, &r); err != nil {
					b.Fatal(err)
				}
				usage := c.ProcessState.SysUsage().(*syscall.Rusage)
				peak, bound := usage.Maxrss<<10, largest*3/2+r.Size.Bytes
				if peak > bound {
					b.Errorf("%d MiB were in use at most, allowed are %d MiB: 1.5 of the largest layer and the output", peak>>20, bound>>20)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(r.Seconds, "s")
				b.ReportMetric(c.ProcessState.UserTime().Seconds(), "cpu-s")
				b.ReportMetric(float64(peak>>20), "peak-MiB")
				b.ReportMetric(r.Bits, "bits/weight")
				if err := os.RemoveAll(to); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
