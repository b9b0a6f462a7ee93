package graph

import (
	"errors"
	"fmt"
	"strconv"
)

// CheckError is one violation of ONNX's rules.
type CheckError struct {
	Where  string // `graph "main"`, `function "ai.accel.PagedAttention"`
	Node   string // label of the node, or empty
	Reason string
}

func (e *CheckError) Error() string {
	if e.Node == "" {
		return e.Where + ": " + e.Reason
	}
	return e.Where + ", node " + e.Node + ": " + e.Reason
}

// maxCheckErrors is how many violations Check collects before it stops.
const maxCheckErrors = 16

// Label names a node in messages: its name, or what it makes, and its operator.
func (n *Node) Label() string {
	op := n.OpType
	if n.Domain != "" {
		op = n.Domain + "." + op
	}
	if n.Name != "" {
		return fmt.Sprintf("%q (%s)", n.Name, op)
	}
	for _, out := range n.Outputs {
		if out != "" {
			return fmt.Sprintf("making %q (%s)", out, op)
		}
	}
	return "(" + op + ")"
}

// Check reports what makes a model invalid: values that are used before they are
// made, made twice, or shadow those of an outer graph; missing names; attributes
// given twice or referring to nothing; domains used without an opset import;
// functions defined twice or calling themselves. Whether operators exist and get
// the right number and types of inputs is Infer's to say. The error joins up to
// 16 *CheckError.
func (m *Model) Check() error {
	c := &checker{defined: map[string]bool{}}
	if m.Graph == nil {
		return &CheckError{Where: "model", Reason: "it has no graph"}
	}
	functions := make(map[FunctionID]*Function, len(m.Functions))
	for _, f := range m.Functions {
		c.where = "function " + strconv.Quote(f.ID().String())
		if functions[f.ID()] != nil {
			c.fail(nil, "it is defined twice")
		}
		functions[f.ID()] = f
		c.function(f)
	}
	c.where = "model"
	if problem := recursion(m.Functions, functions); problem != "" {
		c.fail(nil, "%s", problem)
	}
	c.opsets, c.attrs = m.Opsets, nil
	c.graph(m.Graph)
	return errors.Join(c.errs...)
}

type checker struct {
	where   string
	errs    []error
	defined map[string]bool // values in scope
	opsets  map[string]int64
	attrs   map[string]bool // attributes of the function being checked; nil outside
}

func (c *checker) fail(n *Node, format string, args ...any) {
	if len(c.errs) == maxCheckErrors {
		return
	}
	e := &CheckError{Where: c.where, Reason: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Node = n.Label()
	}
	c.errs = append(c.errs, e)
}

// full says that enough has been found.
func (c *checker) full() bool { return len(c.errs) == maxCheckErrors }

// define brings a value into scope.
func (c *checker) define(n *Node, what, name string, added *[]string) {
	switch {
	case name == "":
		c.fail(n, "an %s has no name", what)
	case c.defined[name]:
		c.fail(n, "%s %q is defined already", what, name)
	default:
		c.defined[name] = true
		*added = append(*added, name)
	}
}

func (c *checker) leave(added []string) {
	for _, name := range added {
		delete(c.defined, name)
	}
}

func (c *checker) graph(g *Graph) {
	outer := c.where
	c.where = "graph " + strconv.Quote(g.Name)
	defer func() { c.where = outer }()
	var added []string
	inputs := make(map[string]bool, len(g.Inputs))
	for _, v := range g.Inputs {
		c.define(nil, "input", v.Name, &added)
		inputs[v.Name] = true
	}
	for _, in := range g.Initializers {
		if inputs[in.Name] {
			inputs[in.Name] = false // an input's default; a second one is an error
			continue
		}
		c.define(nil, "initializer", in.Name, &added)
	}
	c.nodes(g.Nodes, &added)
	for _, v := range g.Outputs {
		if !c.defined[v.Name] {
			c.fail(nil, "output %q is made by no node", v.Name)
		}
	}
	c.leave(added)
}

func (c *checker) nodes(nodes []*Node, added *[]string) {
	for _, n := range nodes {
		if c.full() {
			return
		}
		if n.OpType == "" {
			c.fail(n, "it names no operator")
		}
		if _, ok := c.opsets[n.Domain]; !ok {
			c.fail(n, "domain %q is not among the opset imports", n.Domain)
		}
		for _, in := range n.Inputs {
			if in != "" && !c.defined[in] {
				c.fail(n, "input %q is not defined before it", in)
			}
		}
		seen := make(map[string]bool, len(n.Attrs))
		for _, a := range n.Attrs {
			switch {
			case a.Name == "":
				c.fail(n, "an attribute has no name")
			case seen[a.Name]:
				c.fail(n, "attribute %q is given twice", a.Name)
			case a.Ref != "" && !c.attrs[a.Ref]:
				c.fail(n, "attribute %q refers to %q, which is no attribute of a function around it", a.Name, a.Ref)
			}
			seen[a.Name] = true
		}
		for g := range n.Graphs() {
			c.graph(g)
		}
		for _, out := range n.Outputs {
			if out != "" {
				c.define(n, "output", out, added)
			}
		}
	}
}

func (c *checker) function(f *Function) {
	if f.Name == "" {
		c.fail(nil, "it has no name")
	}
	var added []string
	for _, in := range f.Inputs {
		c.define(nil, "input", in, &added)
	}
	c.attrs = map[string]bool{}
	attr := func(name string) {
		if name == "" || c.attrs[name] {
			c.fail(nil, "attribute %q is declared twice or has no name", name)
		}
		c.attrs[name] = true
	}
	for _, a := range f.Attrs {
		attr(a)
	}
	for _, a := range f.Defaults {
		attr(a.Name)
	}
	c.opsets = f.Opsets
	c.nodes(f.Nodes, &added)
	for _, out := range f.Outputs {
		if !c.defined[out] {
			c.fail(nil, "output %q is made by no node", out)
		}
	}
	c.leave(added)
}

// maxCallDepth is how many functions may call each other in a chain.
const maxCallDepth = 100

// recursion names a function that reaches itself, or a chain that is too long;
// empty where there is neither.
func recursion(all []*Function, byID map[FunctionID]*Function) string {
	const (
		open = 1
		done = 2
	)
	state := map[FunctionID]int{}
	depth := 0
	var visit func(f *Function) string
	var nodes func(ns []*Node) string
	nodes = func(ns []*Node) string {
		for _, n := range ns {
			if f := byID[n.ID()]; f != nil {
				if s := visit(f); s != "" {
					return s
				}
			}
			for g := range n.Graphs() {
				if s := nodes(g.Nodes); s != "" {
					return s
				}
			}
		}
		return ""
	}
	visit = func(f *Function) string {
		id := f.ID()
		switch state[id] {
		case open:
			return fmt.Sprintf("function %q calls itself", id.String())
		case done:
			return ""
		}
		if depth++; depth > maxCallDepth {
			return fmt.Sprintf("function %q is the end of a chain of more than %d calls", id.String(), maxCallDepth)
		}
		state[id] = open
		s := nodes(f.Nodes)
		state[id] = done
		depth--
		return s
	}
	for _, f := range all {
		if s := visit(f); s != "" {
			return s
		}
	}
	return ""
}
