package tensorfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

func anything(tensor.DType, tensor.Shape) error { return nil }

func value(name string, t *graph.Type) *graph.Value { return &graph.Value{Name: name, Type: t} }

func one(t tensor.Tensor) graph.Datum { return graph.Datum{Kind: graph.KindTensor, Tensor: t} }

// TestReadsWhatNumPyWrites holds every file of testdata/make.py against what NumPy
// says is in it.
func TestReadsWhatNumPyWrites(t *testing.T) {
	data, err := os.ReadFile("testdata/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]struct {
		Type   string
		Shape  tensor.Shape
		Values []any
	}
	if err := json.Unmarshal(data, &expected); err != nil {
		t.Fatal(err)
	}
	if len(expected) < 30 {
		t.Fatalf("only %d files are expected", len(expected))
	}
	for name, want := range expected {
		t.Run(name, func(t *testing.T) {
			got, err := readFile(filepath.Join("testdata", name+".npy"), anything)
			if err != nil {
				t.Fatal(err)
			}
			if got.DType.String() != want.Type || !got.Shape.Equal(want.Shape) {
				t.Fatalf("got %s%v, want %s%v", got.DType, got.Shape, want.Type, want.Shape)
			}
			for i, w := range want.Values {
				if g := elementText(t, got, i); g != fmt.Sprint(w) {
					t.Errorf("element %d is %s, want %v", i, g, w)
				}
			}
			again := roundTrip(t, got)
			if again.DType != got.DType || !again.Shape.Equal(got.Shape) || !bytes.Equal(again.Data, got.Data) || !slices.Equal(again.Strings, got.Strings) {
				t.Errorf("written and read again it is %s%v", again.DType, again.Shape)
			}
		})
	}
}

// elementText writes an element as testdata/make.py does: floats as Python's hex().
func elementText(t *testing.T, x tensor.Tensor, i int) string {
	t.Helper()
	hex := func(f float64) string {
		switch {
		case math.IsNaN(f):
			return "nan"
		case math.IsInf(f, 0):
			return strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(f, 'g', -1, 64)), "+")
		}
		mant, exp := math.Frexp(f)
		sign := ""
		if math.Signbit(f) {
			sign, mant = "-", -mant
		}
		if f == 0 {
			return sign + "0x0.0p+0"
		}
		return fmt.Sprintf("%s0x1.%013xp%+d", sign, uint64(math.Float64bits(mant)&(1<<52-1)), exp-1)
	}
	switch x.DType {
	case tensor.Complex64:
		c := tensor.View[complex64](x)[i]
		return fmt.Sprint([]any{hex(float64(real(c))), hex(float64(imag(c)))})
	case tensor.Complex128:
		c := tensor.View[complex128](x)[i]
		return fmt.Sprint([]any{hex(real(c)), hex(imag(c))})
	}
	v, err := Elements(x)
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := v.Number(i); ok && x.DType.IsFloat() {
		return hex(f)
	}
	return v.Text(i)
}

func roundTrip(t *testing.T, x tensor.Tensor) tensor.Tensor {
	t.Helper()
	var b bytes.Buffer
	if err := WriteNPY(&b, x); err != nil {
		t.Fatal(err)
	}
	if i := bytes.IndexByte(b.Bytes(), '\n'); (i+1)%npyAlign != 0 {
		t.Errorf("the data begins at byte %d", i+1)
	}
	out, err := readNPY(&b, int64(b.Len()), anything)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRefusesWhatIsNoTensor(t *testing.T) {
	for name, want := range map[string]string{
		"pickle": "pickled", "record": "fields", "longdouble": "no counterpart", "datetime": "no counterpart", "opaque": ".pb",
	} {
		_, err := readFile(filepath.Join("testdata", "refused", name+".npy"), anything)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an *Error that says %q", name, err, want)
		}
	}
}

func TestDamagedArrays(t *testing.T) {
	header := func(text string) []byte {
		text += strings.Repeat(" ", 53) + "\n"
		return append([]byte{0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, byte(len(text)), byte(len(text) >> 8)}, text...)
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":        {nil, "no NumPy array"},
		"another file":   {[]byte("PK\x03\x04 and more"), "no NumPy array"},
		"version 9":      {[]byte("\x93NUMPY\x09\x00\x00\x00"), "9.0"},
		"no header":      {[]byte("\x93NUMPY\x01\x00\xff\x00"), "cut off"},
		"huge header":    {[]byte("\x93NUMPY\x02\x00\xff\xff\xff\xff"), "longer than any"},
		"no dict":        {header("[1, 2]"), "can't be read"},
		"key twice":      {header("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (), }"), "can't be read"},
		"key missing":    {header("{'descr': '<f4', 'shape': ()}"), "can't be read"},
		"key unknown":    {header("{'descr': '<f4', 'order': False, 'shape': ()}"), "order"},
		"negative":       {header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"), "can't be read"},
		"overflow":       {header("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }"), "more elements"},
		"larger than it": {header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"), "4000000000000 bytes"},
		"wide texts":     {header("{'descr': '<U536870911', 'fortran_order': False, 'shape': (8589934592,), }"), "too large"},
		"empty texts":    {header("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,), }"), "no counterpart"},
		"longer":         {append(header("{'descr': '<i1', 'fortran_order': False, 'shape': (1,), }"), 1, 2), "it holds 2"},
		"bad bool":       {append(header("{'descr': '|b1', 'fortran_order': False, 'shape': (1,), }"), 7), "byte 7"},
		"bad character":  {append(header("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }"), 0, 0xd8, 0, 0), "no character"},
	} {
		_, err := readNPY(bytes.NewReader(tt.data), int64(len(tt.data)), anything)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestArchives(t *testing.T) {
	declared := []*graph.Value{
		value("ids", graph.TensorType(tensor.Int64, graph.Sym("batch"), graph.Sym("sequence"))),
		value("mask", graph.TensorType(tensor.Int64, graph.Sym("batch"), graph.Sym("sequence"))),
	}
	for _, file := range []string{"named", "packed", "unnamed"} {
		in := &Inputs{Declared: declared}
		if err := in.All(filepath.Join("testdata", file+".npz")); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		ids, mask := in.Values()["ids"].Tensor, in.Values()["mask"].Tensor
		if got := tensor.View[int64](ids); !slices.Equal(got, []int64{0, 1, 2, 3, 4, 5}) || !mask.Shape.Equal(tensor.Shape{2, 3}) {
			t.Errorf("%s: ids %v, mask %v", file, got, mask.Shape)
		}
	}
	in := &Inputs{Declared: declared[:1]}
	var unknown *InputError
	if err := in.All("testdata/named.npz"); !errors.As(err, &unknown) || unknown.Input != "mask" {
		t.Errorf("an entry that is no input: %v", err)
	}
	if err := in.File("ids", "testdata/named.npz"); err != nil || in.Values()["ids"].Tensor.Len() != 6 {
		t.Errorf("one of an archive: %v", err)
	}
	in.Declared = []*graph.Value{value("x", nil)}
	if err := in.File("x", "testdata/named.npz"); err == nil || !strings.Contains(err.Error(), `"ids", "mask"`) {
		t.Errorf("neither of an archive: %v", err)
	}
}

// TestBombs are archives that would unpack to more than there is.
func TestBombs(t *testing.T) {
	header := func(n int64) []byte {
		var b bytes.Buffer
		if err := WriteNPY(&b, tensor.Tensor{DType: tensor.Int8, Shape: tensor.Shape{0}}); err != nil {
			t.Fatal(err)
		}
		return bytes.Replace(b.Bytes(), []byte("(0,), }"+strings.Repeat(" ", 20)), fmt.Appendf(nil, "%-27s", fmt.Sprintf("(%d,), }", n)), 1)
	}
	archive := func(method uint16, n int64, patch func([]byte)) string {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		w, err := z.CreateHeader(&zip.FileHeader{Name: "x.npy", Method: method})
		if err != nil {
			t.Fatal(err)
		}
		w.Write(header(n))
		io.CopyN(w, zeros{}, min(n, 1<<20))
		z.Close()
		if patch != nil {
			patch(b.Bytes())
		}
		path := filepath.Join(t.TempDir(), "x.npz")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// The directory at the end: packed and unpacked size at 20 and 24.
	sizes := func(packed, unpacked uint32) func([]byte) {
		return func(b []byte) {
			at := bytes.LastIndex(b, []byte("PK\x01\x02"))
			if packed != 0 {
				binary.LittleEndian.PutUint32(b[at+20:], packed)
			}
			binary.LittleEndian.PutUint32(b[at+24:], unpacked)
		}
	}
	free := value("x", &graph.Type{Kind: graph.KindTensor, Elem: tensor.Int8})
	small := value("x", graph.TensorType(tensor.Int8, graph.Known(4)))
	for name, tt := range map[string]struct {
		path string
		to   *graph.Value
		want string
	}{
		"as it should be":    {archive(zip.Deflate, 1<<20, nil), free, ""},
		"larger than wanted": {archive(zip.Deflate, 1<<20, nil), small, "the model takes"},
		"claims 4 GiB":       {archive(zip.Deflate, 1<<20, sizes(0, math.MaxUint32-1)), free, "which no data does"},
		"claims to be stored": {archive(zip.Store, 100, sizes(math.MaxUint32-1, math.MaxUint32-1)), free,
			"of an archive of"},
		"header claims more": {archive(zip.Deflate, 1<<40, nil), free, "it holds 1048576"},
		"unpacks to more":    {archive(zip.Deflate, 1<<20, sizes(0, 1<<20)), free, "it holds"},
	} {
		in := &Inputs{Declared: []*graph.Value{tt.to}}
		err := in.All(tt.path)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestJSON(t *testing.T) {
	free := func(d tensor.DType) *graph.Type { return &graph.Type{Kind: graph.KindTensor, Elem: d} }
	f32 := func(dims ...graph.Dim) *graph.Type { return graph.TensorType(tensor.Float32, dims...) }
	for _, tt := range []struct {
		text string
		as   *graph.Type
		want string // type, shape and elements; or what the error says
	}{
		{`3`, free(tensor.Float32), "float32[] 3"},
		{`[1, 2.5, -3e2]`, free(tensor.Float32), "float32[3] 1 2.5 -300"},
		{" [[1,2],\n[3,4]] ", free(tensor.Int64), "int64[2,2] 1 2 3 4"},
		{`["NaN", "Infinity", -Infinity, NaN]`, free(tensor.Float64), "float64[4] NaN Infinity -Infinity NaN"},
		{`[true, false]`, free(tensor.Bool), "bool[2] true false"},
		{`["a", "é\n"]`, free(tensor.String), "string[2] a é\n"},
		{`[0, 18446744073709551615]`, free(tensor.Uint64), "uint64[2] 0 18446744073709551615"},
		{`[-8, 7]`, free(tensor.Int4), "int4[2] -8 7"},
		{`[-2, 1]`, free(tensor.Int2), "int2[2] -2 1"},
		{`[0.5, 65504]`, free(tensor.Float16), "float16[2] 0.5 65504"},
		{`[1.5]`, free(tensor.BFloat16), "bfloat16[1] 1.5"},
		{`[0.5, -448]`, free(tensor.Float8E4M3), "float8e4m3fn[2] 0.5 -448"},
		{`[]`, free(tensor.Float32), "float32[0]"},
		{`[[], []]`, free(tensor.Float32), "float32[2,0]"},
		{`[[], []]`, f32(graph.Known(2), graph.Sym("past"), graph.Known(8)), "float32[2,0,8]"},
		{`[[1],[2,3]]`, free(tensor.Float32), "2 entries"},
		{`[1,[2]]`, free(tensor.Float32), "not equally deep"},
		{`[[1],2]`, free(tensor.Float32), "not equally deep"},
		{`[[[]],[[[]]]]`, f32(graph.Known(2), graph.Known(1)), "lie more than 2 deep"},
		{`[[[1]]]`, f32(graph.Known(1), graph.Known(1)), "lie more than 2 deep"},
		{`[1,2,3]`, f32(graph.Known(2)), "dimension 0 is 2"},
		{`[1.5]`, free(tensor.Int64), "1.5 is no int64"},
		{`[128]`, free(tensor.Int8), "-128 to 127"},
		{`[-1]`, free(tensor.Uint8), "0 to 255"},
		{`[-1]`, free(tensor.Uint64), "is no uint64"},
		{`[1e39]`, free(tensor.Float32), "does not fit into float32"},
		{`[1e6]`, free(tensor.Float16), "does not fit into float16"},
		{`["1"]`, free(tensor.Float32), `"1" is no float32`},
		{`[true]`, free(tensor.Float32), "true is no float32"},
		{`[1]`, free(tensor.Bool), "1 is no bool"},
		{`[0x10]`, free(tensor.Float32), "0x10 is no float32"},
		{`[1_0]`, free(tensor.Float32), "want , or ]"},
		{`[inf]`, free(tensor.Float32), "inf is no float32"},
		{`[1`, free(tensor.Float32), "want , or ]"},
		{`[1,]`, free(tensor.Float32), "want a value"},
		{`[1] 2`, free(tensor.Float32), "follows the end"},
		{`"a`, free(tensor.String), "does not end"},
		{`{"a": 1}`, free(tensor.Float32), "want a value"},
		{strings.Repeat("[", 100), free(tensor.Float32), "64 deep"},
		{`1`, free(tensor.Undefined), "does not say"},
		{`1`, free(tensor.Complex64), "complex"},
		{`1`, &graph.Type{Kind: graph.KindSequence}, ".pb"},
	} {
		in := &Inputs{Declared: []*graph.Value{value("x", tt.as)}}
		err := in.JSON("x", tt.text, "")
		got := ""
		if err == nil {
			x := in.Values()["x"].Tensor
			got = x.DType.String() + x.Shape.String()
			v, err := Elements(x)
			if err != nil {
				t.Errorf("%s: %v", tt.text, err)
			}
			for i := range v.Len() {
				got += " " + v.Text(i)
			}
			if got != tt.want {
				t.Errorf("%s as %s: %s, want %s", tt.text, tt.as.Elem, got, tt.want)
			}
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s as %s: %v, want %q", tt.text, tt.as.Elem, err, tt.want)
		}
	}
}

// TestRoundTrips writes every element type and reads it again.
func TestRoundTrips(t *testing.T) {
	for d := tensor.Float32; d.Valid(); d++ {
		var x tensor.Tensor
		switch d {
		case tensor.String:
			x = tensor.Tensor{DType: d, Shape: tensor.Shape{2}, Strings: []string{"a", `b"é`}}
		case tensor.Bool:
			x = tensor.Of(d, tensor.Shape{2}, []bool{true, false})
		case tensor.Complex64:
			x = tensor.Of(d, tensor.Shape{1}, []complex64{complex(1, -2)})
		case tensor.Complex128:
			x = tensor.Of(d, tensor.Shape{1}, []complex128{complex(1, -2)})
		default:
			var err error
			if x, err = Cast(tensor.Floats(tensor.Shape{2, 2}, 1, 0, 1, 1), d); err != nil {
				t.Fatal(err)
			}
		}
		declared := []*graph.Value{value("a/b", &graph.Type{Kind: graph.KindTensor, Elem: d})}
		values := []Named{{"a/b", one(x)}}
		dir := t.TempDir()
		for _, path := range []string{dir + "/x.npy", dir + "/x.npz", dir + "/x.pb", dir + "/x.json", dir + "/folder"} {
			_, inNumPy := npyCode(d)
			complexType := d == tensor.Complex64 || d == tensor.Complex128
			refused := strings.Contains(path, ".np") && !inNumPy && d != tensor.String || strings.HasSuffix(path, ".json") && complexType
			written, err := (Target{Path: path}).Write(values)
			if refused {
				var e *Error
				if !errors.As(err, &e) || !strings.Contains(e.Remedy, ".pb") {
					t.Errorf("%s of %s: %v, want an *Error that names .pb", path, d, err)
				}
				if _, err := os.Stat(path); err == nil {
					t.Errorf("%s was left behind", path)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s of %s: %v", path, d, err)
				continue
			}
			in := &Inputs{Declared: declared}
			if f, _ := FormatOf(path); f == NPY {
				err = in.File("a/b", written[0].File)
			} else {
				err = in.All(path)
			}
			if err != nil {
				t.Errorf("%s of %s: %v", path, d, err)
				continue
			}
			got := in.Values()["a/b"].Tensor
			if got.DType != d || !got.Shape.Equal(x.Shape) || !bytes.Equal(got.Data, x.Data) || !slices.Equal(got.Strings, x.Strings) {
				t.Errorf("%s: wrote %s%v %v, read %s%v %v", path, d, x.Shape, x.Data, got.DType, got.Shape, got.Data)
			}
		}
	}
}

// TestContainers: sequences and optionals go as .pb, by themselves in a folder.
func TestContainers(t *testing.T) {
	f32 := &graph.Type{Kind: graph.KindTensor, Elem: tensor.Float32}
	declared := []*graph.Value{value("list", &graph.Type{Kind: graph.KindSequence, Of: f32}), value("maybe", &graph.Type{Kind: graph.KindOptional, Of: f32})}
	x := one(tensor.Floats(tensor.Shape{2}, 1, 2))
	values := []Named{{"list", graph.Datum{Kind: graph.KindSequence, Sequence: []graph.Datum{x, one(tensor.Floats(nil, 3))}}},
		{"maybe", graph.Datum{Kind: graph.KindOptional, Optional: &x}}}
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := (Target{Path: dir}).Write(values); err != nil {
		t.Fatal(err)
	}
	in := &Inputs{Declared: declared}
	if err := in.All(dir); err != nil {
		t.Fatal(err)
	}
	list, maybe := in.Values()["list"], in.Values()["maybe"]
	if len(list.Sequence) != 2 || !list.Sequence[0].Tensor.Shape.Equal(tensor.Shape{2}) || maybe.Optional == nil || maybe.Optional.Tensor.DType != tensor.Float32 {
		t.Errorf("got %+v", in.Values())
	}
	for _, f := range []Format{NPY, NPZ, JSON} {
		var e *Error
		if _, err := (Target{Path: dir, Format: f}).Write(values); !errors.As(err, &e) || !strings.Contains(e.Remedy, ".pb") {
			t.Errorf("%s: %v, want an *Error that names .pb", f, err)
		}
	}
	// A tensor is no sequence, nor the other way round.
	in = &Inputs{Declared: []*graph.Value{value("list", f32)}}
	if err := in.File("list", filepath.Join(dir, "list.pb")); err == nil {
		t.Error("a sequence was taken for a tensor")
	}
}

func TestInputsAreHeldAgainstTheModel(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, x tensor.Tensor) string {
		path := filepath.Join(dir, name)
		if _, err := (Target{Path: path}).Write([]Named{{"x", one(x)}}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	f64 := write("f64.npy", tensor.Of(tensor.Float64, tensor.Shape{2}, []float64{1.5, -2}))
	f32 := write("f32.npy", tensor.Floats(tensor.Shape{2, 1}, 1, 2))
	text := write("text.npy", tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{1}, Strings: []string{"a"}})
	vector := graph.TensorType(tensor.Float32, graph.Sym("n"))
	for name, tt := range map[string]struct {
		declared *graph.Value
		cast     bool
		input    string
		path     string
		want     string
	}{
		"another type":     {value("x", vector), false, "x", f64, "it is float64, the model takes float32; convert it (NumPy: x.astype('float32')), or allow the conversion with --cast"},
		"cast":             {value("x", vector), true, "x", f64, ""},
		"texts never cast": {value("x", vector), true, "x", text, "it is string"},
		"another rank":     {value("x", vector), false, "x", f32, "2 dimensions, the model takes float32 [n]"},
		"another size":     {value("x", graph.TensorType(tensor.Float32, graph.Known(2), graph.Known(3))), false, "x", f32, "dimension 1 is 3"},
		"a near name":      {value("input_ids", vector), false, "inputids", f32, `did you mean "input_ids"?`},
		"no near name":     {value("input_ids", vector), false, "zzz", f32, `it has "input_ids"`},
		"no file":          {value("x", vector), false, "x", filepath.Join(dir, "none.npy"), "there is no such file"},
		"no format":        {value("x", vector), false, "x", "tensorfile_test.go", ".npy, .npz, .pb or .json"},
		"a sequence":       {value("x", &graph.Type{Kind: graph.KindSequence, Of: vector}), false, "x", f32, "the model takes sequence of float32 [n]"},
	} {
		in := &Inputs{Declared: []*graph.Value{tt.declared}, Cast: tt.cast}
		err := in.File(tt.input, tt.path)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if g, ok := in.Given(tt.input); ok && (g.Was != tensor.Float64 || g.Value.Tensor.DType != tensor.Float32) {
			t.Errorf("%s: it is %s, was %s", name, g.Value.Tensor.DType, g.Was)
		}
	}
}

func TestTestSets(t *testing.T) {
	dir := t.TempDir()
	a, b := tensor.Floats(tensor.Shape{1}, 1), tensor.Ints(tensor.Shape{1}, 2)
	if err := WriteTestSet(dir, []Named{{"a", one(a)}, {"b", one(b)}}, []Named{{"y", one(a)}}); err != nil {
		t.Fatal(err)
	}
	// Under other names they stand for the inputs in order.
	for _, names := range [][]string{{"a", "b"}, {"p", "q"}} {
		in := &Inputs{Declared: []*graph.Value{value(names[0], graph.TensorType(tensor.Float32, graph.Known(1))), value(names[1], graph.TensorType(tensor.Int64, graph.Known(1)))}}
		if err := in.All(dir); err != nil {
			t.Errorf("%v: %v", names, err)
		}
		if len(in.Values()) != 2 || tensor.View[int64](in.Values()[names[1]].Tensor)[0] != 2 {
			t.Errorf("%v: got %v", names, in.Values())
		}
	}
	in := &Inputs{Declared: []*graph.Value{value("a", nil)}}
	if err := in.All(dir); err == nil || !strings.Contains(err.Error(), "1 inputs only") {
		t.Errorf("more than the model's inputs: %v", err)
	}
}

// TestHostileNames: a value may be called anything, its file lies in the folder.
func TestHostileNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	for _, name := range []string{"../../x", "/etc/x", "a\x00b", ".", "..", "", "con:1", `a\b`, "%41"} {
		w, err := (Target{Path: dir}).Write([]Named{{name, one(tensor.Floats(nil, 1))}})
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if filepath.Dir(w[0].File) != dir {
			t.Errorf("%q was written to %s", name, w[0].File)
		}
		in := &Inputs{Declared: []*graph.Value{value(name, nil)}}
		if err := in.All(dir); name != "" && err != nil {
			t.Errorf("%q: %v", name, err)
		}
		os.RemoveAll(dir)
	}
}

func FuzzNPY(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.npy")
	for _, p := range files {
		data, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := readNPY(bytes.NewReader(data), int64(len(data)), anything)
		if err != nil {
			return
		}
		if err := x.Check(); err != nil {
			t.Fatal(err)
		}
		again := roundTrip(t, x)
		if again.DType != x.DType || !again.Shape.Equal(x.Shape) || !bytes.Equal(again.Data, x.Data) || !slices.Equal(again.Strings, x.Strings) {
			t.Fatalf("%s%v came back as %s%v", x.DType, x.Shape, again.DType, again.Shape)
		}
	})
}

func FuzzNPZ(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.npz")
	for _, p := range files {
		data, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := listNPZ(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for _, e := range s.entries {
			if d, err := e.read(nil, anything); err == nil {
				if err := d.Tensor.Check(); err != nil {
					t.Fatalf("%s: %v", e.label, err)
				}
			}
		}
	})
}

func FuzzJSON(f *testing.F) {
	for _, text := range []string{`[[1,2],[3,4]]`, `{"x": [1.5, "NaN"], "y": true}`, `["a\u00e9"]`, `[[[]]]`, `-1e-3`, `{}`} {
		for d := tensor.Float32; d.Valid(); d++ {
			f.Add([]byte(text), uint8(d), uint8(2))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, elem, rank uint8) {
		d := tensor.DType(elem)
		if !d.Valid() {
			return
		}
		want := &graph.Type{Kind: graph.KindTensor, Elem: d}
		if rank < 8 {
			want.HasShape = true
			for range rank {
				want.Dims = append(want.Dims, graph.Dim{Size: -1})
			}
		}
		if _, values, err := jsonObject(data); err == nil {
			for _, v := range values {
				parseJSON(v, want, anything)
			}
		}
		v := value("x", want)
		x, err := parseJSON(data, want, func(d tensor.DType, s tensor.Shape) error { return Check(v, d, s, "") })
		if err != nil {
			return
		}
		if err := x.Check(); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := WriteJSON(&b, []Named{{"x", one(x)}}); err != nil {
			t.Fatal(err)
		}
		_, values, err := jsonObject(b.Bytes())
		if err != nil {
			t.Fatalf("%s: %v", b.Bytes(), err)
		}
		again, err := parseJSON(values["x"], want, anything)
		if err != nil {
			t.Fatalf("%s: %v", b.Bytes(), err)
		}
		if again.Len() != x.Len() || x.Len() > 0 && !again.Shape.Equal(x.Shape) {
			t.Fatalf("%v came back as %v", x.Shape, again.Shape)
		}
	})
}
