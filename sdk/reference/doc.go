// Package reference computes ONNX graphs in plain Go: slow, right, the meaning of
// the graph contract and the judge in every conformance test.
//
// New makes a Program of a model; Run computes it. Operator.Eval computes a single
// node, for backends that leave their long tail to this package.
//
// Numbers are computed in float64, int64 or uint64 and rounded or wrapped once,
// when an operator's result is stored; sums of any length are taken in order, so
// results do not depend on the number of goroutines. Integers wrap as two's
// complement. What ONNX leaves open is stated where it is decided.
// Options.RoundLate rounds less often.
//
// Operators are rows of tables, a file a family: name, versions, signature,
// attributes, and the function that computes them. Of ONNX's default domain there
// is every version of every operator; forms of the first operator sets are
// translated to later ones (older.go). A node with an unknown
// operator, operator set, attribute or element type is refused (*UnsupportedError)
// before anything runs; values that do not fit end in a *NodeError that names node,
// operator and input. Memory is counted before it is taken (*MemoryError).
//
// Random numbers are drawn by a node's seed or by Options.Seed (random.go).
//
// The judge is judged by ONNX's own node tests, models and schemas, which
// testdata/nodetests.py writes to a folder, by ONNX Runtime where those are few
// (testdata/runtime.json, testdata/microsoft), by exports of real architectures,
// and by the contract's vectors.
package reference
