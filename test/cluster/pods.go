// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// countsTimeout is for asking a pod for its counts.
const countsTimeout = 5 * time.Second

// AwaitPods returns when all pods of the namespace default are ready; for one that is
// not in time the test fails with what Kubernetes has to say.
func (c *Cluster) AwaitPods() { c.tb.Helper(); c.awaitPods("--all") }

// AwaitPod does so for one pod.
func (c *Cluster) AwaitPod(name string) { c.tb.Helper(); c.awaitPods(name) }

func (c *Cluster) awaitPods(which string) {
	c.tb.Helper()
	out, err := c.TryKubectl("wait", "--for=condition=Ready", "pod", which, "--timeout="+startTimeout.String())
	if err != nil {
		events, _ := c.TryKubectl("get", "events,pods", "-o", "wide")
		c.tb.Fatalf("wait for pods: %v\n%s\n%s", err, out, events)
	}
}

// Exec runs a program in a pod of the namespace default and returns what it printed,
// and an error if its exit code is not 0.
func (c *Cluster) Exec(pod string, args ...string) (string, error) {
	c.tb.Helper()
	return c.TryKubectl(append([]string{"exec", pod, "--"}, args...)...)
}

// Pod is one that runs.
type Pod struct {
	Name   string
	Addr   string
	Node   string
	UID    string
	Images []string
}

// Pods lists the pods of a namespace that a selector chooses and that are not ending.
func (c *Cluster) Pods(namespace, selector string) []Pod {
	c.tb.Helper()
	var list struct {
		Items []struct {
			Metadata struct {
				Name, UID         string
				DeletionTimestamp string
			}
			Spec struct {
				NodeName   string
				Containers []struct{ Image string }
			}
			Status struct{ PodIP string }
		}
	}
	out := c.Kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		c.tb.Fatalf("list pods: %v", err)
	}
	var pods []Pod
	for _, item := range list.Items {
		if item.Metadata.DeletionTimestamp != "" {
			continue
		}
		pod := Pod{Name: item.Metadata.Name, Addr: item.Status.PodIP, Node: item.Spec.NodeName, UID: item.Metadata.UID}
		for _, container := range item.Spec.Containers {
			pod.Images = append(pod.Images, container.Image)
		}
		pods = append(pods, pod)
	}
	return pods
}

// Counts is what a pod has counted that runs "pod load".
type Counts struct {
	Outcomes map[string]map[string]int // how often each name had each outcome
	Lost     []time.Time               // when queries were sent, or a little before, that had no answer
	Settled  time.Time                 // before which no query was sent that still waits
}

// Lookup is what one C library of a pod found.
type Lookup struct {
	Library string // glibc, musl, or busybox, which asks by itself
	Found   bool
	Output  string
}

// Lookup has every C library of a pod look a name up.
func (c *Cluster) Lookup(pod, name string) []Lookup {
	c.tb.Helper()
	out, err := c.Exec(pod, "/bin/pod", "lookup", name)
	var results []Lookup
	if err == nil {
		err = json.Unmarshal([]byte(out), &results)
	}
	if err != nil || len(results) == 0 {
		c.tb.Fatalf("look %s up in %s: %v\n%s", name, pod, err, out)
	}
	return results
}

// CountsOf asks a pod, by its address, for what it counted so far.
func (c *Cluster) CountsOf(addr string) Counts {
	c.tb.Helper()
	client := http.Client{Timeout: countsTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + addr + ":8053/")
	if err != nil {
		c.tb.Fatalf("ask a pod for its counts: %v", err)
	}
	defer response.Body.Close()
	var counts Counts
	if err := json.NewDecoder(response.Body).Decode(&counts); err != nil {
		c.tb.Fatalf("read counts: %v", err)
	}
	return counts
}

// Since is what was counted after before.
func (c Counts) Since(before Counts) Counts {
	diff := Counts{Outcomes: map[string]map[string]int{}, Lost: c.Lost[len(before.Lost):]}
	for name, outcomes := range c.Outcomes {
		diff.Outcomes[name] = map[string]int{}
		for outcome, n := range outcomes {
			if n -= before.Outcomes[name][outcome]; n != 0 {
				diff.Outcomes[name][outcome] = n
			}
		}
	}
	return diff
}

// Processes lists the processes of the node whose program has that name, by their
// numbers in the lab.
func (n *Node) Processes(name string) []int {
	n.tb.Helper()
	links, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is fine
	var pids []int
	for _, link := range links {
		program, err := os.Readlink(link)
		if err != nil || filepath.Base(program) != name {
			continue // ended, or a kernel thread
		}
		// What runs on the node is in its cgroup or below it, containers too.
		cgroup, err := os.ReadFile(filepath.Join(filepath.Dir(link), "cgroup"))
		if err != nil || !strings.Contains(string(cgroup), filepath.Base(n.cgroups[0])) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
