// SPDX-License-Identifier: Apache-2.0
//
// Asks with c-ares, one query for each type.

#include <ares.h>
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>

static int failed;

static void on_host(void *arg, int status, int timeouts, struct hostent *host)
{
	char text[INET6_ADDRSTRLEN];
	char **p;

	if (status == ARES_ENOTFOUND) {
		puts("not found");
		return;
	}
	if (status == ARES_ENODATA)
		return;
	if (status != ARES_SUCCESS) {
		fprintf(stderr, "ares: %s\n", ares_strerror(status));
		failed = 1;
		return;
	}
	for (p = host->h_addr_list; *p; p++) {
		inet_ntop(host->h_addrtype, *p, text, sizeof(text));
		printf("address %s\n", text);
	}
}

static void on_text(void *arg, int status, int timeouts, unsigned char *reply, int n)
{
	struct ares_txt_reply *list = NULL, *txt;
	size_t length = 0;

	if (status == ARES_SUCCESS)
		status = ares_parse_txt_reply(reply, n, &list);
	if (status != ARES_SUCCESS) {
		fprintf(stderr, "ares: %s\n", ares_strerror(status));
		failed = 1;
		return;
	}
	for (txt = list; txt; txt = txt->next)
		length += txt->length;
	printf("text %zu\n", length);
	ares_free_data(list);
}

static void wait_for(ares_channel channel)
{
	for (;;) {
		struct timeval tv, *timeout;
		fd_set readers, writers;
		int n;

		FD_ZERO(&readers);
		FD_ZERO(&writers);
		n = ares_fds(channel, &readers, &writers);
		if (n == 0)
			return;
		timeout = ares_timeout(channel, NULL, &tv);
		select(n, &readers, &writers, NULL, timeout);
		ares_process(channel, &readers, &writers);
	}
}

int main(int argc, char **argv)
{
	ares_channel channel;

	if (argc != 3 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
		return 2;
	if (strcmp(argv[1], "text")) {
		ares_gethostbyname(channel, argv[2], AF_INET, on_host, NULL);
		ares_gethostbyname(channel, argv[2], AF_INET6, on_host, NULL);
	} else {
		ares_query(channel, argv[2], ns_c_in, ns_t_txt, on_text, NULL);
	}
	wait_for(channel);
	ares_destroy(channel);
	ares_library_cleanup();
	return failed;
}
