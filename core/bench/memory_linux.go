package bench

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// resident is a process's proportional set size in bytes: pages that n processes
// share count one n-th each.
func resident(pid int) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "Pss:"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no Pss", f.Name())
}
