# SPDX-License-Identifier: Apache-2.0
"""Asks with Python's socket.getaddrinfo."""

import socket
import sys

try:
    for *_, sockaddr in socket.getaddrinfo(sys.argv[2], None, type=socket.SOCK_STREAM):
        print("address", sockaddr[0])
except socket.gaierror as err:
    if err.errno != socket.EAI_NONAME:
        raise
    print("not found")
