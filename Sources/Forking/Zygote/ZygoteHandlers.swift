// SPDX-License-Identifier: Apache-2.0

import SystemPackage

extension Zygote {
    /// What the zygote can do: closures that are in it because they were made before it was forked.
    ///
    /// A child of the zygote runs one of them, for one call. It has one thread, and may use all of Swift: allocate, throw,
    /// trap, run Tasks (not the main actor's: nobody runs its queue), start threads, use Foundation.
    public struct Handlers {
        enum Handler {
            case answer((Request) throws -> Reply)
            case serve((inout Connection, Request) throws -> Void)
        }

        private(set) var all: [(name: String, handler: Handler)] = []
        private(set) var prewarming: [() throws -> Void] = []

        /// Child: answers a call.
        public mutating func answer(_ name: String, _ handler: @escaping (Request) throws -> Reply) {
            add(name, .answer(handler))
        }

        /// Child: serves a connection that the host handed off. It is closed when this returns or throws.
        public mutating func serve(_ name: String, _ handler: @escaping (inout Connection, Request) throws -> Void) {
            add(name, .serve(handler))
        }

        /// Zygote, before its first call: what is done here is done in each child already. A table read, a formatter made, the
        /// handler's own code run once. It may start no thread (nor a Task: on
        /// the main actor that would never run), and has one of its own, which has ended before the first fork, with
        /// all that is thread-local. If it throws, there is no zygote.
        public mutating func prewarm(_ body: @escaping () throws -> Void) { prewarming.append(body) }

        private mutating func add(_ name: String, _ handler: Handler) {
            precondition(!name.isEmpty && name.utf8.count <= Order.longestName, "a handler's name has 1 to 64 bytes")
            precondition(self[Array(name.utf8)] == nil, "two handlers have the name '\(name)'")
            all.append((name, handler))
        }

        subscript(name: [UInt8]) -> Handler? { all.first { $0.name.utf8.elementsEqual(name) }?.handler }
    }

    /// What a handler is given.
    public struct Request: Sendable {
        /// The bytes of the call.
        public var bytes: [UInt8]
        /// Its descriptors, under the child's own numbers.
        public var descriptors: [FileDescriptor]
    }

    /// What a handler gives back.
    public struct Reply: Sendable {
        /// The answer itself.
        public var bytes: [UInt8]
        /// In the child: they are passed on, and may be closed when it ends. In the host: whoever has the reply closes them.
        public var descriptors: [FileDescriptor]

        /// An answer; of nothing, if nothing is said.
        public init(_ bytes: [UInt8] = [], descriptors: [FileDescriptor] = []) {
            self.bytes = bytes
            self.descriptors = descriptors
        }
    }

    /// What a child may use. Nil or false: what the zygote may. setrlimit(2), prctl(2), seccomp(2).
    public struct Limits: Hashable, Sendable {
        /// CPU time in seconds, of all its threads; then it gets SIGXCPU, and a second later SIGKILL. RLIMIT_CPU
        public var cpuSeconds: Int?
        /// Bytes of address space besides what the zygote has and the request takes. An allocation that goes beyond traps.
        /// Threads take some: 8 MiB of stack each, and 64 for the allocator where they allocate. Told as an end by SIGABRT or SIGILL.
        /// RLIMIT_AS
        public var memory: Int?
        /// Descriptors' numbers lie below this. RLIMIT_NOFILE
        public var openFiles: Int?
        /// No program that it executes gets it more rights than it has. PR_SET_NO_NEW_PRIVS
        public var noNewPrivileges = false
        /// It can make no sockets but Unix ones (EACCES); those that it was given work. Implies `noNewPrivileges`.
        ///
        /// By seccomp, as that asks for no rights, which a network namespace does, and costs microseconds.
        public var noNetwork = false

        /// No limits.
        public init() {}
    }
}
