#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails if a file of Sources/Forking names a type of a room that it must not know. docs/DESIGN.md has the rooms."""
import re, sys
from pathlib import Path

root = Path(__file__).parent.parent / "Sources/Forking"
# Each room may use those that stand before it, and itself.
order = ["Common", "Sockets", "Policy", "Shared", "Parent", "Child", "Worker", "Host", "Zygote"]
declaration = re.compile(r"^(?:(?:public|package|private|fileprivate|final|indirect) )*(?:struct|class|enum|protocol|actor) (\w+)", re.M)
noise = re.compile(r'//[^\n]*|"(?:\\.|[^"\\\n])*"')

home = {}
for file in root.rglob("*.swift"):
    for name in declaration.findall(file.read_text()):
        home[name] = file.relative_to(root).parts[0]

wrong = []
for file in sorted(root.rglob("*.swift")):
    room = file.relative_to(root).parts[0]
    for name in sorted(set(re.findall(r"\b[A-Z]\w+", noise.sub("", file.read_text())))):
        there = home.get(name)
        if there and order.index(there) > order.index(room):
            wrong.append((room, there, f"{file.relative_to(root)} names {name}, of {there}"))
for _, _, line in wrong: print(line)
sys.exit(bool(wrong))
