#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails if a file of Sources/Forking names a type of a room that it must not know. docs/DESIGN.md has the rooms."""
import re, sys
from pathlib import Path

root = Path(__file__).parent.parent / "Sources/Forking"
# Each room may use those that stand before it, and itself.
order = ["Common", "ParentOnly", "Sockets", "Shared", "Policy", "Parent", "Child", "Worker", "Zygote", "Host"]
# Whoever forks a process names what runs there.
forks = {("Parent", "Child"), ("Parent", "Worker")}
# The shapes' names are also name spaces, for types of any room.
shapes = {"ForkingServer", "PreforkServer", "Zygote", "ZygoteClient"}
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
        if name in shapes or (room, there) in forks: continue
        if there and order.index(there) > order.index(room):
            wrong.append(f"{file.relative_to(root)} names {name}, of {there}")
print("\n".join(wrong))
sys.exit(bool(wrong))
