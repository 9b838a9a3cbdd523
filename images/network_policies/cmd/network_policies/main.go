// Command network_policies enforces the network policies of a cluster on the node it runs on, with nftables.
//
// It runs on the node's own network. What it has written stays when it ends, so that an update leaves no gap, but for
// the case that its DaemonSet is gone: then it takes its table away.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"caisson/network_policies/rules"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	failures "k8s.io/apimachinery/pkg/api/errors"
	accessor "k8s.io/apimachinery/pkg/api/meta"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	appsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	networkingv1 "k8s.io/client-go/kubernetes/typed/networking/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// Changes come in groups: a pod alone has several.
	gathering = 50 * time.Millisecond
	// How often it is looked whether somebody has touched the rules, and when what failed is tried again.
	interval = 10 * time.Second
	retry    = 2 * time.Second
	// How long the API server may take to say whether the DaemonSet is there.
	patience = 5 * time.Second
)

func main() {
	node := flag.String("node", os.Getenv("NODE_NAME"), "the node whose pods are held to policies")
	applied := flag.String("applied", "", "a file that is there as soon as rules are")
	owner := flag.String("daemon-set", "", "namespace/name of the DaemonSet without which rules are removed at the end")
	flag.Parse()
	log.SetFlags(0)
	if *node == "" {
		log.Fatal("network_policies: --node or NODE_NAME says whose pods are held to policies")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *node, *applied, *owner); err != nil {
		log.Fatalf("network_policies: %v", err)
	}
}

func run(ctx context.Context, node, applied, owner string) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	stores, err := follow(ctx, config, changed)
	if err != nil {
		return err
	}
	enforce(ctx, stores, node, applied, changed)
	if owner == "" {
		return nil
	}
	gone, err := isGone(config, owner)
	if err != nil || !gone {
		return err
	}
	log.Printf("%s is gone, and so are its rules", owner)
	return nft(rules.Delete())
}

// Stores hold what was last heard of the cluster.
type stores struct {
	namespaces, pods, policies cache.Store
}

// follow returns stores that are filled, and kept up to date; what changes is told to the channel.
func follow(ctx context.Context, config *rest.Config, changed chan<- struct{}) (stores, error) {
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { tell() },
		UpdateFunc: func(any, any) { tell() },
		DeleteFunc: func(any) { tell() },
	}
	ofCore, err := corev1.NewForConfig(config)
	if err != nil {
		return stores{}, err
	}
	ofNetworks, err := networkingv1.NewForConfig(config)
	if err != nil {
		return stores{}, err
	}
	var ready []cache.InformerSynced
	start := func(client rest.Interface, resource string, kind runtime.Object) cache.Store {
		store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
			ListerWatcher: cache.NewListWatchFromClient(client, resource, meta.NamespaceAll, fields.Everything()),
			ObjectType:    kind,
			Handler:       handler,
			Transform:     slim,
		})
		go informer.RunWithContext(ctx)
		ready = append(ready, informer.HasSynced)
		return store
	}
	made := stores{
		namespaces: start(ofCore.RESTClient(), "namespaces", &core.Namespace{}),
		pods:       start(ofCore.RESTClient(), "pods", &core.Pod{}),
		policies:   start(ofNetworks.RESTClient(), "networkpolicies", &networking.NetworkPolicy{}),
	}
	// with half of them, rules would be too narrow or too wide
	if !cache.WaitForCacheSync(ctx.Done(), ready...) && ctx.Err() == nil {
		return stores{}, errors.New("the API server did not tell what there is")
	}
	return made, nil
}

// slim takes away what an object says of who wrote which of its fields.
func slim(object any) (any, error) {
	if of, err := accessor.Accessor(object); err == nil {
		of.SetManagedFields(nil)
	}
	return object, nil
}

func (s stores) cluster() rules.Cluster {
	found := rules.Cluster{Namespaces: map[string]labels.Set{}}
	for _, one := range s.namespaces.List() {
		namespace := one.(*core.Namespace)
		found.Namespaces[namespace.Name] = namespace.Labels
	}
	for _, one := range s.pods.List() {
		found.Pods = append(found.Pods, one.(*core.Pod))
	}
	for _, one := range s.policies.List() {
		found.Policies = append(found.Policies, one.(*networking.NetworkPolicy))
	}
	return found
}

// enforce writes rules whenever they change, and again when somebody else has touched them, until the context ends.
func enforce(ctx context.Context, from stores, node, applied string, changed <-chan struct{}) {
	var written, listed string
	look := time.NewTimer(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			select {
			case <-ctx.Done():
				return
			case <-time.After(gathering):
			}
		case <-look.C:
			if now, err := list(); written != "" && (err != nil || now != listed) {
				log.Print("the rules are not those that were written: writing them again")
				written = ""
			}
		}
		next := interval
		if err := write(from.cluster(), node, &written, &listed); err != nil {
			log.Printf("the rules stay as they were: %v", err)
			next = retry
		} else if applied != "" {
			if err := os.WriteFile(applied, nil, 0o600); err != nil {
				log.Print(err)
			}
			applied = ""
		}
		look.Reset(next)
	}
}

// write brings the rules up to date. It knows what it wrote, and how nftables lists it.
func write(cluster rules.Cluster, node string, written, listed *string) error {
	text, err := rules.Render(cluster, node)
	if err != nil || text == *written {
		return err
	}
	if err := nft(text); err != nil {
		return err
	}
	now, err := list()
	if err != nil {
		return err
	}
	*written, *listed = text, now
	log.Printf("rules for %d policies are written", len(cluster.Policies))
	return nil
}

// isGone tells whether a DaemonSet is not there, or about not to be.
func isGone(config *rest.Config, owner string) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := appsv1.NewForConfig(config)
	if err != nil {
		return false, err
	}
	namespace, name, _ := strings.Cut(owner, "/")
	found, err := client.DaemonSets(namespace).Get(ctx, name, meta.GetOptions{})
	// its rights go with it, and those of one that is only started anew stay
	if failures.IsNotFound(err) || failures.IsForbidden(err) || failures.IsUnauthorized(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return found.DeletionTimestamp != nil, nil
}

func nft(commands string) error {
	command := exec.Command("nft", "--file", "-")
	command.Stdin = strings.NewReader(commands)
	if said, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(said))
	}
	return nil
}

func list() (string, error) {
	said, err := exec.Command("nft", "--stateless", "--numeric", "list", "table", "inet", rules.Table).Output()
	return string(said), err
}
