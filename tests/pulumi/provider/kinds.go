// The provider registers the objects of manifests and charts through its SDK for Go, which has a
// type for each kind, and takes a quarter of an hour to compile. This file replaces the SDK's own
// of this name: it registers the same types of resources, by their names alone.
package v2

import (
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// IsListKind says whether a kind is a list of others.
func IsListKind(apiVersion, kind string) bool {
	return strings.HasSuffix(kind, "List")
}

// RegisterResource registers an object as a resource of its type.
func RegisterResource(ctx *pulumi.Context, apiVersion, kind, name string, props pulumi.Input,
	opts ...pulumi.ResourceOption) (pulumi.CustomResource, error) {
	if apiVersion == "v1" {
		apiVersion = "core/v1"
	}
	var res struct{ pulumi.CustomResourceState }
	if err := ctx.RegisterResource("kubernetes:"+apiVersion+":"+kind, name, props, &res, opts...); err != nil {
		return nil, err
	}
	return &res, nil
}
