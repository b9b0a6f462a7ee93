package quantize

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// ct2Writer writes model.bin as CTranslate2 does.
type ct2Writer struct {
	t         *testing.T
	ck        *checkpoint.Checkpoint
	asBytes   bool // matrices of linears are int8 with a scale a row
	variables map[string][]byte
}

func (w *ct2Writer) text(s string) []byte {
	return append(append(binary.LittleEndian.AppendUint16(nil, uint16(len(s)+1)), s...), 0)
}

func (w *ct2Writer) add(name string, kind uint8, data []byte, shape ...int64) {
	b := append(w.text(name), uint8(len(shape)))
	for _, n := range shape {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	w.variables[name] = append(binary.LittleEndian.AppendUint32(append(b, kind), uint32(len(data))), data...)
}

// join adds tensors one behind another; a missing one is zeros.
func (w *ct2Writer) join(name string, linear bool, stored ...string) {
	var all []float32
	var shape tensor.Shape
	for _, s := range stored {
		x, err := w.ck.Data("model." + s)
		if err != nil { // the bias of keys
			all = append(all, make([]float32, shape[0])...)
			continue
		}
		all = append(all, tensor.View[float32](x.Aligned())...)
		shape = x.Shape.Clone()
	}
	shape[0] *= int64(len(stored))
	if !linear || !w.asBytes || shape[1]%16 != 0 { // no real model has such a width
		w.add(name, 0, tensor.Of(tensor.Float32, tensor.Shape{int64(len(all))}, all).Data, shape...)
		return
	}
	width := int(shape[1])
	codes, scales := make([]byte, len(all)), []byte{}
	for row := range int(shape[0]) {
		largest := float32(0)
		for _, x := range all[row*width : (row+1)*width] {
			largest = max(largest, float32(math.Abs(float64(x))))
		}
		scale := 127 / largest
		for i, x := range all[row*width : (row+1)*width] {
			codes[row*width+i] = byte(int8(math.RoundToEven(float64(x * scale))))
		}
		scales = binary.LittleEndian.AppendUint32(scales, math.Float32bits(scale))
	}
	w.add(name, 1, codes, shape...)
	w.add(name+"_scale", 0, scales, shape[0])
}

// write makes a folder of CTranslate2 of tiny Whisper.
func (w *ct2Writer) write() string {
	w.variables = map[string][]byte{}
	norm := func(to, from string) {
		w.join(to+"/layer_norm/gamma", false, from+".weight")
		w.join(to+"/layer_norm/beta", false, from+".bias")
	}
	linear := func(to string, from ...string) {
		var weights, biases []string
		for _, f := range from {
			weights, biases = append(weights, f+".weight"), append(biases, f+".bias")
		}
		if len(from) == 2 { // keys first: their bias is as long as that of the values
			w.join(to+"/weight", true, weights...)
			x, err := w.ck.Data("model." + biases[1])
			if err != nil {
				w.t.Fatal(err)
			}
			w.add(to+"/bias", 0, append(make([]byte, len(x.Data)), x.Data...), 2*x.Shape[0])
			return
		}
		w.join(to+"/weight", true, weights...)
		w.join(to+"/bias", false, biases...)
	}
	for side, layers := range map[string]int{"encoder": 2, "decoder": 3} {
		for i := range layers {
			to := side + "/layer_" + string(rune('0'+i))
			from := side + ".layers." + string(rune('0'+i)) + "."
			norm(to+"/self_attention", from+"self_attn_layer_norm")
			linear(to+"/self_attention/linear_0", from+"self_attn.q_proj", from+"self_attn.k_proj", from+"self_attn.v_proj")
			linear(to+"/self_attention/linear_1", from+"self_attn.out_proj")
			if side == "decoder" {
				norm(to+"/attention", from+"encoder_attn_layer_norm")
				linear(to+"/attention/linear_0", from+"encoder_attn.q_proj")
				linear(to+"/attention/linear_1", from+"encoder_attn.k_proj", from+"encoder_attn.v_proj")
				linear(to+"/attention/linear_2", from+"encoder_attn.out_proj")
			}
			norm(to+"/ffn", from+"final_layer_norm")
			linear(to+"/ffn/linear_0", from+"fc1")
			linear(to+"/ffn/linear_1", from+"fc2")
		}
		norm(side, side+".layer_norm")
		w.join(side+"/position_encodings/encodings", false, side+".embed_positions.weight")
		w.add(side+"/num_heads", 2, []byte{4, 0})
	}
	for _, name := range []string{"conv1", "conv2"} {
		w.join("encoder/"+name+"/weight", false, "encoder."+name+".weight")
		w.join("encoder/"+name+"/bias", false, "encoder."+name+".bias")
	}
	w.join("decoder/embeddings/weight", true, "decoder.embed_tokens.weight")
	w.add("decoder/activation", 1, []byte{3})
	b := binary.LittleEndian.AppendUint32(append(binary.LittleEndian.AppendUint32(nil, 6), w.text("WhisperSpec")...), 3)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(w.variables)))
	for _, name := range slices.Sorted(maps.Keys(w.variables)) {
		b = append(b, w.variables[name]...)
	}
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = append(append(b, w.text("decoder/projection/weight")...), w.text("decoder/embeddings/weight")...)
	dir := w.t.TempDir()
	tokenizer, err := os.ReadFile(filepath.Join(w.ck.Dir, "tokenizer.json"))
	if err != nil {
		w.t.Fatal(err)
	}
	for name, data := range map[string][]byte{"model.bin": b, "config.json": []byte(`{"suppress_ids":[1,2],"suppress_ids_begin":[220],"lang_ids":[]}`), "tokenizer.json": tokenizer} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

func tinyWhisper(t *testing.T) *checkpoint.Checkpoint {
	t.Helper()
	ck, err := checkpoint.Open(filepath.Join("..", "..", "..", "shared", "tiny", "whisper"))
	if err != nil {
		t.Skipf("the shared test data is not there: %v", err)
	}
	t.Cleanup(func() { ck.Close() })
	return ck
}

func writeCT2(t *testing.T, dir string) (*checkpoint.Checkpoint, error) {
	t.Helper()
	from, err := checkpoint.Open(dir)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	if from.Kind != checkpoint.CTranslate2 {
		t.Fatalf("the folder is %s", from.Kind)
	}
	to := t.TempDir()
	if err := WriteCT2(t.Context(), to, from.CT2); err != nil {
		return nil, err
	}
	ck, err := checkpoint.Open(to)
	if err == nil {
		t.Cleanup(func() { ck.Close() })
	}
	return ck, err
}

// A folder of CTranslate2 becomes the one that it was made of.
func TestWriteCT2(t *testing.T) {
	want := tinyWhisper(t)
	got, err := writeCT2(t, (&ct2Writer{t: t, ck: want}).write())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Names(), want.Names()) {
		t.Errorf("found %v, wanted %v", got.Names(), want.Names())
	}
	for _, name := range want.Names() {
		a, err1 := got.Data(name)
		b, err2 := want.Data(name)
		if err := errors.Join(err1, err2); err != nil || !a.Shape.Equal(b.Shape) || string(a.Data) != string(b.Data) {
			t.Errorf("%s: %v%v and %v%v, %v", name, a.DType, a.Shape, b.DType, b.Shape, err)
		}
	}
	a, b := got.Config.Fields(), want.Config.Fields()
	for _, field := range []string{"d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim", "encoder_attention_heads", "vocab_size",
		"max_source_positions", "max_target_positions", "decoder_start_token_id", "eos_token_id", "num_mel_bins"} {
		if x, y := a.Int(field, 0, 1<<30), b.Int(field, 0, 1<<30); x != y {
			t.Errorf("%s: found %d, wanted %d", field, x, y)
		}
	}
	if err := errors.Join(a.Err(), b.Err()); err != nil {
		t.Error(err)
	}
	g, err := got.Generation()
	if err != nil {
		t.Fatal(err)
	}
	if s := g.Fields().Ints("suppress_tokens", 0, 1<<30); !slices.Equal(s, []int64{1, 2}) {
		t.Errorf("suppress_tokens are %v", s)
	}
}

// Matrices of bytes keep them, and the scale of each row.
func TestWriteCT2Bytes(t *testing.T) {
	want := tinyWhisper(t)
	got, err := writeCT2(t, (&ct2Writer{t: t, ck: want, asBytes: true}).write())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.QuantizedNames()); n != 2*5+3*10+1 {
		t.Errorf("%d matrices are quantised: %v", n, got.QuantizedNames())
	}
	for _, name := range got.QuantizedNames() {
		q, _ := got.Quantized(name)
		codes, err1 := got.Data(name + checkpoint.CodesSuffix)
		scales, err2 := got.Data(name + checkpoint.ScalesSuffix)
		x, err3 := want.Data(name)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		numbers := tensor.View[float32](x.Aligned())
		for i, v := range numbers {
			row := int64(i) / q.K
			scale := fromHalf(half(scales.Data[2*(int64(i)/q.Block):]))
			if w := scale * (float32(codes.Data[i]) - 128); math.Abs(float64(w-v)) > float64(scale)*0.6 {
				t.Fatalf("%s[%d,%d] is %g, wanted %g", name, row, int64(i)%q.K, w, v)
			}
		}
	}
}

func TestWriteCT2Refused(t *testing.T) {
	want := tinyWhisper(t)
	dir := (&ct2Writer{t: t, ck: want}).write()
	file := filepath.Join(dir, "model.bin")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte) []byte{
		`spec: "WhisperSpex"`: func(b []byte) []byte { return []byte(strings.Replace(string(b), "WhisperSpec", "WhisperSpex", 1)) },
		"a Whisper model alone": func(b []byte) []byte {
			return []byte(strings.Replace(string(b), "encoder/num_heads", "encoder/num_horns", 1))
		},
		"encoder/conv1/weight": func(b []byte) []byte {
			return []byte(strings.Replace(string(b), "encoder/conv1/weight", "encoder/conv9/weight", 1))
		},
	} {
		if err := os.WriteFile(file, change(slices.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := writeCT2(t, dir)
		var e *checkpoint.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), name) {
			t.Errorf("found %v, wanted %q", err, name)
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "tokenizer.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := writeCT2(t, dir); err == nil || !strings.Contains(err.Error(), "tokenizer.json") {
		t.Errorf("found %v, wanted that there is no tokenizer", err)
	}
}
