/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Targets: the loopback addresses to which queries go, and which nameserver each
 * stands for. 127.0.0.1 and ::1 stand for what the client's socket recorded; a tag,
 * 127.53.hi.lo or fd64:6e73:7465:port::hi:lo, stands for one nameserver, whoever
 * asks. hi:lo is the nameserver's number.
 */
#ifndef TARGET_H
#define TARGET_H

#include "sockaddr.h"

#define LOOPBACK4 bpf_htonl(0x7f000001)
#define LOOPBACK6 bpf_htonl(1)
#define TAG4_PREFIX 0x7f350000
/* A ULA prefix (RFC 4193): "dnste", then the port, so that two datapaths with
 * different ports have different routes.
 */
#define TAG6_PREFIX0 bpf_htonl(0xfd646e73)
#define TAG6_PREFIX1 bpf_htonl(0x74650000 | steer_port)

static __always_inline struct endpoint loopback(enum family family)
{
	struct endpoint target = {.port = bpf_htons(steer_port)};

	if (family == FAMILY_IPV4)
		target.address.word[2] = bpf_htonl(0xffff);
	target.address.word[3] = family == FAMILY_IPV4 ? LOOPBACK4 : LOOPBACK6;
	return target;
}

static __always_inline struct endpoint tag(enum family family, __u32 number)
{
	struct endpoint target = {.port = bpf_htons(steer_port)};

	if (family == FAMILY_IPV4) {
		target.address.word[2] = bpf_htonl(0xffff);
		target.address.word[3] = bpf_htonl(TAG4_PREFIX + number);
	} else {
		target.address.word[0] = TAG6_PREFIX0;
		target.address.word[1] = TAG6_PREFIX1;
		target.address.word[3] = bpf_htonl(number);
	}
	return target;
}

/* seal is where a resolver keeps its scope whose listeners outlive it: the address behind
 * the last tag, which stands for no nameserver.
 */
static __always_inline struct endpoint seal(enum family family)
{
	return tag(family, TAG_NUMBERS);
}

/* tag_of is the inverse of tag: the number, or TAG_NUMBERS if this is no tag. */
static __always_inline __u32 tag_of(const struct address *address)
{
	__u32 low = bpf_ntohl(address->word[3]);

	if (family_of(address) == FAMILY_IPV4)
		return (low & 0xffff0000) == TAG4_PREFIX ? (low & 0xffff) : TAG_NUMBERS;
	if (address->word[0] != TAG6_PREFIX0 || address->word[1] != TAG6_PREFIX1 ||
	    address->word[2] || low >= TAG_NUMBERS)
		return TAG_NUMBERS;
	return low;
}

static __always_inline __u32 mix(__u32 hash, __be32 word)
{
	hash = (hash ^ word) * 0x9e3779b1;
	return hash ^ (hash >> 15);
}

/* number allots a nameserver its number, or finds the one it has. Numbers are
 * claimed with BPF_NOEXIST and never given back: two CPUs that meet here agree, and
 * nothing that user space or a reply still relies on can change its meaning.
 */
static __always_inline __u32 number(const struct address *nameserver)
{
	__u32 hash = steer_seed, candidate, i;
	struct address *holder;

	hash = mix(hash, nameserver->word[0]);
	hash = mix(hash, nameserver->word[1]);
	hash = mix(hash, nameserver->word[2]);
	hash = mix(hash, nameserver->word[3]);
#pragma unroll
	for (i = 0; i < TAG_PROBES; i++) {
		candidate = (hash + i) % TAG_NUMBERS;
		holder = bpf_map_lookup_elem(&steer_tag, &candidate);
		if (!holder) {
			if (!bpf_map_update_elem(&steer_tag, &candidate, nameserver, BPF_NOEXIST))
				return candidate;
			holder = bpf_map_lookup_elem(&steer_tag, &candidate);
		}
		if (holder && same(holder, nameserver))
			return candidate;
	}
	return TAG_NUMBERS;
}

#endif
