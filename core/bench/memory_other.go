//go:build !linux

package bench

import "errors"

// resident is known on Linux alone; elsewhere the error is errors.ErrUnsupported.
func resident(int) (int64, error) { return 0, errors.ErrUnsupported }
