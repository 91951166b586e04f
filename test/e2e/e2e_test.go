// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dnsteer/dnsteer/test/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

func TestHybrid(t *testing.T) {
	t.Parallel()
	story(t, cluster.Hybrid, cluster.Containerd(), life)
}

func TestUnified(t *testing.T) {
	t.Parallel()
	story(t, cluster.Unified, cluster.Containerd(), life)
}

// With containerd 1.6 pods are steered likewise, also when the agents have died, and what
// they left is taken off after all.
func TestOldContainerd(t *testing.T) {
	t.Parallel()
	story(t, cluster.Hybrid, cluster.OldContainerd(), death)
}

// world is a cluster and what the story has made in it so far.
type world struct {
	*cluster.Cluster
	bin       string   // directory of dnsteer's binaries
	conflists []string // of the nodes, before dnsteer
	loadPods  []cluster.Pod
}

type step struct {
	name string
	run  func(t *testing.T, w *world)
}

// life is that of dnsteer in one cluster, from before its installation to after its end.
var life = []step{
	{"before", before},
	{"install", install},
	{"pod that ran before", ranBefore},
	{"new pods", newPods},
	{"left alone", leftAlone},
	{"cluster DNS", clusterDNS},
	{"status", status},
	{"kill", kill},
	{"stop", stop},
	{"away", away},
	{"required", required},
	{"upgrade", upgrade},
	{"uninstall", uninstall},
}

// death is one that is not planned.
var death = []step{
	{"before", before},
	{"install", install},
	{"pod that ran before", ranBefore},
	{"new pods", newPods},
	{"dead", dead},
	{"install again", installAgain},
	{"uninstall", uninstall},
}

// story runs steps in a cluster. A step needs those before it, so the first that fails
// ends it.
func story(t *testing.T, shape cluster.Shape, r cluster.Runtime, steps []step) {
	w := &world{Cluster: cluster.New(t, shape, r, 2), bin: binaries(t)}
	for _, n := range w.Nodes {
		w.conflists = append(w.conflists, n.Read(conflistPath))
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) {
			whole := w.Cluster
			defer func() { w.Cluster = whole }()
			w.Cluster = whole.For(t)
			step.run(t, w)
		}) {
			t.Fatalf("%s failed; the steps after it did not run", step.name)
		}
	}
}

const (
	image     = "ghcr.io/dnsteer/dnsteer:latest" // as deploy/ names it
	nextImage = "ghcr.io/dnsteer/dnsteer:next"
)

// archives are the images, by name.
var archives = map[string]*cluster.Shared[string]{image: {}, nextImage: {}}

// makeImage is make image under another name; it returns the archive.
func (w *world) makeImage(t *testing.T, name string) string {
	t.Helper()
	return archives[name].Get(t, func(dir string) string {
		archive := filepath.Join(dir, "image.tar")
		cmd := exec.CommandContext(t.Context(), filepath.Join(w.bin, "image"), "-name", name, "-from", w.bin, "-o", archive)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make image: %v\n%s", err, out)
		}
		return archive
	})
}

var built cluster.Shared[string]

// binaries is a directory of dnsteer's programs, static, and of the one that makes images.
func binaries(t *testing.T) string {
	t.Helper()
	return built.Get(t, func(dir string) string {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", dir,
			"github.com/dnsteer/dnsteer/cmd/...", "github.com/dnsteer/dnsteer/deploy/image")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build dnsteer: %v\n%s", err, out)
		}
		return dir
	})
}
