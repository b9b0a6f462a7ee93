package quantize

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/sdk/tensor"
)

// Ways to find the codes of a matrix.
const (
	Nearest    = "nearest"    // round over the whole range of a block
	Fit        = "fit"        // fit the scales and mins of blocks to the weights
	Calibrated = "calibrated" // fit what comes out of matrices for a sample of inputs
)

// Options say how a model is quantised.
type Options struct {
	// Precision is a name in policy/precision.yaml, see Precision; empty: as the policy
	// has it for the model's class.
	Precision string
	// Components have precisions of their own.
	Components map[string]string
	// Block is how many codes share a scale; 0: as the policy says.
	Block int64
	// Method is Nearest, Fit or Calibrated; empty: Calibrated where there is a sample, else
	// Fit.
	Method string
	// Sample is a file of texts, one a line, with which layers are calibrated and the
	// result is held against the model; empty: neither.
	Sample string
	// MaxLoss bounds the Loss, as a part; 0: as the policy has it for the precision.
	MaxLoss float64
	// MaxBytes bounds all weights; 0: as the policy has it for the precision.
	MaxBytes int64
	// Runtime runs the sample.
	Runtime Runtime
	// Progress is told how far a run is, from several goroutines but one at a time; nil:
	// nobody looks.
	Progress func(Progress)
}

// OptionError says that an option can't be had.
type OptionError struct{ Option, Found, Wanted string }

func (e *OptionError) Error() string {
	return fmt.Sprintf("%s: found %s, wanted %s", e.Option, e.Found, e.Wanted)
}

// Item is a tensor of the model that is quantised, and what becomes of it.
type Item struct {
	Name       string
	Components []string // whose graphs read it; none: it is no matrix that codes can stand for
	Role       string   // of several the one that decided
	Layer      int64    // -1: of no layer
	Stack      string   // what layers are counted in, such as .encoder
	Rows       int64
	Columns    int64  // product of all dimensions but the first
	Format     Format // zero: it stays as it is stored
	Why        string // of a format other than asked for; else empty

	precision string    // that chose it, see Options.Precision
	costs     []float64 // in each format of a mixture, what the weights are off by, as a part
	losses    []float64 // in each, what the model loses alone by it
	chosen    int       // of these

	shape   tensor.Shape
	stored  checkpoint.Quantized // how the source has it, where that is quantised
	quant   checkpoint.Quantized // how it will be stored, where that is quantised
	dtype   tensor.DType         // how it will be stored otherwise
	matrix  *models.Matrix       // nil: no matrix
	entries []checkpoint.Entry   // of the source: itself, or codes, scales and mins
}

// Weights is how many numbers it has.
func (it *Item) Weights() int64 { return it.Rows * it.Columns }

// Bytes is what is stored of it.
func (it *Item) Bytes() int64 {
	var n int64
	for _, t := range it.tensors() {
		size, err := tensor.ByteSize(t.DType, t.Shape)
		if err != nil {
			continue // of a tensor that is there in the source
		}
		n += size
	}
	return n
}

// tensors are those of the folder that stand for it, without data.
func (it *Item) tensors() map[string]tensor.Tensor {
	q := it.quant
	if q.Bits == 0 {
		return map[string]tensor.Tensor{it.Name: {DType: it.dtype, Shape: it.shape}}
	}
	m := map[string]tensor.Tensor{
		it.Name + checkpoint.CodesSuffix:  {DType: tensor.Uint8, Shape: q.CodesShape()},
		it.Name + checkpoint.ScalesSuffix: {DType: tensor.Float16, Shape: q.ScalesShape()},
	}
	if q.Mins {
		m[it.Name+checkpoint.MinsSuffix] = tensor.Tensor{DType: tensor.Float16, Shape: q.ScalesShape()}
	}
	return m
}

// Plan says what becomes of every tensor of a model.
type Plan struct {
	Class string
	Items []Item // by name
	// Left are tensors that no graph reads, which are left out.
	Left []string

	ck      *checkpoint.Checkpoint
	options Options
	accepts Accepted
	policy  *policy
	model   *models.Model
	before  *checkpoint.Checkpoint // an earlier attempt, or nil
	grams   *grams                 // nil: nothing is known of what matrices are multiplied with
}

// NewPlan chooses a format for every tensor of a checkpoint as the policy has it. The
// checkpoint must stay open while the plan is used. Errors are *PrecisionError,
// *OptionError, *checkpoint.Error and those of models.Load.
func NewPlan(ck *checkpoint.Checkpoint, o Options) (*Plan, error) {
	m, err := models.Load(ck, models.Options{})
	if err != nil {
		return nil, err
	}
	p := &Plan{Class: m.Class, ck: ck, policy: precisionPolicy(), accepts: Accepted{Loss: 1}, model: m}
	if err := p.setOptions(o); err != nil {
		return nil, err
	}
	matrices := map[string]*models.Matrix{}
	for i := range m.Matrices {
		matrices[m.Matrices[i].Name] = &m.Matrices[i]
	}
	read := map[string]bool{}
	for _, c := range m.Components {
		for _, in := range c.Graph.Graph.Initializers {
			read[in.Name] = true
		}
	}
	parts := map[string]bool{}
	for _, name := range ck.QuantizedNames() {
		q, _ := ck.Quantized(name)
		for _, suffix := range q.Suffixes() {
			parts[name+suffix] = true
		}
		if !read[name+checkpoint.CodesSuffix] {
			p.Left = append(p.Left, name)
			continue
		}
		if err := p.add(name, matrices[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range ck.Names() {
		switch {
		case parts[name]:
		case !read[name]:
			p.Left = append(p.Left, name)
		default:
			if err := p.add(name, matrices[name]); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(p.Items, func(a, b Item) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(p.Left)
	p.assign(matrices)
	return p, nil
}

func (p *Plan) setOptions(o Options) error {
	var err error
	if o.Precision != "" {
		if o.Precision, err = Precision(o.Precision); err != nil {
			return err
		}
		if a, ok := p.policy.Accepted[o.Precision]; ok {
			p.accepts = a
		}
	}
	own := map[string]string{}
	for component, name := range o.Components {
		if own[component], err = Precision(name); err != nil {
			return fmt.Errorf("component %s: %w", component, err)
		}
	}
	o.Components = own
	if o.Block != 0 && (o.Block < 16 || o.Block > 1<<10 || o.Block&(o.Block-1) != 0) {
		return &OptionError{"block", fmt.Sprint(o.Block), "a power of two from 16 to 1024"}
	}
	switch o.Method {
	case "":
		o.Method = Fit
		if o.Sample != "" {
			o.Method = Calibrated
		}
	case Nearest, Fit, Calibrated:
	default:
		return &OptionError{"method", fmt.Sprintf("%q", o.Method), Nearest + ", " + Fit + " or " + Calibrated}
	}
	if o.Method == Calibrated && o.Sample == "" {
		return &OptionError{"method", Calibrated, "a sample with it"}
	}
	if o.Sample != "" && o.Runtime == nil {
		return &OptionError{"sample", o.Sample, "something to run it on"}
	}
	if o.MaxLoss > 0 {
		p.accepts.Loss = o.MaxLoss
	}
	p.options = o
	return nil
}

// precision is that of a component.
func (p *Plan) precision(component string) string {
	if name := p.options.Components[component]; name != "" {
		return name
	}
	if p.options.Precision != "" {
		return p.options.Precision
	}
	class := p.policy.Classes[p.Class]
	if class == nil {
		class = p.policy.Classes[restKey]
	}
	if name := class[component]; name != "" {
		return name
	}
	return class[restKey]
}

// add adds a tensor, for which nothing is chosen yet.
func (p *Plan) add(name string, m *models.Matrix) error {
	it := Item{Name: name, Layer: -1, Role: RoleOther, matrix: m}
	names := []string{name}
	if q, ok := p.ck.Quantized(name); ok {
		names = nil
		for _, suffix := range q.Suffixes() {
			names = append(names, name+suffix)
		}
		it.stored, it.shape = q, tensor.Shape{q.N, q.K}
	}
	for _, n := range names {
		e, err := p.ck.Tensor(n)
		if err != nil {
			return err
		}
		it.entries = append(it.entries, e)
	}
	if it.stored.Bits == 0 {
		it.shape = it.entries[0].Shape
	}
	it.Rows, it.Columns = 1, 1
	for i, d := range it.shape {
		if i == 0 && len(it.shape) > 1 {
			it.Rows = d
		} else {
			it.Columns *= d
		}
	}
	p.Items = append(p.Items, it)
	return nil
}

// assign chooses formats.
func (p *Plan) assign(matrices map[string]*models.Matrix) {
	last := map[string]int64{}
	for _, m := range matrices {
		for _, u := range m.Uses {
			stack, layer := layerOf(u.Scope())
			last[stack] = max(last[stack], layer)
		}
	}
	for i := range p.Items {
		it := &p.Items[i]
		if it.matrix == nil {
			it.keep(p.sixteen())
			continue
		}
		var best Format
		for _, u := range it.matrix.Uses {
			if !slices.Contains(it.Components, u.Component) {
				it.Components = append(it.Components, u.Component)
			}
			stack, layer := layerOf(u.Scope())
			if layer >= 0 {
				it.Stack, it.Layer = stack, layer
			}
			role := p.policy.role(u)
			c := p.policy.Precisions[p.precision(u.Component)]
			name := cmp.Or(c.Roles[role], c.Rest)
			if c.Ends != "" && layer >= 0 && (layer == 0 || layer == last[stack]) && p.policy.Formats[c.Ends].Bits > p.policy.Formats[name].Bits {
				name = c.Ends
			}
			if f := p.policy.Formats[name]; f.BitsPerWeight() > best.BitsPerWeight() || best.Bits == 0 {
				best, it.Role, it.precision = f, role, p.precision(u.Component)
			}
		}
		p.give(it, best)
	}
}

// sixteen is the type of 16 bits for what has no codes.
func (p *Plan) sixteen() tensor.DType {
	if p.options.Precision == "bf16" {
		return tensor.BFloat16
	}
	return tensor.Float16
}

// keep stores a tensor without codes. Vectors stay as they are: there is little of them,
// and much depends on it.
func (it *Item) keep(sixteen tensor.DType) {
	it.Format, it.quant = Format{}, checkpoint.Quantized{}
	if it.stored.Bits > 0 {
		it.quant = it.stored
		return
	}
	it.dtype = it.entries[0].DType
	if wide := it.dtype == tensor.Float32 || it.dtype == tensor.Float64; wide && len(it.shape) > 1 {
		it.dtype = sixteen
	}
}

// leastBlock is the smallest block that pays: below it scales take more than codes.
const leastBlock = 8

// give stores a matrix in a format, as far as its rows can be cut into blocks.
func (p *Plan) give(it *Item, f Format) {
	it.Why = ""
	if p.options.Block > 0 && f.Bits < 16 {
		f.Block = p.options.Block
	}
	if f.Bits == 16 {
		it.Format, it.quant, it.dtype = f, checkpoint.Quantized{}, map[string]tensor.DType{"f16": tensor.Float16, "bf16": tensor.BFloat16}[f.Name]
		return
	}
	block := fitting(it.Columns, f.Block)
	if block < leastBlock || it.Columns*f.Bits%8 != 0 {
		it.keep(p.sixteen())
		it.Why = fmt.Sprintf("rows of %d can't be cut into blocks of %d to %d", it.Columns, leastBlock, f.Block)
		return
	}
	if block != f.Block {
		it.Why = fmt.Sprintf("rows of %d are cut into blocks of %d", it.Columns, block)
		f.Block = block
	}
	it.Format = f
	it.quant = checkpoint.Quantized{Operator: checkpoint.MatMulBlocks, Bits: f.Bits, Block: f.Block, N: it.Rows, K: it.Columns, Mins: f.Mins}
	lookup := slices.ContainsFunc(it.matrix.Uses, func(u models.Use) bool { return u.Lookup })
	// MatMulNBits is what most runtimes know. GatherBlocks reads its layout at 8 and 4 bits.
	if nbits := f.Bits == 8 || f.Bits == 4 || f.Bits == 2 && !lookup; nbits && !f.Mins && block >= 16 && block&(block-1) == 0 {
		it.quant.Operator = checkpoint.MatMulNBits
	}
}

// fitting is the largest block, up to one wanted, that rows divide into: a power of two if
// one of 16 or more does, for which kernels are made.
func fitting(columns, block int64) int64 {
	for b := block; b >= 16; b /= 2 {
		if columns%b == 0 {
			return b
		}
	}
	for b := block; b > 1; b-- {
		if columns%b == 0 {
			return b
		}
	}
	return 1
}

// Size is what weights take.
type Size struct {
	Bytes   int64 `json:"bytes"`    // of all tensors, scales and mins included
	Sixteen int64 `json:"bytes_16"` // of the same tensors with 16 bits a number
}

// Smaller is how much smaller than 16 bits it is, as a part.
func (s Size) Smaller() float64 { return 1 - float64(s.Bytes)/float64(s.Sixteen) }

// Size is what the weights will take.
func (p *Plan) Size() Size {
	var s Size
	for i := range p.Items {
		s.Bytes += p.Items[i].Bytes()
		s.Sixteen += 2 * p.Items[i].Weights()
	}
	return s
}

// config is the config.json of the folder.
func (p *Plan) config() map[string]any {
	c := map[string]any{}
	for name, v := range p.ck.Config.Raw() {
		c[name] = v
	}
	tensors := map[string]checkpoint.Quantized{}
	for i := range p.Items {
		if it := &p.Items[i]; it.quant.Bits > 0 {
			tensors[it.Name] = it.quant
		}
	}
	delete(c, "quantization_config")
	if len(tensors) > 0 {
		c["quantization_config"] = checkpoint.QuantizationConfig(tensors)
	}
	return c
}
