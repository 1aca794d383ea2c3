#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what `forkbench BENCHMARK --json FILE` measured: plot.py FILE… OUT.svg. Needs matplotlib.

Rows of all files are drawn together; of what was measured twice, the last one counts. The same rows give the same bytes.
"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

REAP_METHODS = {
    "table": ("ChildTable (this library)", "#d9480f"),
    "sweep": ("one waitpid per live child (Python's way)", "#495057"),
    "waitpid-any": ("waitpid(-1) loop in C", "#1971c2"),
    "pidfd": ("pidfd per child, epoll, in C", "#2f9e44"),
    "kernel": ("reference: the kernel reaps by itself", "#ae3ec9"),
}

SERVE_PEERS = {
    "forkserve-static": ("forkserve, static", "#d9480f", "-"),
    "forkserve-dynamic": ("forkserve", "#f08c00", "-"),
    "c-static": ("C by hand, static", "#212529", "-"),
    "c-dynamic": ("C by hand", "#868e96", "-"),
    "python": ("CPython ForkingTCPServer", "#1971c2", "-"),
    "perl": ("Perl Net::Server::Fork", "#6741d9", "-"),
    "forkserve-exec": ("forkserve exec", "#d9480f", "--"),
    "tcpserver": ("tcpserver", "#2f9e44", "--"),
    "tcpsvd": ("tcpsvd", "#0c8599", "--"),
    "xinetd": ("xinetd", "#ae3ec9", "--"),
    "socat": ("socat", "#495057", "--"),
}


POOL_SERVERS = {
    "forkserve-prefork-static": ("forkserve prefork, static", "#d9480f"),
    "forkserve-prefork": ("forkserve prefork", "#f08c00"),
    "c-static": ("C by hand, static", "#212529"),
    "nginx": ("nginx", "#2f9e44"),
    "apache": ("Apache prefork", "#ae3ec9"),
    "gunicorn": ("gunicorn sync", "#1971c2"),
    "starman": ("Starman", "#6741d9"),
    "hummingbird": ("Hummingbird, one process", "#c2255c"),
}


CALL_METHODS = {
    "zygote": ("Zygote (this library), a fork for each call", "#d9480f"),
    "warm": ("Zygote, warm children", "#f08c00"),
    "distributed": ("Zygote, a distributed actor", "#c2255c"),
    "distributed-json": ("Zygote, a distributed actor, JSON", "#e64980"),
    "isolate": ("Zygote, an isolate", "#ae3ec9"),
    "fork": ("fork of the host itself", "#212529"),
    "posix_spawn": ("posix_spawn of a static program in C", "#1971c2"),
    "swift-subprocess": ("swift-subprocess, the same program", "#2f9e44"),
}


def draw_reap(rows):
    """Left what the parent spends, right the whole cycle; above one child at a time, below batches."""
    batches = sorted({row["batch"] for row in rows})
    figure, grid = plt.subplots(
        len(batches), 2, figsize=(9, 0.9 + 3.1 * len(batches)), sharex=True, sharey=True, squeeze=False
    )
    rows = {(row["method"], row["live"], row["batch"]): row for row in rows}.values()
    for axes_of_batch, batch in zip(grid, batches):
        how = "one at a time" if batch == 1 else f"in batches of {batch}"
        for axes, key, what in zip(axes_of_batch, ("both_us", "cycle_us"), ("fork + reap", "fork until reaped")):
            for method, (name, colour) in REAP_METHODS.items():
                mine = [row for row in rows if row["method"] == method and row["batch"] == batch]
                draw_line(axes, sorted(mine, key=lambda row: row["live"]), key, name, colour)
            axes.set_title(f"{what}, {how}", fontsize=10)
            scale(axes, rows)
        axes_of_batch[0].set_ylabel("µs per child")
    for axes in grid[-1]:
        axes.set_xlabel("idle children alive besides")
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.7 / figure.get_figheight(), 1, 1))
    return figure


def draw_serve(rows):
    """What a connection costs, a part for each number of clients. Dashed: a program is executed for each."""
    rows = [time_per_connection(row) for row in rows if row["peer"] in SERVE_PEERS]
    counts = sorted({row["clients"] for row in rows})
    figure, (parts,) = plt.subplots(
        1, len(counts), figsize=(max(7, 4.2 * len(counts)), 4.4), sharex=True, sharey=True, squeeze=False
    )
    for axes, clients in zip(parts, counts):
        for peer, (name, colour, style) in SERVE_PEERS.items():
            mine = [row for row in rows if row["peer"] == peer and row["clients"] == clients]
            draw_line(axes, sorted(mine, key=lambda row: row["live"]), "time_us", name, colour, style)
        axes.set_title("one client" if clients == 1 else f"{clients} clients", fontsize=10)
        scale(axes, rows)
        axes.set_xlabel("idle children alive besides")
    parts[0].set_ylabel("µs per connection")
    handles, names = parts[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=4, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.8 / figure.get_figheight(), 1, 1))
    return figure


def time_per_connection(row):
    """What is quick takes little time, so the tenths change places."""
    turned = {"": "", "_p10": "_p90", "_p90": "_p10"}
    return row | {f"time_us{end}": 1e6 / row[f"connections_per_s{other}"] for end, other in turned.items()}


def scale(axes, rows):
    axes.set_yscale("log")
    axes.set_xscale("symlog", linthresh=100, linscale=0.5)  # 0 has its place, too
    ticks = sorted({row["live"] for row in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(True, alpha=0.3)


def draw_line(axes, rows, key, name, colour, style="-"):
    """The median, and a band from p10 to p90."""
    if not rows:
        return
    live = [row["live"] for row in rows]
    axes.plot(live, [row[key] for row in rows], "o" + style, label=name, color=colour, markersize=3.5, mew=0, lw=1.4)
    low, high = ([row[f"{key}_{end}"] for row in rows] for end in ("p10", "p90"))
    axes.fill_between(live, low, high, alpha=0.15, color=colour, linewidth=0)


def draw_prefork(rows):
    """Requests a second, each on a connection of its own, a part for each number of clients."""
    rows = [row for row in rows if row["mode"] == "close" and row["server"] in POOL_SERVERS]
    counts = sorted({row["connections"] for row in rows})
    figure, (parts,) = plt.subplots(1, len(counts), figsize=(3.4 * len(counts) + 1.6, 3.2), sharey=True, squeeze=False)
    names = [server for server in POOL_SERVERS if any(row["server"] == server for row in rows)][::-1]
    for axes, connections in zip(parts, counts):
        mine = {row["server"]: row for row in rows if row["connections"] == connections}
        for place, server in enumerate(names):
            if server in mine:
                row, colour = mine[server], POOL_SERVERS[server][1]
                spread = [[row["rps"] - row["rps_p10"]], [row["rps_p90"] - row["rps"]]]
                axes.barh(place, row["rps"], color=colour, alpha=0.8, height=0.7)
                axes.errorbar(row["rps"], place, xerr=spread, color="#212529", lw=1, capsize=2)
        axes.set_title("one client" if connections == 1 else f"{connections} clients", fontsize=10)
        axes.set_yticks(range(len(names)), [POOL_SERVERS[server][0] for server in names], fontsize=9)
        axes.set_xlabel("requests per second", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(True, axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    figure.tight_layout()
    return figure


def draw_zygote(rows):
    """The median of an echo call from an idle host, by how much memory that has."""
    rows = [row | {"live": row["heap_mb"]} for row in rows if row["work"] == "echo" and row["host_threads"] == 0]
    figure, axes = plt.subplots(figsize=(9, 3.4))
    for method, (name, colour) in CALL_METHODS.items():
        mine = [row for row in rows if row["method"] == method and "p50_us" in row]
        draw_line(axes, sorted(mine, key=lambda row: row["live"]), "p50_us", name, colour)
    scale(axes, rows)
    axes.set_xlabel("memory that the host occupies besides, MiB")
    axes.set_ylabel("µs until the answer, median")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure


DRAWINGS = {"reap": draw_reap, "serve": draw_serve, "prefork": draw_prefork, "zygote": draw_zygote}


def read_rows(paths):
    rows = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            rows += [json.loads(line) for line in file if line.strip()]
    return rows


def main(sources, target):
    try:
        rows = read_rows(sources)
        kinds = sorted({row["benchmark"] for row in rows})
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"plot.py: {error}: each FILE must be one that forkbench --json wrote")
    if len(kinds) != 1 or kinds[0] not in DRAWINGS:
        sys.exit(f"plot.py: found {', '.join(kinds) or 'nothing'}: a picture shows one of {', '.join(DRAWINGS)}")
    # Without these two the file would differ from run to run, and carry each letter's outline.
    plt.rcParams.update({"svg.hashsalt": "forkbench", "svg.fonttype": "none"})
    DRAWINGS[kinds[0]](rows).savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: plot.py FILE… OUT.svg, where forkbench --json FILE wrote each FILE")
    main(sys.argv[1:-1], sys.argv[-1])
