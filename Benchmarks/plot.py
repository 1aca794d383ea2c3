#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what `forkbench reap --json FILE` measured: plot.py FILE OUT.svg. Needs matplotlib."""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NAMES = {
    "table": ("ChildTable", "#d9480f"),
    "sweep": ("one waitpid per live child (ForkingMixIn)", "#495057"),
}


def main(source, target):
    with open(source, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if row["benchmark"] == "reap" and row["batch"] == 1]
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = sorted((row for row in rows if row["method"] == method), key=lambda row: row["live"])
        name, colour = NAMES.get(method, (method, None))
        live = [row["live"] for row in mine]
        axes.plot(live, [row["cycle_us"] for row in mine], "o-", label=name, color=colour)
        axes.fill_between(
            live, [row["cycle_us_p10"] for row in mine], [row["cycle_us_p90"] for row in mine], alpha=0.2, color=colour
        )
    axes.set_yscale("log")
    axes.set_xlabel("idle live children")
    axes.set_ylabel("µs per child: fork, exit, reap")
    axes.set_title("What one more child costs (median, band p10 to p90)", fontsize=10)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: plot.py FILE OUT.svg, where forkbench reap --json FILE wrote FILE")
    main(sys.argv[1], sys.argv[2])
