package backendtest

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// usage is what a process holds.
type usage struct {
	files, regions int
	resident       int64 // bytes
}

func (c *conn) usage() usage {
	c.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", c.p.PID())
	files, err := os.ReadDir(proc + "fd")
	c.must("list the open files", err)
	maps, err := os.ReadFile(proc + "maps")
	c.must("read the mappings", err)
	statm, err := os.ReadFile(proc + "statm")
	c.must("read the size", err)
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	c.must("read the size", err)
	return usage{len(files), strings.Count(string(maps), "accel-region"), pages * int64(os.Getpagesize())}
}

// checkLeaks makes, uses and releases everything, again and again.
func checkLeaks(t T, c *conn) {
	const n = 1 << 20 // elements: what leaks, leaks 4 MiB
	const cycles = 16
	dir := c.weighted(n)
	s := c.execute()
	cycle := func() {
		e := c.compile(dir)
		mem, buf := c.share(4*n, readWrite), c.alloc(4*n)
		like := tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{n}}
		s.done(s.sendRun(e.id, bind(typed(regionAt("x", mem.id, 0, 4*n), like)), bind(bufferAt("y", buf, 0, 4*n))))
		s.failed("", s.sendRun(e.id, nil, nil), "INVALID")
		_, err := c.p.RPC.Map(c.context(), &backendv1.MapRequest{Device: c.device.ID, Locator: mem.Locator(), Length: 1 << 40, Mode: readWrite})
		c.refused("a lie of length", err, "INVALID")
		c.release(e.id, mem.id, buf)
		c.must("close the region", mem.Close())
	}
	for range 4 {
		cycle()
	}
	before := c.usage()
	for range cycles {
		cycle()
	}
	after := c.usage()
	if after.files > before.files+1 { // one for whatever the runtime keeps
		t.Errorf("%d files are open after %d cycles, %d were before", after.files, cycles, before.files)
	}
	if after.regions > 0 {
		t.Errorf("%d regions are still mapped, all are released", after.regions)
	}
	// A third of what a leak of one of the four would come to.
	if grown := after.resident - before.resident; grown > cycles*4*n/3 {
		t.Errorf("the process grew by %d bytes in %d cycles of %d each", grown, cycles, 4*n)
	}
}
