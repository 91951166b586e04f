// SPDX-License-Identifier: Apache-2.0

//go:build race

package resolver

// raced says that the race detector watches, for which stacks are twice as large.
const raced = true
