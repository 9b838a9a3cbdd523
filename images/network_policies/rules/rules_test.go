package rules

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const node = "n1"

func pod(namespace, name, on string, ips ...string) *core.Pod {
	made := &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}}}
	made.Spec.NodeName = on
	made.Spec.Containers = []core.Container{{Ports: []core.ContainerPort{{Name: "web", ContainerPort: 8080}}}}
	for _, ip := range ips {
		made.Status.PodIPs = append(made.Status.PodIPs, core.PodIP{IP: ip})
	}
	return made
}

func selecting(app string) *meta.LabelSelector {
	return &meta.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func policy(spec networking.NetworkPolicySpec) *networking.NetworkPolicy {
	return &networking.NetworkPolicy{ObjectMeta: meta.ObjectMeta{Namespace: "a", Name: "p"}, Spec: spec}
}

func cluster(policies ...*networking.NetworkPolicy) Cluster {
	other := pod("b", "other", "n2", "10.0.1.1")
	other.Spec.Containers[0].Ports[0].ContainerPort = 9090
	ended := pod("a", "ended", node, "10.0.0.1")
	ended.Status.Phase = core.PodSucceeded
	host := pod("a", "host", node, "192.0.2.1")
	host.Spec.HostNetwork = true
	return Cluster{
		Namespaces: map[string]labels.Set{"a": {"team": "a"}, "b": {"team": "b"}},
		Pods:       []*core.Pod{pod("a", "web", node, "10.0.0.1", "fd00::1"), pod("a", "db", node, "10.0.0.2"), other, ended, host},
		Policies:   policies,
	}
}

// rendered returns the text, of which each line is without what is before it.
func rendered(t *testing.T, of Cluster) string {
	t.Helper()
	text, err := Render(of, node)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// rulesOf returns the rules of the chain of the one policy for a direction.
func rulesOf(t *testing.T, text, direction string) string {
	t.Helper()
	for _, one := range strings.Split(text, "\tchain ") {
		if name, rest, _ := strings.Cut(one, " {\n"); strings.HasPrefix(name, "policy_") && strings.HasSuffix(name, direction) {
			body, _, _ := strings.Cut(rest, "\t}\n")
			return strings.ReplaceAll(body, "\t", "")
		}
	}
	t.Fatalf("no chain for %s in\n%s", direction, text)
	return ""
}

func TestPodsWithoutPoliciesAreLeftAlone(t *testing.T) {
	if text := rendered(t, cluster()); strings.Contains(text, "drop") || strings.Contains(text, "vmap") {
		t.Error(text)
	}
}

func TestOnlyPodsOfTheNodeThatRunAndHaveAnAddressAreIsolated(t *testing.T) {
	text := rendered(t, cluster(policy(networking.NetworkPolicySpec{PolicyTypes: []networking.PolicyType{ingress}})))
	for _, wanted := range []string{
		"ip daddr vmap { 10.0.0.2 : jump pod_10.0.0.2_ingress, 10.0.0.1 : jump pod_10.0.0.1_ingress }",
		"ip6 daddr vmap { fd00::1 : jump pod_fd00__1_ingress }",
		"ip saddr 10.0.0.2 accept\n",
	} {
		if !strings.Contains(text, wanted) {
			t.Errorf("no %q in\n%s", wanted, text)
		}
	}
	for _, unwanted := range []string{"192.0.2.1", "10.0.1.1", "saddr vmap"} {
		if strings.Contains(text, unwanted) {
			t.Errorf("%q in\n%s", unwanted, text)
		}
	}
	if rulesOf(t, text, "_ingress") != "" {
		t.Error(text)
	}
}

func TestPeersAndPorts(t *testing.T) {
	web, number, end, udp := intstr.FromString("web"), intstr.FromInt32(80), int32(90), core.ProtocolUDP
	ofB := &meta.LabelSelector{MatchLabels: map[string]string{"team": "b"}}
	for name, one := range map[string]struct {
		spec      networking.NetworkPolicySpec
		direction string
		wanted    string
	}{
		"everything": {
			networking.NetworkPolicySpec{Ingress: []networking.NetworkPolicyIngressRule{{}}}, "_ingress", "accept\n",
		},
		"pods of the namespace": {
			networking.NetworkPolicySpec{Ingress: []networking.NetworkPolicyIngressRule{{
				From: []networking.NetworkPolicyPeer{{PodSelector: selecting("web")}},
			}}},
			"_ingress", "ip saddr { 10.0.0.1 } accept\nip6 saddr { fd00::1 } accept\n",
		},
		"pods of other namespaces": {
			networking.NetworkPolicySpec{Ingress: []networking.NetworkPolicyIngressRule{{
				From:  []networking.NetworkPolicyPeer{{NamespaceSelector: ofB, PodSelector: selecting("other")}},
				Ports: []networking.NetworkPolicyPort{{Port: &number, EndPort: &end}, {Protocol: &udp}},
			}}},
			"_ingress", "ip saddr { 10.0.1.1 } tcp dport 80-90 accept\nip saddr { 10.0.1.1 } meta l4proto udp accept\n",
		},
		"nobody": {
			networking.NetworkPolicySpec{Ingress: []networking.NetworkPolicyIngressRule{{
				From: []networking.NetworkPolicyPeer{{NamespaceSelector: ofB, PodSelector: selecting("web")}},
			}}},
			"_ingress", "",
		},
		"a named port of the pod itself": {
			networking.NetworkPolicySpec{
				PodSelector: *selecting("web"),
				Ingress: []networking.NetworkPolicyIngressRule{{
					From:  []networking.NetworkPolicyPeer{{NamespaceSelector: ofB}},
					Ports: []networking.NetworkPolicyPort{{Port: &web}},
				}},
			},
			"_ingress", "ip saddr { 10.0.1.1 } ip daddr { 10.0.0.1 } tcp dport 8080 accept\n",
		},
		"a named port of those spoken to": {
			networking.NetworkPolicySpec{Egress: []networking.NetworkPolicyEgressRule{{
				To:    []networking.NetworkPolicyPeer{{NamespaceSelector: &meta.LabelSelector{}}},
				Ports: []networking.NetworkPolicyPort{{Port: &web}, {Port: &number, Protocol: &udp}},
			}}},
			"_egress", strings.Join([]string{
				"ip daddr { 10.0.0.1, 10.0.0.2, 10.0.1.1 } ip daddr { 10.0.0.1, 10.0.0.2 } tcp dport 8080 accept",
				"ip daddr { 10.0.0.1, 10.0.0.2, 10.0.1.1 } ip daddr { 10.0.1.1 } tcp dport 9090 accept",
				"ip daddr { 10.0.0.1, 10.0.0.2, 10.0.1.1 } udp dport 80 accept",
				"ip6 daddr { fd00::1 } ip6 daddr { fd00::1 } tcp dport 8080 accept",
				"ip6 daddr { fd00::1 } udp dport 80 accept", "",
			}, "\n"),
		},
		"a block but for parts of it": {
			networking.NetworkPolicySpec{Egress: []networking.NetworkPolicyEgressRule{{
				To: []networking.NetworkPolicyPeer{{IPBlock: &networking.IPBlock{
					CIDR: "10.0.0.0/8", Except: []string{"10.1.2.0/24", "10.1.0.0/16", "10.9.0.0/16"},
				}}},
			}}},
			"_egress", "ip daddr 10.0.0.0/8 ip daddr != { 10.1.0.0/16, 10.9.0.0/16 } accept\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if said := rulesOf(t, rendered(t, cluster(policy(one.spec))), one.direction); said != one.wanted {
				t.Errorf("got\n%s\nwanted\n%s", said, one.wanted)
			}
		})
	}
}

func TestTheSameClusterGivesTheSameText(t *testing.T) {
	one := cluster(policy(networking.NetworkPolicySpec{}))
	other := one
	other.Pods = []*core.Pod{one.Pods[4], one.Pods[2], one.Pods[0], one.Pods[3], one.Pods[1]}
	if rendered(t, one) != rendered(t, other) {
		t.Error("the order of pods matters")
	}
}

func TestWhatCannotBeIsAnError(t *testing.T) {
	spec := networking.NetworkPolicySpec{Ingress: []networking.NetworkPolicyIngressRule{{
		From: []networking.NetworkPolicyPeer{{IPBlock: &networking.IPBlock{CIDR: "10.0.0.0"}}},
	}}}
	if _, err := Render(cluster(policy(spec)), node); err == nil || !strings.Contains(err.Error(), "network policy a/p") {
		t.Error(err)
	}
}
