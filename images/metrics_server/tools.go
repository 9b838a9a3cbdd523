//go:build tools

// Package tools keeps the program that image.yml compiles among the requirements of go.mod.
package tools

import _ "sigs.k8s.io/metrics-server/cmd/metrics-server"
