package main

import "syscall"

// die ends the process as a vendor library's bug would.
func die(string) {
	p, err := syscall.GetCurrentProcess()
	if err == nil {
		_ = syscall.TerminateProcess(p, 0xC0000005)
	}
	select {}
}

func printToDescriptor1(s string) { _, _ = syscall.Write(syscall.Stdout, []byte(s)) }
