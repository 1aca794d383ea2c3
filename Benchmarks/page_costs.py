#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what a child costs in pages of memory: page_costs.py [--admission | --pool | --zygote] PROGRAM [NAME=BOUND ...]

Of a client of PROGRAM, a forkserve:

    left     pages that the parent wrote to after a fork, so that the child keeps them, as they were; but not those that the
             child has written to as well, of which each needs its own
    parent   page faults of the parent for a client
    child    page faults of a child that has answered a line
    private  KiB that an idle child has for itself
    mapped   pages whose entries a fork copies: what is there of the mappings that the parent has changed something in

With --admission the same of a forkserve that judges its clients.

With --pool, only what is left in the workers of forkserve prefork, each of which is replaced after some requests. With
--zygote, of a call to a zygote of PROGRAM's, a forkbench-host: left, parent and child.

Fails if one is above its bound, and names the pages that were left; what wrote to one of the heap or of a stack says
perf record -e page-faults -c 1 -d -g. Needs root, for the numbers of the pages' frames.
"""

import contextlib
import os
import re
import socket
import statistics
import struct
import subprocess
import sys

PAGE = 4096
EXCLUSIVE = 34  # a bit of /proc/kpageflags, "mappedtodisk" of a page that is a file's: see tools/mm/page-types.c of Linux
WARM_UP = 100  # the server settles after some clients
IDLE = 20
ROUNDS = 20
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)")


def ask(address):
    """A client whose child has answered, and waits for more."""
    client = socket.create_connection(address)
    client.sendall(b"x\n")
    client.recv(9)
    return client


def leave(client):
    client.shutdown(socket.SHUT_WR)
    client.recv(9)
    client.close()


def faults(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[7])


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(number) for number in file.read().split()]


def await_child(pid, attempt):
    """Tries until there is a child that was not there before."""
    old = children(pid)
    while True:
        attempt()
        if new := [child for child in children(pid) if child not in old]:
            return new[-1]


def private_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return int(re.search(r"Private_Dirty: +(\d+)", file.read())[1])


def mappings(pid):
    """Where children get a copy: start, end, name. Mappings in which nothing was changed are shared as the files they are."""
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            if found := MAPPING.match(line):
                start, end, name = int(found[1], 16), int(found[2], 16), found[3] or "no name"
                is_changed = False
            elif line.startswith("Anonymous:"):
                is_changed = int(line.split()[1]) > 0
            elif not is_changed:
                continue
            elif line.startswith("VmFlags:") and not {"dc", "sh"} & set(line.split()) and not name.startswith("[v"):
                yield start, end, name


def mapped(pid):
    """Each page that is there: its address, its entry in the kernel's pagemap, and its mapping's name."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        for start, end, name in mappings(pid):
            entries = os.pread(file.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
            for index, (entry,) in enumerate(struct.iter_unpack("Q", entries)):
                if entry >> 63:
                    yield start + index * PAGE, entry, name


def frames(pid):
    """The frame and the mapping of each page that is no file's; none of a process that has ended."""
    try:
        return {page: (entry & (1 << 55) - 1, name) for page, entry, name in mapped(pid) if not entry >> 61 & 1}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def was_written(frame):
    """Whether a process has written to a page of its own since it was forked: then the kernel knows that it has it alone."""
    with open("/proc/kpageflags", "rb", buffering=0) as file:
        (flags,) = struct.unpack("Q", os.pread(file.fileno(), 8, frame * 8))
        return bool(flags >> EXCLUSIVE & 1)


def count_left(pid, make_child):
    """How often each page was left in a child, by the time that its parent had done all it does until it has made the next."""
    counts, rounds, child = {}, 0, make_child()
    while rounds < ROUNDS:
        child, looked_at = make_child(), child
        now, kept = frames(pid), frames(looked_at)
        rounds += 1 if kept else 0  # a worker may have been replaced
        for page, (frame, name) in kept.items():
            if now.get(page, (0,))[0] != frame and not was_written(frame):
                counts[page, name] = counts.get((page, name), 0) + 1
    # Once in a while a page is allocated, or looked up: it is those that are written to for each client that count.
    return {page: count for page, count in counts.items() if count > ROUNDS / 2}


def symbols(program, page, name):
    """What stands in a page of the program's own data."""
    if os.path.basename(name) != os.path.basename(program) and name != "no name":
        return []
    listed = subprocess.run(["nm", "-S", program], capture_output=True, text=True).stdout.splitlines()
    fields = [line.split() for line in listed if len(line.split()) == 4]
    return [f[3] for f in fields if int(f[0], 16) < page + PAGE and int(f[0], 16) + int(f[1], 16) > page][:20]


@contextlib.contextmanager
def started(*command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def address_of(server):
    host, _, port = server.stdout.readline().split()[-1].rpartition(":")
    if not any(frame for frame, _ in frames(server.pid).values()):
        sys.exit("the kernel does not tell frames' numbers, which takes root (CAP_SYS_ADMIN)")
    return host, int(port)


ADMISSION = ["--per-source", "100000", "--rate", "1000000/s:100000", "--total-rate", "1000000/s:100000", "--penalty",
             "crash=1", "--early-drop", "98:1:99", "--reserve", "1=10.0.0.0/8", "--deny", "10.0.0.0/8"]


def measure_admission(program):
    return measure_clients(program, ADMISSION)


def measure_clients(program, options=()):
    with (started(program, "echo", "--max-children", "100", *options, "127.0.0.1:0") as server,
          contextlib.ExitStack() as held):
        pid, address = server.pid, address_of(server)

        def hold():
            held.enter_context(ask(address))
            return children(pid)[-1]

        for _ in range(WARM_UP):
            leave(ask(address))
        before = faults(pid)
        for _ in range(WARM_UP):
            leave(ask(address))
        parent = (faults(pid) - before) / WARM_UP
        idle = [hold() for _ in range(IDLE)]
        costs = {
            "parent": parent,
            "child": statistics.median(map(faults, idle)),
            "private": statistics.median(map(private_kib, idle)),
            "mapped": sum(1 for _ in mapped(pid)),
        }
        return costs, count_left(pid, hold)


def measure_pool(program):
    with started(program, "prefork", "--workers", "2", "--max-requests", "2", "127.0.0.1:0") as server:
        pid, address = server.pid, address_of(server)

        def replace():
            child = await_child(pid, lambda: leave(ask(address)))
            leave(ask(address))  # whatever the pool does about a new worker, it has done
            return child

        for _ in range(IDLE):
            replace()
        return {}, count_left(pid, replace)


def measure_zygote(program):
    with started(program, "overlapping", "nap", "0", "0", "1000", "1000", "0", "1") as host:
        while not (zygotes := children(host.pid)):
            pass
        zygote = zygotes[0]

        def call():
            return await_child(zygote, lambda: None)

        def faults_of_call():
            child = call()
            call()  # by now that one naps
            return faults(child)

        for _ in range(IDLE):
            call()
        before = faults(zygote)
        child = statistics.median(faults_of_call() for _ in range(IDLE))
        return {"parent": (faults(zygote) - before) / IDLE / 2, "child": child}, count_left(zygote, call)


def main():
    arguments = sys.argv[1:]
    shape = arguments.pop(0) if arguments[0].startswith("--") else "--clients"
    program, bounds = arguments[0], dict(text.split("=") for text in arguments[1:])
    costs, left = {"--clients": measure_clients, "--admission": measure_admission, "--pool": measure_pool,
                   "--zygote": measure_zygote}[shape](program)
    costs = {"left": len(left)} | costs
    print(" ".join(f"{name}={cost:g}" for name, cost in costs.items()))
    for (page, name), count in left.items():
        print(f"{page:#x} of {name}, {count} times of {ROUNDS}: {' '.join(symbols(program, page, name))}")
    above = [name for name, bound in bounds.items() if costs[name] > float(bound)]
    for name in above:
        print(f"{name} is {costs[name]:g}, and was {bounds[name]} at most", file=sys.stderr)
    sys.exit(1 if above else 0)


main()
