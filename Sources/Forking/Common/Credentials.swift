// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Whom a child acts as: user, group, and supplementary groups. credentials(7).
///
/// A child takes them on as one of its first acts, before its body or its program; only a parent with root's rights can
/// give others than its own. Nothing else changes: not its variables, such as HOME, nor its directory.
public struct Credentials: Hashable, Sendable {
    /// The real, effective and saved user. setresuid(2).
    public var user: UInt32
    /// The real, effective and saved group. setresgid(2).
    public var group: UInt32
    /// All others; none of the parent's stay. setgroups(2).
    public var supplementaryGroups: [UInt32]

    /// Of numbers, as the kernel knows them.
    public init(user: UInt32, group: UInt32, supplementaryGroups: [UInt32] = []) {
        self.user = user
        self.group = group
        self.supplementaryGroups = supplementaryGroups
    }

    /// Reads them as a person writes them: `USER` or `USER:GROUP`, each a name or a number. Without a group it is the
    /// user's own; the supplementary groups are all that the user is a member of. passwd(5), group(5).
    ///
    /// Parent, before it serves. The files are read here, as a statically linked libc may not be able to; users that
    /// only a directory service knows have to be given as numbers, and are then in no other group.
    ///
    /// - Throws: `ForkingError.Code.invalid` if there is no such user or group, or if a number alone does not say which
    ///   group.
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

    /// A group by its name, or its number. Parent. group(5).
    ///
    /// - Throws: `ForkingError.Code.invalid` if there is none of that name in /etc/group.
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
    /// Calls `body` with them as C has them.
    func withC<R>(_ body: (UnsafePointer<forkcore_credentials>) -> R) -> R {
        supplementaryGroups.withUnsafeBufferPointer { groups in
            var whose = forkcore_credentials(
                user: user, group: group, groups: groups.baseAddress, group_count: groups.count)
            return body(&whose)
        }
    }
}

/// The lines of /etc/passwd, or of /etc/group: fields between colons, a name first, a number third.
struct AccountFile {
    struct Entry {
        let name: Substring
        let number: UInt32
        /// Of a user, the group.
        let group: UInt32?
        /// Of a group.
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

    /// The first of that name, or else of that number.
    func entry(_ text: Substring) -> Entry? {
        entries.first { $0.name == text } ?? UInt32(text).flatMap { number in entries.first { $0.number == number } }
    }

    func numbers(withMember name: Substring) -> [UInt32] {
        entries.filter { $0.members.contains(name) }.map(\.number)
    }
}
