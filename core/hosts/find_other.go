//go:build !unix

package hosts

import "io/fs"

// Elsewhere the file's access list decides, which the system checks on its own.
func unusableFile(string, fs.FileInfo) (problem, remedy string) { return "", "" }
