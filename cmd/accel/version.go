package main

import (
	"encoding/json"
	"fmt"
	goruntime "runtime"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/sdk/backend"
)

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, and the versions of the backend protocol that it speaks",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Protocol int    `json:"backend_protocol"`
				Go       string `json:"go"`
				System   string `json:"system"`
			}{version, backend.ProtocolVersion, goruntime.Version(), goruntime.GOOS + "/" + goruntime.GOARCH}
			if a.json {
				return json.NewEncoder(a.out).Encode(v)
			}
			_, err := fmt.Fprintf(a.out, "accel %s (backend protocol %d, %s, %s)\n", v.Version, v.Protocol, v.Go, v.System)
			return err
		},
	}
}
