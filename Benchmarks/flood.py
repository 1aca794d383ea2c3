#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what honest clients notice of two bad ones: flood.py FORKSERVE [SECONDS]

A forkserve echo with 100 children, --per-source 8 and --rate 20/s:40 serves honest clients from 200 addresses, one after
the other: alone, and then while one source opens 10,000 connections as fast as it can, and another holds 40 that send a
byte a second. For comparison the same without a policy. Prints the time from connect to the answer, and the parent's
processor time. Fails if an honest client was not served, or if the server does not serve the bad source afterwards.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

POLICY = ["--per-source", "8", "--rate", "20/s:40"]
FLOOD = """
import socket, sys, time
port, end, held = int(sys.argv[1]), time.time() + float(sys.argv[2]), []
for count in range(10_000):
    if time.time() > end: break
    client = socket.socket()
    client.bind(("127.0.0.2", 0))
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", port))
    held.append(client)
    if len(held) > 300: held.pop(0).close()
print(count + 1)
"""


def connect(port, source):
    client = socket.socket()
    client.settimeout(30)
    client.bind((source, 0))
    client.connect(("127.0.0.1", port))
    return client


def is_served(port, source):
    try:
        with connect(port, source) as client:
            client.sendall(b"x\n")
            return client.recv(2) == b"x\n"
    except OSError:
        return False


def trickle(port, seconds):
    clients = [connect(port, "127.0.0.3") for _ in range(40)]
    end = time.time() + seconds
    while time.time() < end:
        for client in clients:
            try:
                client.send(b"a")
            except OSError:
                pass  # refused, or ended by --io-timeout
        time.sleep(1)


def processor_time(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(program, options, seconds, is_attacked):
    server = subprocess.Popen(
        [program, "echo", "--max-children", "100", "--io-timeout", "5", *options, "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    port = int(server.stdout.readline().rsplit(":", 1)[1])
    threads, flood = [], None
    if is_attacked:
        flood = subprocess.Popen(
            [sys.executable, "-c", FLOOD, str(port), str(seconds)], stdout=subprocess.PIPE, text=True)
        threads = [threading.Thread(target=trickle, args=(port, seconds))]
        for thread in threads:
            thread.start()
    times, unserved = [], 0
    end = time.time() + seconds
    while time.time() < end:
        begin = time.perf_counter()
        if is_served(port, f"127.0.1.{2 + len(times) % 200}"):
            times.append(time.perf_counter() - begin)
        else:
            unserved += 1
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    count = flood.communicate()[0].strip() if flood else "0"
    spent = processor_time(server.pid)
    time.sleep(1)  # a second refills the bucket by 20 clients
    is_forgiven = is_served(port, "127.0.0.2")
    server.send_signal(signal.SIGTERM)
    errors = server.communicate()[1].strip().split("\n")
    times.sort()
    p50, p99 = (times[min(len(times) - 1, int(share * len(times)))] * 1e3 for share in (0.5, 0.99))
    print(
        f"{'policy' if options else 'none':7} {'flood of ' + count if is_attacked else 'alone':16} served {len(times):5} "
        f"not served {unserved:3}  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  parent {spent:5.2f} s", flush=True)
    if errors[-1]:
        print("        " + errors[-1])
    return unserved == 0 and is_forgiven and server.returncode == 0


def main():
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__.split("\n\n")[0])
    program, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 6
    runs = [(POLICY, False), (POLICY, True), ([], False), ([], True)]
    good = [measure(program, options, seconds, is_attacked) for options, is_attacked in runs]
    if not all(good[:3]):  # without a policy nothing is promised
        sys.exit("an honest client was not served, or the source was not forgiven")


main()
