// Package machine says what the system tells of the processor and its memory.
package machine
