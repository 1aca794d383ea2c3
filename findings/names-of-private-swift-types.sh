#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The name of a private Swift type is no name: it has an address in it, which is another one after each execve.
#
# Swift 6.3.1 on Linux. String(reflecting:) gives a private or fileprivate type "module.(unknown context at $ADDRESS).Name". In
# processes that were forked from one another it is the same text; in a program that was executed anew it is not, because its
# address space is laid out anew. So what registers handlers by the names of their types finds them after fork, and not after
# a restart. _mangledTypeName returns a name for such a type, too, but _typeByName does not find the type by it, not even in the
# same process: what sends an error with the name of its type must look first whether that leads back.
#
#     findings/names-of-private-swift-types.sh
#
# Needs Swift. Fails if it behaves otherwise.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/names.swift" <<'S'
private struct Hidden {}
struct Shown {}

func isFound(_ type: any Any.Type) -> Bool { _mangledTypeName(type).flatMap { _typeByName($0) } != nil }

print(String(reflecting: Hidden.self), isFound(Hidden.self), String(reflecting: Shown.self), isFound(Shown.self))
S
swiftc -swift-version 6 -o "$scratch/names" "$scratch/names.swift"
swiftc --version 2>/dev/null | head -n 1
first=$("$scratch/names")
second=$("$scratch/names")
printf '%s\n%s\n' "$first" "$second"
pattern='^names\.\(unknown context at \$[0-9a-f]+\)\.Hidden false names\.Shown true$'
printf '%s\n' "$first" | grep -qE "$pattern"
printf '%s\n' "$second" | grep -qE "$pattern"
[ "$first" != "$second" ]
