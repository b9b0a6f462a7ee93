package graph

// FunctionID tells functions and operators apart.
type FunctionID struct {
	Domain, Name, Overload string
}

func (id FunctionID) String() string {
	s := id.Name
	if id.Domain != "" {
		s = id.Domain + "." + s
	}
	if id.Overload != "" {
		s += ":" + id.Overload
	}
	return s
}

// ID is what nodes call the function by.
func (f *Function) ID() FunctionID { return FunctionID{f.Domain, f.Name, f.Overload} }

// function is the function that the node would call, if the model has it.
func (n *Node) function() FunctionID { return FunctionID{n.Domain, n.OpType, n.Overload} }
