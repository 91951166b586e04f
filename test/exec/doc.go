// SPDX-License-Identifier: Apache-2.0

// Package exec runs commands under "dnsteer exec" and looks for what they, or the
// shell that waits for them, could tell from a run without it: exit code, signals,
// terminal, descriptors, identity. Then many at once, nested ones, and what happens
// to a command that outlives dnsteer. Nothing may be left behind by any of them.
package exec
