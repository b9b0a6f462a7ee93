package region

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// namePrefix keeps sections in the name space of the user's session. Their
// default access list lets in this user and the system.
const namePrefix = `Local\accel-region-`

var openFileMapping = windows.NewLazySystemDLL("kernel32.dll").NewProc("OpenFileMappingW")

func create(length int64) (*Region, error) { return createNamed(length) }

func createNamed(length int64) (*Region, error) {
	locator := namePrefix + rand.Text()
	name, err := windows.UTF16PtrFromString(locator)
	if err != nil {
		return nil, err
	}
	h, err := windows.CreateFileMapping(windows.InvalidHandle, nil, windows.PAGE_READWRITE,
		uint32(uint64(length)>>32), uint32(length), name)
	if err != nil {
		return nil, os.NewSyscallError("CreateFileMapping", err)
	}
	r, err := mapSection(h, length, windows.FILE_MAP_READ|windows.FILE_MAP_WRITE)
	if err != nil {
		return nil, errors.Join(err, windows.CloseHandle(h))
	}
	r.locator = locator
	return r, nil
}

func open(locator string, length int64, mode Mode) (*Region, error) {
	if !strings.HasPrefix(locator, namePrefix) {
		return nil, fmt.Errorf("it is no section of Accel (%s...)", namePrefix)
	}
	name, err := windows.UTF16PtrFromString(locator)
	if err != nil {
		return nil, err
	}
	access := uint32(windows.FILE_MAP_READ)
	if mode == ReadWrite {
		access |= windows.FILE_MAP_WRITE
	}
	h, _, err := openFileMapping.Call(uintptr(access), 0, uintptr(unsafe.Pointer(name)))
	if h == 0 {
		return nil, os.NewSyscallError("OpenFileMapping", err)
	}
	r, err := mapSection(windows.Handle(h), length, access)
	if err != nil {
		return nil, errors.Join(err, windows.CloseHandle(windows.Handle(h)))
	}
	r.locator = locator
	return r, nil
}

// mapSection maps the whole section, whose size only the mapping tells, and owns
// the handle when it succeeds: the name lives as long as a handle.
func mapSection(h windows.Handle, length int64, access uint32) (*Region, error) {
	addr, err := windows.MapViewOfFile(h, access, 0, 0, 0)
	if err != nil {
		return nil, os.NewSyscallError("MapViewOfFile", err)
	}
	var info windows.MemoryBasicInformation
	if err := windows.VirtualQuery(addr, &info, unsafe.Sizeof(info)); err != nil {
		return nil, errors.Join(os.NewSyscallError("VirtualQuery", err), windows.UnmapViewOfFile(addr))
	}
	if int64(info.RegionSize) < length {
		err := fmt.Errorf("%w: it has %d bytes, %d were said", ErrLength, info.RegionSize, length)
		return nil, errors.Join(err, windows.UnmapViewOfFile(addr))
	}
	// The address is not of Go's heap: converted by its bits.
	p := *(*unsafe.Pointer)(unsafe.Pointer(&addr))
	return &Region{
		data: unsafe.Slice((*byte)(p), length),
		close: func() error {
			return errors.Join(windows.UnmapViewOfFile(addr), windows.CloseHandle(h))
		},
	}, nil
}
