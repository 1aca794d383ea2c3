#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what `forkbench reap --json FILE` or `forkbench serve --json FILE` measured. Needs matplotlib.

plot.py FILE OUT.svg [CLIENTS]; CLIENTS chooses one of serve's numbers of clients, by default the first.
"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

METHODS = {
    "table": ("ChildTable", "#d9480f"),
    "sweep": ("one waitpid per live child (ForkingMixIn)", "#495057"),
}
PEERS = {
    "forkserve-dynamic": ("forkserve", "#f08c00"),
    "forkserve-static": ("forkserve, static", "#d9480f"),
    "forkserve-static-spares": ("forkserve, static, with spares", "#c2255c"),
    "c-dynamic": ("C by hand", "#868e96"),
    "c-static": ("C by hand, static", "#212529"),
    "python": ("CPython ForkingTCPServer", "#1971c2"),
    "perl": ("Perl Net::Server::Fork", "#6741d9"),
    "forkserve-exec": ("forkserve exec", "#e8590c"),
}


def reap(rows):
    """Cycle, by live children, a line for each method."""
    rows = [row for row in rows if row["batch"] == 1]
    keys = ("cycle_us", "cycle_us_p10", "cycle_us_p90")
    lines = [(METHODS.get(row["method"], (row["method"], None)), row["live"], *(row[key] for key in keys)) for row in rows]
    return lines, "µs per child: fork, exit, reap", "What one more child costs"


def serve(rows, clients):
    """Time per connection, by live children, a line for each peer."""
    clients = clients or rows[0]["clients"]
    rows = [row for row in rows if row["clients"] == clients and row["peer"] != "ceiling"]
    if not rows:
        sys.exit(f"nothing was measured with {clients} clients")
    keys = ("connections_per_s", "connections_per_s_p90", "connections_per_s_p10")
    lines = [(PEERS.get(row["peer"], (row["peer"], None)), row["live"], *(1e6 / row[key] for key in keys)) for row in rows]
    return lines, "µs per connection", f"What one more connection costs, {clients} clients"


def draw(lines, unit, title, target):
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for style in dict.fromkeys(line[0] for line in lines):
        live, middle, low, high = zip(*sorted(line[1:] for line in lines if line[0] == style))
        name, colour = style
        drawn = axes.plot(live, middle, "o-", label=name, color=colour)
        axes.fill_between(live, low, high, alpha=0.2, color=drawn[0].get_color())
    axes.set_yscale("log")
    axes.set_xlabel("idle live children")
    axes.set_ylabel(unit)
    axes.set_title(f"{title} (median, band p10 to p90)", fontsize=10)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(frameon=False, fontsize=9 if len(axes.lines) < 6 else 7)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def main(source, target, clients=None):
    with open(source, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if rows[0]["benchmark"] == "reap":
        draw(*reap(rows), target)
    else:
        draw(*serve(rows, clients and int(clients)), target)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: plot.py FILE OUT.svg [CLIENTS], where forkbench reap or serve --json FILE wrote FILE")
    main(*sys.argv[1:])
