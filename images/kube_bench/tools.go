//go:build tools

// Package tools keeps the program that package.yml compiles among the requirements of go.mod.
package tools

import _ "github.com/aquasecurity/kube-bench"
