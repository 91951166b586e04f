// SPDX-License-Identifier: Apache-2.0

// Package live has the tests of package kube that need real API servers: "make kube"
// builds one, "make test-names" runs them.
package live
