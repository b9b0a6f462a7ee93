//go:build !linux

package backendtest

import "testing"

func checkLeaks(t *testing.T, _ *conn) { t.Skip("what a process holds is read from Linux's /proc") }
