// SPDX-License-Identifier: Apache-2.0

// Package oldkernel runs processes on this kernel as if parts of bpf(2) and a few other
// system calls were not there: all that an older kernel lacks, or one feature. So the
// code for kernels that cannot be had as packages runs for real.
//
//	oldkernel.Linux("5.4").Do(t, func() { ns.Start(cmd) })         // as if on Linux 5.4
//	oldkernel.Without("getpeername").Do(t, func() { ns.Start(cmd) }) // one feature less
//
// Every process that the function starts, and all that those start, are under the mask;
// the test is not. Test what they do, not code of the test's own process: cilium/ebpf
// remembers for a process what it has probed.
//
// # How
//
// A seccomp filter (Linux 5.5: user notification with SECCOMP_USER_NOTIF_FLAG_CONTINUE)
// hands each bpf(2) call to the test, which reads its arguments from the caller's memory
// and refuses what the mask lacks, as the old kernel did: EINVAL, for a helper with the
// verifier's words in the log. Everything else goes on to the kernel. The filter is put
// on one thread, from which the processes are forked, and which then ends.
//
// # Limits
//
//   - It proves our fallbacks, not the old verifier: what is not refused is this
//     kernel's.
//   - It goes by numbers: a helper that the old kernel had, but not for programs on
//     cgroup hooks, is not refused.
//   - Masks do not nest: a filter with a listener is already there (EBUSY).
//   - A process with Pdeathsig dies at once, with the thread that started it.
package oldkernel
