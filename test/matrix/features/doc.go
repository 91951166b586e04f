// SPDX-License-Identifier: Apache-2.0

// Package features finds out what the running kernel has of what dnsteer uses, by
// trying, never by its version: ordering flags of cgroups came in 6.12, were not in
// 6.16 and are in 6.17 again. Its test reports each answer as an attribute, from
// which the kernel matrix makes its table.
package features
