// The Kubernetes provider of Pulumi. The program in its module needs files that its release process
// writes; this one embeds those that engine copies from the module.
package main

import (
	_ "embed"

	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"
)

//go:embed schema.json
var schema []byte

//go:embed terraform-mapping.json
var mapping []byte

// The linker sets it.
var version string

func main() { provider.Serve("kubernetes", version, schema, mapping) }
