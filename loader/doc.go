// SPDX-License-Identifier: Apache-2.0

// Package loader manages the life of the datapath: the BPF programs on the eight
// cgroup hooks, their maps and their links, as one object.
//
//	absent --Load--> loaded --Upgrade--> loaded --Unload--> absent
//	                   |  ^
//	             Close v  | Open (adopt)
//	                no process, still loaded
//
// README.md has every state, what leads out of it, and what is required of each step.
//
// With a BPF filesystem the datapath is pinned below
// <bpffs>/dnsteer/<cgroup id>/{links,maps,progs} and outlives every process; that
// directory is the only state there is. Without one, the datapath belongs to the
// process that loaded it and ends with Close or with the process.
//
// A namespace becomes a scope through its listener: Listen opens the sockets, Enrol
// puts the scope's settings into their socket storage, and from then on the datapath
// steers the sockets of that namespace for as long as those sockets live and Beat is
// called. Nothing has to be cleaned up when they die.
//
// The loader knows nothing of DNS, and never detaches what it did not attach.
package loader
