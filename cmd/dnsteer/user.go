// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// identity is as whom CMD runs.
type identity struct {
	credential *syscall.Credential // nil: as we do
	env        []string            // what differs from ours
}

// invoker returns the user who asked for CMD: the named one, or who called sudo, or
// else whoever we are.
func invoker(name string, getenv func(string) string) (identity, error) {
	if name == "" {
		name = getenv("SUDO_UID")
	}
	if name == "" {
		return identity{}, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err != nil {
		return numeric(name, getenv)
	}
	uid, gid, err := ids(u.Uid, u.Gid)
	if err != nil {
		return identity{}, fmt.Errorf("run as user %q: %w", name, err)
	}
	if uid == uint32(os.Getuid()) {
		return identity{}, nil
	}
	groups, err := groupsOf(u)
	if err != nil {
		return identity{}, fmt.Errorf("run as user %q: %w", name, err)
	}
	return identity{
		credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups},
		env:        []string{"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username},
	}, nil
}

// numeric is for a UID that the user database does not know, as in containers.
func numeric(name string, getenv func(string) string) (identity, error) {
	gidText := name
	if getenv("SUDO_UID") == name && getenv("SUDO_GID") != "" {
		gidText = getenv("SUDO_GID")
	}
	uid, gid, err := ids(name, gidText)
	if err != nil {
		return identity{}, fmt.Errorf("run as user %q: no such user", name)
	}
	return identity{credential: &syscall.Credential{Uid: uid, Gid: gid}}, nil
}

func ids(uidText, gidText string) (uid, gid uint32, err error) {
	u, err := strconv.ParseUint(uidText, 10, 32)
	if err != nil {
		return 0, 0, err
	}
	g, err := strconv.ParseUint(gidText, 10, 32)
	return uint32(u), uint32(g), err
}

func groupsOf(u *user.User) ([]uint32, error) {
	texts, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	var groups []uint32
	for _, text := range texts {
		g, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, err
		}
		groups = append(groups, uint32(g))
	}
	return groups, nil
}

// environ returns our environment as the identity sees it.
func (i identity) environ() []string {
	env := os.Environ()
	for _, set := range i.env {
		name, _, _ := strings.Cut(set, "=")
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		env = append(env, set)
	}
	return env
}
