// SPDX-License-Identifier: Apache-2.0
//
// Asks with the C library: getaddrinfo for addresses, res_query for text.

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <resolv.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static int addresses(const char *name)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list, *ai;
	char text[INET6_ADDRSTRLEN];
	int err = getaddrinfo(name, NULL, &hints, &list);

	if (err == EAI_NONAME) {
		puts("not found");
		return 0;
	}
	if (err) {
		fprintf(stderr, "getaddrinfo: %s\n", gai_strerror(err));
		return 1;
	}
	for (ai = list; ai; ai = ai->ai_next) {
		getnameinfo(ai->ai_addr, ai->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST);
		printf("address %s\n", text);
	}
	freeaddrinfo(list);
	return 0;
}

static int texts(const char *name)
{
	static unsigned char reply[65535];
	int n = res_query(name, ns_c_in, ns_t_txt, reply, sizeof(reply));
	ns_msg msg;
	ns_rr rr;
	int i;

	if (n < 0) {
		fprintf(stderr, "res_query: %s\n", hstrerror(h_errno));
		return 1;
	}
	if (ns_initparse(reply, n, &msg))
		return 1;
	for (i = 0; i < ns_msg_count(msg, ns_s_an); i++) {
		const unsigned char *p, *end;
		int length = 0;

		if (ns_parserr(&msg, ns_s_an, i, &rr))
			return 1;
		if (ns_rr_type(rr) != ns_t_txt)
			continue;
		end = ns_rr_rdata(rr) + ns_rr_rdlen(rr);
		for (p = ns_rr_rdata(rr); p < end; p += 1 + *p)
			length += *p;
		printf("text %d\n", length);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	return strcmp(argv[1], "text") ? addresses(argv[2]) : texts(argv[2]);
}
