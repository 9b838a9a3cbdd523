// Command cni_check tells whether CNI configuration files can work: their syntax, their names, and that every plugin
// they name is installed and speaks their version of the specification.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/utils"
)

type plugin struct {
	Type           string            `json:"type"`
	IPAM           ipam              `json:"ipam"`
	Delegates      []json.RawMessage `json:"delegates"`
	ClusterNetwork string            `json:"clusterNetwork"`
}

type ipam struct {
	Type string `json:"type"`
}

type network struct {
	CNIVersion string    `json:"cniVersion"`
	Name       string    `json:"name"`
	Plugins    *[]plugin `json:"plugins"`
	plugin
}

// checkNetwork checks a configuration, a list of plugins or one plugin, and those that Multus delegates to.
func checkNetwork(text []byte, folders []string) error {
	var found network
	if err := json.Unmarshal(text, &found); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line := strings.Count(string(text[:syntax.Offset]), "\n") + 1
			return fmt.Errorf("line %d: %w", line, err)
		}
		return err
	}
	if found.CNIVersion == "" {
		return errors.New("cniVersion is missing")
	}
	if err := utils.ValidateNetworkName(found.Name); err != nil {
		return fmt.Errorf("name %q: %w", found.Name, err)
	}
	plugins := []plugin{found.plugin}
	if found.Plugins != nil {
		if plugins = *found.Plugins; len(plugins) == 0 {
			return fmt.Errorf("network %s has no plugins", found.Name)
		}
	}
	for _, one := range plugins {
		if err := checkPlugin(one, found.CNIVersion, folders); err != nil {
			return fmt.Errorf("network %s: %w", found.Name, err)
		}
	}
	return nil
}

func checkPlugin(one plugin, version string, folders []string) error {
	if err := checkProgram(one.Type, version, folders); err != nil {
		return err
	}
	if one.IPAM.Type != "" {
		if err := checkProgram(one.IPAM.Type, version, folders); err != nil {
			return err
		}
	}
	if one.Type != "multus" {
		return nil
	}
	if len(one.Delegates) == 0 && one.ClusterNetwork == "" {
		return errors.New("multus has no delegates")
	}
	for _, delegate := range one.Delegates {
		if err := checkNetwork(delegate, folders); err != nil {
			return err
		}
	}
	return nil
}

// checkProgram checks that a plugin is installed and speaks a version of the specification.
func checkProgram(name, version string, folders []string) error {
	if name == "" {
		return errors.New("a plugin without type")
	}
	path, err := invoke.FindInPath(name, folders)
	if err != nil {
		return fmt.Errorf("there is no plugin %s in %s", name, strings.Join(folders, ", "))
	}
	info, err := invoke.GetVersionInfo(context.Background(), path, nil)
	if err != nil {
		return fmt.Errorf("plugin %s does not tell its version: %w", path, err)
	}
	if !slices.Contains(info.SupportedVersions(), version) {
		return fmt.Errorf("plugin %s speaks %s, not %s", path, strings.Join(info.SupportedVersions(), ", "), version)
	}
	return nil
}

func main() {
	plugins := flag.String("plugins", "/usr/lib/cni", "folders of the plugins, separated by colons")
	flag.Parse()
	status := 0
	for _, path := range flag.Args() {
		text, err := os.ReadFile(path)
		if err == nil {
			err = checkNetwork(text, strings.Split(*plugins, ":"))
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			status = 1
		}
	}
	os.Exit(status)
}
