package config

import (
	"fmt"

	"github.com/accelhq/accel/configs"
)

// policyRoutes reads the routes that the program carries.
func policyRoutes() map[string][]string {
	const name = "policy/routes.yaml"
	data, err := configs.Policy.ReadFile(name)
	if err != nil {
		panic("config: " + err.Error())
	}
	root, err := parseYAML(data)
	if err != nil {
		panic(fmt.Sprintf("config: %s: %v", name, err))
	}
	routes := map[string][]string{}
	for _, p := range root.pairs[0].node.pairs {
		for _, item := range p.node.items {
			routes[p.key] = append(routes[p.key], item.value.(string))
		}
	}
	return routes
}
