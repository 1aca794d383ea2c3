// SPDX-License-Identifier: Apache-2.0
//
// The command line's process, before it serves: parses options. It starts no thread.

import ArgumentParser
import Forking
import SystemPackage

/// The options of the sockets that a server creates.
struct SocketOptions: ParsableArguments {
    /// The parsed values, for a `Job`.
    struct Values: Equatable {
        var mode: Int?
        var group: UInt32?
        var isIPv6Only = false
        var noDelay = false

        mutating func code(_ coder: inout FieldCoder) {
            coder.field(&mode)
            coder.field(&group)
            coder.field(&isIPv6Only)
            coder.field(&noDelay)
        }

        func apply(to options: inout Listener.Options) {
            options.permissions = mode.map { FilePermissions(rawValue: CInterop.Mode($0)) }
            options.group = group
            options.isIPv6Only = isIPv6Only
        }
    }

    @Option(
        help: ArgumentHelp(
            """
            Permissions of a Unix socket's file, in octal. Connecting needs write permission. By default the umask \
            decides.
            """,
            valueName: "mode"))
    var mode: String?
    @Option(
        help: ArgumentHelp("The group of a Unix socket's file, by name or number.", valueName: "group"))
    var group: String?
    @Flag(name: .customLong("ipv6-only"), help: "Accept no IPv4 clients on [::].") var ipv6Only = false
    @Flag(help: "Send small writes at once instead of gathering them (TCP_NODELAY).") var noDelay = false

    /// Call `check` before.
    var values: Values {
        Values(
            mode: mode.flatMap(Self.permissions), group: group.flatMap { try? Credentials.group($0) },
            isIPv6Only: ipv6Only,
            noDelay: noDelay)
    }

    func check(_ addresses: [String]) throws {
        for (name, value) in [("--mode", mode), ("--group", group)] where value != nil {
            guard addresses.contains(where: { $0.hasPrefix("unix:") && !$0.hasPrefix("unix:@") }) else {
                throw ValidationError("\(name) is for a Unix socket's file, such as that of unix:/run/x.sock")
            }
        }
        if let mode, Self.permissions(mode) == nil {
            throw ValidationError("--mode is '\(mode)', and must be an octal number from 0 to 777, such as 660")
        }
        if ipv6Only, !addresses.contains(where: { $0.hasPrefix("[") }) {
            throw ValidationError("--ipv6-only is for an IPv6 address, such as [::]:7777")
        }
        do throws(ForkingError) {
            if let group { _ = try Credentials.group(group) }
        } catch {
            throw ValidationError("--group: \(error)")
        }
    }

    private static func permissions(_ text: String) -> Int? {
        guard text.utf8.allSatisfy({ (48...55).contains($0) }), let mode = Int(text, radix: 8), mode <= 0o777 else {
            return nil
        }
        return mode
    }
}
