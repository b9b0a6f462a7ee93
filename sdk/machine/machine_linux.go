package machine

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Processor is the model name of the first processor.
func Processor() string {
	if v, ok := procValue("/proc/cpuinfo", "model name"); ok {
		return v
	}
	return runtime.GOARCH + " processor"
}

// Memory is the machine's memory and what of it can be had without swapping, in
// bytes; 0 where the system does not say.
func Memory() (total, free int64) {
	kib := func(key string) int64 {
		v, ok := procValue("/proc/meminfo", key)
		if !ok {
			return 0
		}
		n, err := strconv.ParseInt(strings.TrimSuffix(v, " kB"), 10, 64)
		if err != nil {
			return 0
		}
		return n << 10
	}
	return kib("MemTotal"), kib("MemAvailable")
}

// procValue is the first value of a key in a file of "key: value" lines.
func procValue(path, key string) (string, bool) {
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}
