// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// The user, group and supplementary groups that a child runs as. credentials(7).
///
/// A child assumes them in one of its first steps, before its body or its program runs. Only a privileged parent can
/// set credentials other than its own. Nothing else changes, neither environment variables such as HOME nor the working
/// directory.
public struct Credentials: Hashable, Sendable {
    /// The real, effective and saved user ID. setresuid(2).
    public var user: UInt32
    /// The real, effective and saved group ID. setresgid(2).
    public var group: UInt32
    /// All supplementary groups; none of the parent's remain. setgroups(2).
    public var supplementaryGroups: [UInt32]

    /// Makes credentials from numeric IDs.
    public init(user: UInt32, group: UInt32, supplementaryGroups: [UInt32] = []) {
        self.user = user
        self.group = group
        self.supplementaryGroups = supplementaryGroups
    }

    /// Parses `USER` or `USER:GROUP`, each a name or a number. The default group is the user's own; the supplementary
    /// groups are all that the user is a member of. passwd(5), group(5).
    ///
    /// Parent, before it serves. Reads the files directly, because a statically linked libc may not be able to. Users
    /// that only a directory service knows must be given as numbers, and get no supplementary groups.
    ///
    /// - Throws: `ForkingError.Code.invalid` if there is no such user or group, or if a numeric user needs a group too.
    public init(parsing text: String) throws(ForkingError) {
        try self.init(
            parsing: text, users: AccountFile(KernelFile.lines("/etc/passwd")),
            groups: AccountFile(KernelFile.lines("/etc/group")))
    }

    init(parsing text: String, users: AccountFile, groups: AccountFile) throws(ForkingError) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let account = users.entry(parts[0])
        guard let number = account?.number ?? UInt32(parts[0]), number != .max else {
            throw .invalid("there is no user '\(SocketAddress.printable(String(parts[0])))' in /etc/passwd")
        }
        user = number
        if parts.count == 2 {
            group = try Self.group(parts[1], in: groups)
        } else if let own = account?.group {
            group = own
        } else {
            throw .invalid("user \(number) is not in /etc/passwd: say the group too, as in \(number):\(number)")
        }
        supplementaryGroups = account.map { groups.numbers(withMember: $0.name) } ?? []
        if !supplementaryGroups.contains(group) { supplementaryGroups.insert(group, at: 0) }
    }

    /// Returns the ID of a group given by name or number. Parent. group(5).
    ///
    /// - Throws: `ForkingError.Code.invalid` if /etc/group has no group of that name.
    public static func group(_ text: String) throws(ForkingError) -> UInt32 {
        try group(Substring(text), in: AccountFile(KernelFile.lines("/etc/group")))
    }

    private static func group(_ text: Substring, in groups: AccountFile) throws(ForkingError) -> UInt32 {
        guard let number = groups.entry(text)?.number ?? UInt32(text), number != .max else {
            throw .invalid("there is no group '\(SocketAddress.printable(String(text)))' in /etc/group")
        }
        return number
    }
}

extension Credentials {
    /// Calls `body` with the C form of these credentials.
    func withC<R>(_ body: (UnsafePointer<forkcore_credentials>) -> R) -> R {
        supplementaryGroups.withUnsafeBufferPointer { groups in
            var whose = forkcore_credentials(
                user: user, group: group, groups: groups.baseAddress, group_count: groups.count)
            return body(&whose)
        }
    }
}

/// The lines of /etc/passwd or /etc/group: fields separated by colons, the first a name, the third a number.
struct AccountFile {
    struct Entry {
        let name: Substring
        let number: UInt32
        /// A user's group.
        let group: UInt32?
        /// A group's members.
        let members: [Substring]
    }

    private let entries: [Entry]

    init(_ lines: [Substring]) {
        entries = lines.compactMap { line in
            let fields = line.split(separator: ":", omittingEmptySubsequences: false)
            guard fields.count >= 4, !fields[0].isEmpty, let number = UInt32(fields[2]) else { return nil }
            return Entry(
                name: fields[0], number: number, group: UInt32(fields[3]),
                members: fields[3].split(separator: ","))
        }
    }

    /// The first entry with that name, else the first with that number.
    func entry(_ text: Substring) -> Entry? {
        entries.first { $0.name == text } ?? UInt32(text).flatMap { number in entries.first { $0.number == number } }
    }

    func numbers(withMember name: Substring) -> [UInt32] {
        entries.filter { $0.members.contains(name) }.map(\.number)
    }
}
