# SPDX-License-Identifier: Apache-2.0
"""CPython's own: forking.py MAX_CHILDREN."""

import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(16384):
            self.request.sendall(data)


class Server(socketserver.ForkingTCPServer):
    max_children = int(sys.argv[1])
    request_queue_size = 1024


with Server(("127.0.0.1", 0), Echo) as server:
    print("listening on 127.0.0.1:%d" % server.server_address[1], flush=True)
    server.serve_forever()
