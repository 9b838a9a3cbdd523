// Package rules writes the network policies of a cluster as rules of nftables for one node.
//
// A pod that no policy selects is left alone. For every other pod of the node there is a chain for each direction in
// which it is isolated: it jumps to the chains of the policies that select the pod, which accept, and then drops.
// Directions are looked at one after the other, in base chains of their own, so that a packet from one pod to another
// has to be accepted twice. Packets of a connection's own direction are looked at every time, not only the first: what
// was open before a policy came, or before the address of a pod was known, ends with it. Answers pass.
package rules

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Table is the name of the table, of the family inet, that holds everything.
const Table = "caisson_network_policies"

const (
	ingress = networking.PolicyTypeIngress
	egress  = networking.PolicyTypeEgress
)

// Cluster is what rules are made of.
type Cluster struct {
	// Namespaces has the labels of each namespace.
	Namespaces map[string]labels.Set
	Pods       []*core.Pod
	Policies   []*networking.NetworkPolicy
}

// Delete returns the commands that remove the table, whether it is there or not.
func Delete() string {
	return fmt.Sprintf("add table inet %[1]s\ndelete table inet %[1]s\n", Table)
}

// Render returns the commands that replace the table, in one transaction, by the rules for the pods of a node.
// The same cluster gives the same text.
func Render(cluster Cluster, node string) (string, error) {
	cluster.Pods = slices.Clone(cluster.Pods)
	slices.SortFunc(cluster.Pods, func(a, b *core.Pod) int { return cmp.Compare(named(a), named(b)) })
	cluster.Policies = slices.Clone(cluster.Policies)
	slices.SortFunc(cluster.Policies, func(a, b *networking.NetworkPolicy) int { return cmp.Compare(named(a), named(b)) })
	made := &table{cluster: cluster, pods: map[networking.PolicyType][]isolated{}}
	for _, policy := range cluster.Policies {
		if err := made.add(policy, node); err != nil {
			return "", fmt.Errorf("network policy %s: %w", named(policy), err)
		}
	}
	return Delete() + made.text(), nil
}

// An isolated address of a pod of the node, and the chains of the policies that say what may pass.
type isolated struct {
	address  netip.Addr
	policies []string
}

type table struct {
	cluster Cluster
	chains  []string
	pods    map[networking.PolicyType][]isolated
}

func (t *table) add(policy *networking.NetworkPolicy, node string) error {
	selector, err := meta.LabelSelectorAsSelector(&policy.Spec.PodSelector)
	if err != nil {
		return err
	}
	var here []netip.Addr
	for _, pod := range t.cluster.Pods {
		if pod.Namespace == policy.Namespace && pod.Spec.NodeName == node && selector.Matches(labels.Set(pod.Labels)) {
			here = append(here, addresses(pod)...)
		}
	}
	if len(here) == 0 {
		return nil
	}
	for _, direction := range directions(policy) {
		lines, err := t.allowed(policy, direction, selector)
		if err != nil {
			return err
		}
		whose := sha256.Sum256([]byte(named(policy)))
		name := fmt.Sprintf("policy_%x_%s", whose[:8], strings.ToLower(string(direction)))
		t.chains = append(t.chains, chain(name, lines))
		for _, address := range here {
			t.isolate(direction, address, name)
		}
	}
	return nil
}

func (t *table) isolate(direction networking.PolicyType, address netip.Addr, policy string) {
	for i, one := range t.pods[direction] {
		if one.address == address {
			if !slices.Contains(one.policies, policy) {
				t.pods[direction][i].policies = append(one.policies, policy)
			}
			return
		}
	}
	t.pods[direction] = append(t.pods[direction], isolated{address, []string{policy}})
}

// directions returns what a policy isolates its pods in.
func directions(policy *networking.NetworkPolicy) []networking.PolicyType {
	if len(policy.Spec.PolicyTypes) > 0 {
		return policy.Spec.PolicyTypes
	}
	if len(policy.Spec.Egress) > 0 {
		return []networking.PolicyType{ingress, egress}
	}
	return []networking.PolicyType{ingress}
}

// allowed returns the rules of a policy's chain for one direction.
func (t *table) allowed(
	policy *networking.NetworkPolicy, direction networking.PolicyType, selector labels.Selector,
) ([]string, error) {
	var lines []string
	if direction == ingress {
		// a port's name is that of the pods that the policy is for
		for _, rule := range policy.Spec.Ingress {
			peers, err := t.peers(policy.Namespace, rule.From, "saddr")
			if err != nil {
				return nil, err
			}
			ports, err := t.ports(rule.Ports, t.selected(policy.Namespace, selector))
			if err != nil {
				return nil, err
			}
			for _, one := range peers {
				lines = append(lines, accepted(one.match, ports)...)
			}
		}
		return lines, nil
	}
	for _, rule := range policy.Spec.Egress {
		peers, err := t.peers(policy.Namespace, rule.To, "daddr")
		if err != nil {
			return nil, err
		}
		for _, one := range peers {
			// a port's name is that of the pods that are spoken to
			ports, err := t.ports(rule.Ports, one.pods)
			if err != nil {
				return nil, err
			}
			lines = append(lines, accepted(one.match, ports)...)
		}
	}
	return lines, nil
}

// A match of nftables, and the family of addresses that it is for, if it is for one.
type match struct {
	family string
	text   string
}

// A peer is a match, and the pods that are meant by it.
type peer struct {
	match match
	pods  []*core.Pod
}

// peers returns what a rule allows to speak, or to be spoken to; side is saddr or daddr. A rule without peers is for all.
func (t *table) peers(namespace string, said []networking.NetworkPolicyPeer, side string) ([]peer, error) {
	if len(said) == 0 {
		return []peer{{pods: t.cluster.Pods}}, nil
	}
	var found []peer
	for _, one := range said {
		if one.IPBlock != nil {
			of, err := block(one.IPBlock, side)
			if err != nil {
				return nil, err
			}
			found = append(found, peer{match: of})
			continue
		}
		pods, err := t.meant(namespace, one)
		if err != nil {
			return nil, err
		}
		for _, family := range families {
			if set := family.set(pods); set != "" {
				of := match{family.name, fmt.Sprintf("%s %s %s", family.name, side, set)}
				found = append(found, peer{match: of, pods: pods})
			}
		}
	}
	return found, nil
}

// meant returns the pods that a peer selects.
func (t *table) meant(namespace string, said networking.NetworkPolicyPeer) ([]*core.Pod, error) {
	inPod, inNamespace := labels.Everything(), labels.Everything()
	var err error
	if said.PodSelector != nil {
		if inPod, err = meta.LabelSelectorAsSelector(said.PodSelector); err != nil {
			return nil, err
		}
	}
	if said.NamespaceSelector == nil {
		return t.selected(namespace, inPod), nil
	}
	if inNamespace, err = meta.LabelSelectorAsSelector(said.NamespaceSelector); err != nil {
		return nil, err
	}
	var found []*core.Pod
	for _, pod := range t.cluster.Pods {
		of, known := t.cluster.Namespaces[pod.Namespace]
		if known && inNamespace.Matches(of) && inPod.Matches(labels.Set(pod.Labels)) {
			found = append(found, pod)
		}
	}
	return found, nil
}

func (t *table) selected(namespace string, selector labels.Selector) []*core.Pod {
	var found []*core.Pod
	for _, pod := range t.cluster.Pods {
		if pod.Namespace == namespace && selector.Matches(labels.Set(pod.Labels)) {
			found = append(found, pod)
		}
	}
	return found
}

// ports returns the matches of a rule's ports; a rule without ports is for all. Names are those of containers of pods.
func (t *table) ports(said []networking.NetworkPolicyPort, pods []*core.Pod) ([]match, error) {
	if len(said) == 0 {
		return []match{{}}, nil
	}
	var found []match
	for _, one := range said {
		protocol := core.ProtocolTCP
		if one.Protocol != nil {
			protocol = *one.Protocol
		}
		word, known := map[core.Protocol]string{
			core.ProtocolTCP: "tcp", core.ProtocolUDP: "udp", core.ProtocolSCTP: "sctp",
		}[protocol]
		switch {
		case !known:
			return nil, fmt.Errorf("unknown protocol %q", protocol)
		case one.Port == nil:
			found = append(found, match{text: "meta l4proto " + word})
		case one.Port.Type == intstr.Int && one.EndPort != nil:
			found = append(found, match{text: fmt.Sprintf("%s dport %d-%d", word, one.Port.IntVal, *one.EndPort)})
		case one.Port.Type == intstr.Int:
			found = append(found, match{text: fmt.Sprintf("%s dport %d", word, one.Port.IntVal)})
		default:
			found = append(found, withName(one.Port.StrVal, protocol, word, pods)...)
		}
	}
	return found, nil
}

// withName returns a match for each number that the port of a name has in pods.
func withName(name string, protocol core.Protocol, word string, pods []*core.Pod) []match {
	having := map[int32][]*core.Pod{}
	for _, pod := range pods {
		for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, port := range container.Ports {
				same := port.Protocol == protocol || port.Protocol == "" && protocol == core.ProtocolTCP
				if port.Name == name && same {
					having[port.ContainerPort] = append(having[port.ContainerPort], pod)
				}
			}
		}
	}
	numbers := make([]int32, 0, len(having))
	for number := range having {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	var found []match
	for _, number := range numbers {
		for _, family := range families {
			if set := family.set(having[number]); set != "" {
				text := fmt.Sprintf("%s daddr %s %s dport %d", family.name, set, word, number)
				found = append(found, match{family.name, text})
			}
		}
	}
	return found
}

func block(said *networking.IPBlock, side string) (match, error) {
	whole, err := netip.ParsePrefix(said.CIDR)
	if err != nil {
		return match{}, err
	}
	family := familyOf(whole.Addr()).name
	text := fmt.Sprintf("%s %s %s", family, side, whole.Masked())
	if len(said.Except) == 0 {
		return match{family, text}, nil
	}
	var but []netip.Prefix
	for _, one := range said.Except {
		prefix, err := netip.ParsePrefix(one)
		if err != nil {
			return match{}, err
		}
		but = append(but, prefix.Masked())
	}
	// a set takes no interval twice
	slices.SortFunc(but, func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
	var words []string
	for i, one := range but {
		if !slices.ContainsFunc(but[:i], func(wider netip.Prefix) bool { return wider.Contains(one.Addr()) }) {
			words = append(words, one.String())
		}
	}
	return match{family, fmt.Sprintf("%s %s %s != { %s }", text, family, side, strings.Join(words, ", "))}, nil
}

// accepted returns a rule for each of the ports; of two families none comes.
func accepted(who match, ports []match) []string {
	var lines []string
	for _, port := range ports {
		if who.family == "" || port.family == "" || who.family == port.family {
			lines = append(lines, strings.Join(strings.Fields(who.text+" "+port.text+" accept"), " "))
		}
	}
	return lines
}

func (t *table) text() string {
	chains := slices.Clone(t.chains)
	maps := map[networking.PolicyType]map[string][]string{ingress: {}, egress: {}}
	for _, direction := range []networking.PolicyType{egress, ingress} {
		other := map[networking.PolicyType]string{egress: "daddr", ingress: "saddr"}[direction]
		for _, pod := range t.pods[direction] {
			family := familyOf(pod.address)
			name := fmt.Sprintf("pod_%s_%s", strings.ReplaceAll(pod.address.String(), ":", "_"),
				strings.ToLower(string(direction)))
			// nobody keeps a pod from itself
			lines := []string{fmt.Sprintf("%s %s %s accept", family.name, other, pod.address)}
			for _, policy := range pod.policies {
				lines = append(lines, "jump "+policy)
			}
			chains = append(chains, chain(name, append(lines, "drop")))
			maps[direction][family.name] = append(maps[direction][family.name], fmt.Sprintf("%s : jump %s", pod.address, name))
		}
	}
	from, to := looked("saddr", maps[egress]), looked("daddr", maps[ingress])
	chains = append(chains,
		chain("from_pods", append([]string{"type filter hook forward priority filter; policy accept;"}, from...)),
		// what a pod says to its own node; what the node says to its pods is nobody's to forbid
		chain("from_pods_to_node", append([]string{"type filter hook input priority filter; policy accept;"}, from...)),
		chain("to_pods", append([]string{"type filter hook forward priority filter + 1; policy accept;"}, to...)),
	)
	return fmt.Sprintf("table inet %s {\n%s}\n", Table, strings.Join(chains, ""))
}

// looked returns the rules of a base chain that find the chain of a pod by its address.
func looked(side string, by map[string][]string) []string {
	lines := []string{"ct state related accept", "ct state established ct direction reply accept"}
	for _, family := range families {
		if entries := by[family.name]; len(entries) > 0 {
			lines = append(lines, fmt.Sprintf("%s %s vmap { %s }", family.name, side, strings.Join(entries, ", ")))
		}
	}
	return lines
}

func chain(name string, lines []string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "\tchain %s {\n", name)
	for _, line := range lines {
		fmt.Fprintf(&text, "\t\t%s\n", line)
	}
	text.WriteString("\t}\n")
	return text.String()
}

type family struct {
	name string
	is   func(netip.Addr) bool
}

var families = []family{{"ip", netip.Addr.Is4}, {"ip6", netip.Addr.Is6}}

func familyOf(address netip.Addr) family {
	if address.Is4() {
		return families[0]
	}
	return families[1]
}

// set returns the pods' addresses of the family as a set, or nothing.
func (f family) set(pods []*core.Pod) string {
	var found []string
	for _, pod := range pods {
		for _, address := range addresses(pod) {
			if f.is(address) {
				found = append(found, address.String())
			}
		}
	}
	if len(found) == 0 {
		return ""
	}
	slices.Sort(found)
	return fmt.Sprintf("{ %s }", strings.Join(slices.Compact(found), ", "))
}

// addresses returns those that are the pod's own: of a pod on its node's network, and of one that has ended, there are none.
func addresses(pod *core.Pod) []netip.Addr {
	if pod.Spec.HostNetwork || pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed {
		return nil
	}
	var found []netip.Addr
	for _, one := range pod.Status.PodIPs {
		if address, err := netip.ParseAddr(one.IP); err == nil {
			found = append(found, address.Unmap())
		}
	}
	return found
}

func named(object meta.Object) string { return object.GetNamespace() + "/" + object.GetName() }
