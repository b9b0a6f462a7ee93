package jinja

// expression is a node that has a value.
type expression interface{ at() position }

func (p position) at() position { return p }

type (
	constant struct {
		position
		value any
	}
	name struct {
		position
		name string
	}
	list struct {
		position
		items []expression
		tuple bool
	}
	dict struct {
		position
		keys, values []expression
	}
	unary struct {
		position
		operator string // - + not
		operand  expression
	}
	binary struct {
		position
		operator    string // + - * / // % **
		left, right expression
	}
	concat struct {
		position
		parts []expression
	}
	// logic is "and" or "or", which give the operand that decides.
	logic struct {
		position
		or          bool
		left, right expression
	}
	// comparison is a chain: a < b <= c.
	comparison struct {
		position
		first     expression
		operators []string
		operands  []expression
	}
	conditional struct {
		position
		test, then, otherwise expression // otherwise may be nil
	}
	attribute struct {
		position
		object expression
		name   string
	}
	index struct {
		position
		object, index expression
	}
	slice struct {
		position
		object            expression
		start, stop, step expression // may be nil
	}
	call struct {
		position
		function expression
		arguments
	}
	filter struct {
		position
		input expression // nil for the body of a block
		name  string
		arguments
	}
	test struct {
		position
		input expression
		name  string
		arguments
	}
)

// arguments are those of a call.
type arguments struct {
	values       []expression
	keywords     []keyword
	moreValues   expression // *args, or nil
	moreKeywords expression // **kwargs, or nil
}

type keyword struct {
	name  string
	value expression
}

// statement is a node that does something.
type statement interface{ at() position }

type (
	data struct {
		position
		text string
	}
	output struct {
		position
		value expression
	}
	branch struct {
		position
		tests     []expression
		bodies    [][]statement
		otherwise []statement
	}
	loop struct {
		position
		target    expression
		over      expression
		test      expression // of items, or nil
		recursive bool
		body      []statement
		otherwise []statement
	}
	set struct {
		position
		target expression
		value  expression
	}
	setBlock struct {
		position
		target  expression
		filters []*filter
		body    []statement
	}
	macro struct {
		position
		name       string
		parameters []string
		defaults   []expression // of the last parameters
		body       []statement
		catches    catches
	}
	callBlock struct {
		position
		call   *call
		caller *macro
	}
	filterBlock struct {
		position
		filters []*filter
		body    []statement
	}
	// with makes a scope; generation blocks are that too, without names.
	with struct {
		position
		targets, values []expression
		body            []statement
	}
	jump struct {
		position
		leave bool // break, else continue
	}
)

// catches says which surplus arguments a macro takes: those whose names its body mentions.
type catches struct{ values, keywords, caller bool }

// namespaceAttribute is what can be set beside names.
type namespaceAttribute struct {
	position
	name, attribute string
}

// visit calls see with each node below, from the outside in, until it says no.
func visit(node any, see func(node any) bool) bool {
	all := func(nodes ...expression) bool {
		for _, n := range nodes {
			if n != nil && !visit(n, see) {
				return false
			}
		}
		return true
	}
	bodies := func(bodies ...[]statement) bool {
		for _, body := range bodies {
			for _, s := range body {
				if !visit(s, see) {
					return false
				}
			}
		}
		return true
	}
	args := func(a *arguments) bool {
		for _, k := range a.keywords {
			if !all(k.value) {
				return false
			}
		}
		return all(a.values...) && all(a.moreValues, a.moreKeywords)
	}
	filters := func(list []*filter) bool {
		for _, f := range list {
			if !visit(f, see) {
				return false
			}
		}
		return true
	}
	if !see(node) {
		return false
	}
	switch n := node.(type) {
	case *list:
		return all(n.items...)
	case *dict:
		return all(n.keys...) && all(n.values...)
	case *unary:
		return all(n.operand)
	case *binary:
		return all(n.left, n.right)
	case *concat:
		return all(n.parts...)
	case *logic:
		return all(n.left, n.right)
	case *comparison:
		return all(n.first) && all(n.operands...)
	case *conditional:
		return all(n.test, n.then, n.otherwise)
	case *attribute:
		return all(n.object)
	case *index:
		return all(n.object, n.index)
	case *slice:
		return all(n.object, n.start, n.stop, n.step)
	case *call:
		return all(n.function) && args(&n.arguments)
	case *filter:
		return all(n.input) && args(&n.arguments)
	case *test:
		return all(n.input) && args(&n.arguments)
	case *output:
		return all(n.value)
	case *branch:
		return all(n.tests...) && bodies(n.bodies...) && bodies(n.otherwise)
	case *loop:
		return all(n.target, n.over, n.test) && bodies(n.body, n.otherwise)
	case *set:
		return all(n.target, n.value)
	case *setBlock:
		return all(n.target) && filters(n.filters) && bodies(n.body)
	case *macro:
		return all(n.defaults...) && bodies(n.body)
	case *callBlock:
		return visit(n.call, see) && visit(n.caller, see)
	case *filterBlock:
		return filters(n.filters) && bodies(n.body)
	case *with:
		return all(n.targets...) && all(n.values...) && bodies(n.body)
	}
	return true
}

// mentions says whether a variable, attribute or key of that name is in a node.
func mentions(node any, what string) bool {
	return !visit(node, func(node any) bool {
		switch n := node.(type) {
		case *name:
			return n.name != what
		case *attribute:
			return n.name != what
		case *constant:
			return n.value != what
		}
		return true
	})
}

func loopsOver(body []statement, what string) bool {
	for _, s := range body {
		if !visit(s, func(node any) bool {
			l, ok := node.(*loop)
			return !ok || !mentions(l.over, what)
		}) {
			return true
		}
	}
	return false
}
