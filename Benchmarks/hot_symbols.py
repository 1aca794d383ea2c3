#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the functions and data that forkserve touches for each connection: hot_symbols.py FORKSERVE > hot-symbols.

The linker puts them side by side (see static-build), so that a child has few pages to fault in: program text is mapped in
64 KiB at a time, and each time costs some 2.7 microseconds. Needs valgrind and binutils, and a forkserve linked statically.
"""

import bisect
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

WARM_UP, WATCHED = 20, 6
ACCESS = re.compile(r"(?:I | [LSM]) +([0-9a-f]+),\d+$")
# What valgrind's processor does not have, and real ones do.
OTHER_VARIANTS = ["__memmove_avx512_unaligned_erms", "__memmove_evex_unaligned_erms"]


def exchange(address, count):
    for _ in range(count):
        with socket.create_connection(address) as client:
            client.sendall(b"hello\n")
            client.recv(100)
            client.shutdown(socket.SHUT_WR)
            client.recv(100)


def touched(program):
    """Addresses that parent and children touch while connections are served by a server that has warmed up."""
    # As forkserve tells itself, with the number of its process: valgrind follows no exec.
    job = "export FORKSERVE_JOB=\"$$ echo 0 40 0 1024 0 10.0 3.0 false false 127.0.0.1:0\"; exec \"$@\""
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["sh", "-c", job, "sh", "valgrind", "--tool=lackey", "--trace-mem=yes", f"--log-fd={writing}", program, "echo"],
        stdout=subprocess.PIPE, pass_fds=[writing], text=True,
    )
    os.close(writing)
    with open(reading, encoding="ascii", errors="replace") as trace:
        if os.fork() == 0:  # the clients; the server stands still unless its trace is read
            host, port = server.stdout.readline().split()[-1].split(":")
            exchange((host, int(port)), WARM_UP)
            os.close(os.open(MARKER, os.O_CREAT))
            exchange((host, int(port)), WATCHED)
            time.sleep(1)  # the trace is some way behind
            os.remove(MARKER)
            time.sleep(1)
            os.kill(server.pid, signal.SIGTERM)
            os._exit(0)
        addresses, watching = set(), False
        for number, line in enumerate(trace):
            if number % 1024 == 0:
                watching = os.path.exists(MARKER)
            if watching and (match := ACCESS.match(line)):
                addresses.add(int(match.group(1), 16) & ~7)
    return addresses


def symbols(program):
    table = []
    for line in subprocess.run(["nm", "-nS", program], capture_output=True, text=True, check=True).stdout.splitlines():
        parts = line.split()
        if len(parts) == 4:
            table.append((int(parts[0], 16), int(parts[1], 16), parts[3]))
    return table


def main(program):
    stripped = os.path.join(DIRECTORY, "forkserve")
    subprocess.run(["strip", "-g", "-o", stripped, program], check=True)  # valgrind cannot read Swift's debug information
    table = symbols(stripped)
    starts = [start for start, _, _ in table]
    names = {}
    for address in sorted(touched(stripped)):
        index = bisect.bisect_right(starts, address + 7) - 1
        while index >= 0 and address < table[index][0] + table[index][1]:
            names[table[index][2]] = None
            if index == 0 or table[index - 1][0] != table[index][0]:
                break
            index -= 1
    print("\n".join([*names, *OTHER_VARIANTS]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    DIRECTORY = tempfile.mkdtemp()
    MARKER = os.path.join(DIRECTORY, "watch")
    try:
        main(sys.argv[1])
    finally:
        shutil.rmtree(DIRECTORY)
