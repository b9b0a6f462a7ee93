package kernels

import "golang.org/x/sys/windows"

func loadLibrary(file string) (uintptr, error) {
	h, err := windows.LoadLibrary(file)
	return uintptr(h), err
}

func findSymbol(handle uintptr, name string) (uintptr, error) {
	return windows.GetProcAddress(windows.Handle(handle), name)
}
