// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
public import SystemPackage

/// A program that a child executes, with its arguments and environment. execve(2).
public struct Program: Sendable {
    /// The path of the executable, which is not searched for in PATH. It need not be UTF-8.
    public var path: FilePath
    /// The arguments; the first is the program's own name.
    public var arguments: CStrings
    /// The environment variables, each as `NAME=value`.
    public var environment: CStrings

    /// Whether descriptor 2 is the connection too, instead of this process's: some programs write messages for their
    /// clients to stderr.
    public var isStandardErrorConnected = false

    /// - Parameters:
    ///   - path: the path of the executable.
    ///   - arguments: the arguments; the first is the program's own name.
    ///   - environment: by default the current environment of this process, without the service manager's variables.
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

/// Strings for C, as bytes, because arguments need not be UTF-8.
public struct CStrings: Sendable, ExpressibleByArrayLiteral {
    /// All strings, one after another, each with its NUL.
    private var bytes: [CChar] = []
    private var starts: [Int] = []

    /// Copies each string up to its first NUL.
    public init(_ strings: some Sequence<String>) {
        for string in strings { append(string) }
    }

    /// Copies each string up to its first NUL.
    public init(arrayLiteral strings: String...) { self.init(strings) }

    /// Copies a vector such as `environ`, up to its end or to `count` strings.
    package init(copying vector: UnsafePointer<UnsafeMutablePointer<CChar>?>, count: Int = .max) {
        var next = vector
        while starts.count < count, let string = next.pointee {
            append(string)
            next += 1
        }
    }

    /// The arguments of this process; the first is its own name. Works without /proc, unlike `CommandLine`.
    public static var ofThisProcess: CStrings {
        var count: Int32 = 0
        return CStrings(copying: forkcore_arguments(&count))
    }

    /// The current environment of this process, without NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, with which a
    /// program could act in this process's name. environ(7).
    public static var environment: CStrings {
        var variables = CStrings(copying: environ)
        variables.removeAll { variable in
            managersVariables.contains { strncmp(variable, $0 + "=", $0.utf8.count + 1) == 0 }
        }
        return variables
    }

    /// The variables that a service manager sets for one process alone. sd_notify(3), sd_watchdog_enabled(3).
    static let managersVariables = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]

    /// The number of strings.
    public var count: Int { starts.count }

    /// Appends a string, up to its first NUL.
    public mutating func append(_ string: String) { string.withCString { append($0) } }

    /// Appends a C string.
    package mutating func append(_ string: UnsafePointer<CChar>) {
        starts.append(bytes.count)
        bytes.append(contentsOf: UnsafeBufferPointer(start: string, count: strlen(string) + 1))
    }

    /// Appends all of `strings`.
    public mutating func append(contentsOf strings: CStrings) {
        starts += strings.starts.map { $0 + bytes.count }
        bytes += strings.bytes
    }

    /// Removes the strings for which `isUnwanted` returns true.
    package mutating func removeAll(where isUnwanted: (UnsafePointer<CChar>) -> Bool) {
        let all = self
        self = []
        all.bytes.withUnsafeBufferPointer { bytes in
            for start in all.starts where !isUnwanted(bytes.baseAddress! + start) { append(bytes.baseAddress! + start) }
        }
    }

    /// Calls `body` with the strings as execve(2) takes them.
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
