//go:build tools

// Package tools keeps the programs that package.yml compiles among the requirements of go.mod.
package tools

import (
	_ "github.com/containernetworking/cni/cnitool"
	_ "gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus"
)
