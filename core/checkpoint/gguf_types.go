package checkpoint

import "github.com/accelhq/accel/sdk/tensor"

// GGUFType is an element type of the GGUF format: a row is blocks of Block elements,
// of Bytes bytes each.
type GGUFType struct {
	Name  string
	Block int64
	Bytes int64
	DType tensor.DType // where an element stands alone; Undefined for blocks
}

// ggufTypes are the element types of the format by number, those that are never
// read included, so that files with them open and errors can name them. Numbers
// that are missing were given up by the format.
var ggufTypes = map[uint32]GGUFType{
	0:  {"F32", 1, 4, tensor.Float32},
	1:  {"F16", 1, 2, tensor.Float16},
	2:  {Name: "Q4_0", Block: 32, Bytes: 18},
	3:  {Name: "Q4_1", Block: 32, Bytes: 20},
	6:  {Name: "Q5_0", Block: 32, Bytes: 22},
	7:  {Name: "Q5_1", Block: 32, Bytes: 24},
	8:  {Name: "Q8_0", Block: 32, Bytes: 34},
	9:  {Name: "Q8_1", Block: 32, Bytes: 40},
	10: {Name: "Q2_K", Block: 256, Bytes: 84},
	11: {Name: "Q3_K", Block: 256, Bytes: 110},
	12: {Name: "Q4_K", Block: 256, Bytes: 144},
	13: {Name: "Q5_K", Block: 256, Bytes: 176},
	14: {Name: "Q6_K", Block: 256, Bytes: 210},
	15: {Name: "Q8_K", Block: 256, Bytes: 292},
	16: {Name: "IQ2_XXS", Block: 256, Bytes: 66},
	17: {Name: "IQ2_XS", Block: 256, Bytes: 74},
	18: {Name: "IQ3_XXS", Block: 256, Bytes: 98},
	19: {Name: "IQ1_S", Block: 256, Bytes: 50},
	20: {Name: "IQ4_NL", Block: 32, Bytes: 18},
	21: {Name: "IQ3_S", Block: 256, Bytes: 110},
	22: {Name: "IQ2_S", Block: 256, Bytes: 82},
	23: {Name: "IQ4_XS", Block: 256, Bytes: 136},
	24: {"I8", 1, 1, tensor.Int8},
	25: {"I16", 1, 2, tensor.Int16},
	26: {"I32", 1, 4, tensor.Int32},
	27: {"I64", 1, 8, tensor.Int64},
	28: {"F64", 1, 8, tensor.Float64},
	29: {Name: "IQ1_M", Block: 256, Bytes: 56},
	30: {"BF16", 1, 2, tensor.BFloat16},
	34: {Name: "TQ1_0", Block: 256, Bytes: 54},
	35: {Name: "TQ2_0", Block: 256, Bytes: 66},
	39: {Name: "MXFP4", Block: 32, Bytes: 17},
	40: {Name: "NVFP4", Block: 64, Bytes: 36},
	41: {Name: "Q1_0", Block: 128, Bytes: 18},
}

// ggufKind is the type of a value of a GGUF file's metadata.
type ggufKind uint32

const (
	kindUint8 ggufKind = iota
	kindInt8
	kindUint16
	kindInt16
	kindUint32
	kindInt32
	kindFloat32
	kindBool
	kindString
	kindArray
	kindUint64
	kindInt64
	kindFloat64
)

// ggufKinds are the kinds' names and sizes in bytes; 0: as long as it says.
var ggufKinds = []struct {
	name string
	size int
}{
	kindUint8: {"uint8", 1}, kindInt8: {"int8", 1}, kindUint16: {"uint16", 2}, kindInt16: {"int16", 2}, kindUint32: {"uint32", 4}, kindInt32: {"int32", 4},
	kindFloat32: {"float32", 4}, kindBool: {"bool", 1}, kindString: {"string", 0}, kindArray: {"array", 0}, kindUint64: {"uint64", 8},
	kindInt64: {"int64", 8}, kindFloat64: {"float64", 8},
}

func (k ggufKind) String() string { return ggufKinds[k].name }

// GGUFTypeNamed finds an element type by its name.
func GGUFTypeNamed(name string) (GGUFType, bool) {
	for _, t := range ggufTypes {
		if t.Name == name {
			return t, true
		}
	}
	return GGUFType{}, false
}
