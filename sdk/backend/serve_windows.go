package backend

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
	"google.golang.org/grpc"
)

// protectStdout makes standard error the process's standard output. The C runtime
// of a library that was loaded before keeps its own idea, which is why libraries
// are opened later.
func protectStdout() error {
	stderr, err := windows.GetStdHandle(windows.STD_ERROR_HANDLE)
	if err != nil {
		return os.NewSyscallError("GetStdHandle", err)
	}
	// os.Stdout keeps the handle that it was opened with.
	return os.NewSyscallError("SetStdHandle", windows.SetStdHandle(windows.STD_OUTPUT_HANDLE, stderr))
}

// inherited opens a handle that the host left to this process alone.
func inherited(h uintptr) (*os.File, error) {
	if err := windows.SetHandleInformation(windows.Handle(h), windows.HANDLE_FLAG_INHERIT, 0); err != nil {
		return nil, os.NewSyscallError("SetHandleInformation", err)
	}
	return os.NewFile(h, "host"), nil
}

// credentialsOfUser: between processes there is only TCP, which tells no user.
func credentialsOfUser() ([]grpc.ServerOption, error) {
	return nil, errors.New("the host must use mutual TLS (AutoMTLS): on Windows there is only TCP between the two")
}
