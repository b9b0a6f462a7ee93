// Package backendtest is the conformance suite of the backend protocol. It starts
// a backend as the core does, in a process of its own, and checks what the
// protocol and sdk/backend promise; operators are checked against sdk/reference.
package backendtest

// Target is what is tested.
type Target struct {
	// Command is the backend's program and its arguments.
	Command []string
	// Env is added to the process's environment, as NAME=VALUE.
	Env []string
}
