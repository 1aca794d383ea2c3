#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists what a child of forkserve touches, and what its parent ever writes to: hot_symbols.py FORKSERVE > hot-symbols.

The linker puts them side by side (see static-build), so that a child has few pages to fault in, and a fork few to copy. The
parent keeps the program text that it has mapped, so that its own way does not matter. Needs valgrind and binutils, and a
forkserve linked statically.
"""

import bisect
import glob
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile

SETTLED = 20  # by then it has; what the parent does from then on is what it does for each client
CLIENTS = 24  # the server settles after some; the last child is looked at
ACCESS = re.compile(r"(?:I | [LSM]) +([0-9a-f]+),\d+$")
EXECUTED = re.compile(r"I +([0-9a-f]+),\d+$")
WRITING = re.compile(r" [SM] +([0-9a-f]+),\d+$")
# Parts of Swift's own library, whose code is one section of some megabytes, and its data another: what stands behind them
# in the list would stand behind those in the program.
LAST = ["$ss23_ContiguousArrayStorageCfD", "$ss23_ContiguousArrayStorageCys5UInt8VGMf", "$ss5UInt8VMf"]
# What valgrind's processor does not have, and real ones do; and what the parent reads as it rehearses, once it has unmapped
# what its start needed: it would map fifteen pages around it again.
OTHERS = ["__memmove_avx512_unaligned_erms", "__memmove_evex_unaligned_erms", "$sBoWV"]


def exchange(address):
    with socket.create_connection(address) as client:
        client.sendall(b"hello\n")
        client.recv(100)
        client.shutdown(socket.SHUT_WR)
        client.recv(100)


def job_of(program):
    """What forkserve tells its second image to do, but for the number of its process."""
    server = subprocess.Popen([program, "echo", "127.0.0.1:0"], stdout=subprocess.PIPE)
    server.stdout.readline()
    with open(f"/proc/{server.pid}/environ", "rb") as variables:
        job = next(line for line in variables.read().split(b"\0") if line.startswith(b"FORKSERVE_JOB="))
    server.send_signal(signal.SIGTERM)
    server.wait()
    return job.partition(b" ")[2].decode()


def touched(program, directory):
    """The addresses that the last child touches, and those to which the parent writes."""
    # Valgrind follows no exec, which forkserve begins with: it is given the job that the second image of another one had.
    job = f"export FORKSERVE_JOB=\"$$ {job_of(program)}\"; exec \"$@\""
    server = subprocess.Popen(
        ["sh", "-c", job, "sh", "valgrind", "--tool=lackey", "--trace-mem=yes", f"--log-file={directory}/trace.%p",
         program, "echo"],
        stdout=subprocess.PIPE, text=True,
    )
    host, port = server.stdout.readline().split()[-1].split(":")
    parents = f"{directory}/trace.{server.pid}"
    for number in range(CLIENTS):
        if number == SETTLED:
            start = os.path.getsize(parents)
        exchange((host, int(port)))
    end = os.path.getsize(parents)
    server.send_signal(signal.SIGTERM)
    server.wait()
    last = max(int(path.rpartition(".")[2]) for path in glob.glob(f"{directory}/trace.*"))
    return (
        addresses(f"{directory}/trace.{last}", ACCESS), addresses(parents, EXECUTED, start, end), addresses(parents, WRITING)
    )


def addresses(trace, pattern, start=0, end=None):
    with open(trace, "rb") as file:
        file.seek(start)
        lines = file.read(-1 if end is None else end - start).decode("ascii", "replace").splitlines()
        return {int(match.group(1), 16) for line in lines if (match := pattern.match(line))}


def symbols(program):
    table = []
    for line in subprocess.run(["nm", "-nS", program], capture_output=True, text=True, check=True).stdout.splitlines():
        parts = line.split()
        if len(parts) == 4:
            table.append((int(parts[0], 16), int(parts[1], 16), parts[3]))
    return table


def named(addresses, table):
    """The symbols that these addresses are in, the smallest first: a large one would take the small ones apart."""
    starts = [start for start, _, _ in table]
    sizes = {}
    for address in addresses:
        index = bisect.bisect_right(starts, address) - 1
        while index >= 0 and address < table[index][0] + table[index][1]:
            sizes[table[index][2]] = table[index][1]
            if index == 0 or table[index - 1][0] != table[index][0]:
                break
            index -= 1
    return sorted(sizes, key=lambda name: (sizes[name], name))


def main(program, directory):
    stripped = os.path.join(directory, "forkserve")
    subprocess.run(["strip", "-g", "-o", stripped, program], check=True)  # valgrind cannot read Swift's debug information
    table = symbols(stripped)
    touches, executes, writes = (named(addresses, table) for addresses in touched(stripped, directory))
    names = dict.fromkeys([*(name for name in [*touches, *writes] if name not in LAST), *OTHERS, *LAST, *executes])
    print("\n".join(names))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        main(sys.argv[1], directory)
