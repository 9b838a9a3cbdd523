// Command flannel carries packets between pods of different nodes, with the backends and the rules of
// github.com/flannel-io/flannel. Its own program comes with the libraries of clouds, and asks a pod where it runs.
//
// The node's part of the pods' addresses is the podCIDR of its object. Routes and rules stay when it ends, so that
// an update leaves no gap.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
)

const (
	annotations = "flannel.alpha.coreos.com"
	// Seconds; rules of nftables are written once.
	resync = 30
)

func main() {
	kubeconfig := flag.String("kubeconfig", "/etc/kubernetes/kubelet.conf", "what it logs in with")
	node := flag.String("node", "", "the name of the node it runs on")
	address := flag.String("address", "", "the node's address; its interface carries the packets")
	network := flag.String("network", "/etc/flannel/network.json", "the file that describes the network")
	flag.Parse()
	log.SetFlags(0)
	if *node == "" || *address == "" {
		log.Fatal("flannel: --node and --address say where it runs")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *kubeconfig, *node, *address, *network); err != nil && ctx.Err() == nil {
		log.Fatalf("flannel: %v", err)
	}
}

func run(ctx context.Context, kubeconfig, node, address, network string) error {
	// The library takes the name from there alone.
	if err := os.Setenv("NODE_NAME", node); err != nil {
		return err
	}
	nodes, err := kube.NewSubnetManager(ctx, "", kubeconfig, annotations, network, false)
	if err != nil {
		return err
	}
	config, err := nodes.GetNetworkConfig(ctx)
	if err != nil {
		return err
	}
	family, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	if err != nil {
		return err
	}
	outside, err := ipmatch.LookupExtIface(address, "", "", family, ipmatch.PublicIPOpts{})
	if err != nil {
		return fmt.Errorf("no interface has the node's address: %w", err)
	}
	kind, err := backend.NewManager(ctx, nodes, outside).GetBackend(config.BackendType)
	if err != nil {
		return err
	}
	var tasks sync.WaitGroup
	between, err := kind.RegisterNetwork(ctx, &tasks, config)
	if err != nil {
		return err
	}
	var rules nftables.NFTablesManager
	if err := rules.Init(ctx); err != nil {
		return err
	}
	none, none6 := ip.IP4Net{}, ip.IP6Net{}
	if err := rules.SetupAndEnsureMasqRules(
		ctx, config.Network, none, none, config.IPv6Network, none6, none6, between.Lease(), resync, false,
	); err != nil {
		return err
	}
	rules.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, resync)
	tasks.Go(func() { between.Run(ctx) })
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	tasks.Wait()
	return nil
}
