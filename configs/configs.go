// Package configs carries the policy tables, so that the program needs no files
// beside it. It holds nothing else; core/config and core/route give them meaning.
package configs

import "embed"

// Policy holds policy/NAME.yaml.
//
//go:embed policy/*.yaml
var Policy embed.FS
