// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
public import SystemPackage

/// A program that a child is to be, with its arguments and environment. execve(2).
public struct Program: Sendable {
    /// Where it is; it is not looked for in PATH. Byte for byte: it need not be UTF-8.
    public var path: FilePath
    /// Its own name first, as it is to see it.
    public var arguments: CStrings
    /// Variables, each as `NAME=value`.
    public var environment: CStrings

    /// Whether it has the connection on descriptor 2 as well, rather than ours: some say there what their clients are
    /// to read.
    public var isStandardErrorConnected = false

    /// - Parameters:
    ///   - path: where it is.
    ///   - arguments: its own name first.
    ///   - environment: by default that of this process, as it is now, without what a service manager said to this
    ///     process alone.
    public init(path: FilePath, arguments: CStrings, environment: CStrings = .environment) {
        self.path = path
        self.arguments = arguments
        self.environment = environment
    }

    /// Calls `body` with path, arguments and environment as execve(2) takes them.
    func withStrings<R>(
        _ body: (
            UnsafePointer<CChar>, UnsafePointer<UnsafeMutablePointer<CChar>?>,
            UnsafePointer<UnsafeMutablePointer<CChar>?>
        ) -> R
    ) -> R {
        path.withPlatformString { path in
            arguments.withVector { arguments in environment.withVector { body(path, arguments, $0) } }
        }
    }
}

/// Strings for C, byte for byte: not all that is an argument is UTF-8.
public struct CStrings: Sendable, ExpressibleByArrayLiteral {
    /// All of them, one after the other, each with its NUL.
    private var bytes: [CChar] = []
    private var starts: [Int] = []

    /// Of each, what stands before its first NUL.
    public init(_ strings: some Sequence<String>) {
        for string in strings { append(string) }
    }

    /// Of each, what stands before its first NUL.
    public init(arrayLiteral strings: String...) { self.init(strings) }

    /// A copy of a vector such as `environ`, up to its end, or of its first `count`.
    package init(copying vector: UnsafePointer<UnsafeMutablePointer<CChar>?>, count: Int = .max) {
        var next = vector
        while starts.count < count, let string = next.pointee {
            append(string)
            next += 1
        }
    }

    /// The arguments of this process, its own name first. They are there without /proc too, unlike `CommandLine`'s.
    public static var ofThisProcess: CStrings {
        var count: Int32 = 0
        return CStrings(copying: forkcore_arguments(&count))
    }

    /// The variables of this process, as they are now, without NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID: with
    /// those a program could speak in this process's name. environ(7).
    public static var environment: CStrings {
        var variables = CStrings(copying: environ)
        variables.removeAll { variable in
            managersVariables.contains { strncmp(variable, $0 + "=", $0.utf8.count + 1) == 0 }
        }
        return variables
    }

    /// What a service manager says to one process alone. sd_notify(3), sd_watchdog_enabled(3)
    static let managersVariables = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]

    /// How many there are.
    public var count: Int { starts.count }

    /// Appends what stands before its first NUL.
    public mutating func append(_ string: String) { string.withCString { append($0) } }

    /// Appends a string of C's.
    package mutating func append(_ string: UnsafePointer<CChar>) {
        starts.append(bytes.count)
        bytes.append(contentsOf: UnsafeBufferPointer(start: string, count: strlen(string) + 1))
    }

    /// Appends all of `strings`.
    public mutating func append(contentsOf strings: CStrings) {
        starts += strings.starts.map { $0 + bytes.count }
        bytes += strings.bytes
    }

    /// Removes those for which `isUnwanted` says so.
    package mutating func removeAll(where isUnwanted: (UnsafePointer<CChar>) -> Bool) {
        let all = self
        self = []
        all.bytes.withUnsafeBufferPointer { bytes in
            for start in all.starts where !isUnwanted(bytes.baseAddress! + start) { append(bytes.baseAddress! + start) }
        }
    }

    /// Calls `body` with them as execve(2) takes them.
    func withVector<R>(_ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> R) -> R {
        bytes.withUnsafeBufferPointer { bytes in
            withUnsafeTemporaryAllocation(of: UnsafeMutablePointer<CChar>?.self, capacity: starts.count + 1) { vector in
                for (index, start) in starts.enumerated() {
                    vector.initializeElement(at: index, to: UnsafeMutablePointer(mutating: bytes.baseAddress! + start))
                }
                vector.initializeElement(at: starts.count, to: nil)
                return body(UnsafePointer(vector.baseAddress!))
            }
        }
    }
}
