// SPDX-License-Identifier: Apache-2.0
//
// Host, which makes them, and child, which runs one.

import CForkCore
import Synchronization
public import SystemPackage

extension Zygote {
    /// What the zygote can do: closures that are in it because they were made before it was forked.
    ///
    /// A child of the zygote runs one of them, for one call. It has one thread, and may use all of Swift: allocate,
    /// throw, trap, run Tasks (not the main actor's: nobody runs its queue), start threads, use Foundation.
    public struct Handlers {
        enum Handler {
            case answer((Request) throws -> Reply)
            case serve((inout Connection, Request) throws -> Void)
        }

        struct Entry {
            let name: String
            let handler: Handler
            /// Whether it runs Tasks: those take threads, and these memory and descriptors.
            let isAsynchronous: Bool
        }

        private(set) var all: [Entry] = []

        /// Child: answers a call.
        public mutating func answer(_ name: String, _ handler: @escaping (Request) throws -> Reply) {
            add(name, .answer(handler))
        }

        /// The same, for one that is known to run Tasks.
        package mutating func answerAsynchronously(_ name: String, _ handler: @escaping (Request) throws -> Reply) {
            add(name, .answer(handler), isAsynchronous: true)
        }

        /// Child: serves a connection that the host handed off. It is closed when this returns or throws.
        public mutating func serve(_ name: String, _ handler: @escaping (inout Connection, Request) throws -> Void) {
            add(name, .serve(handler))
        }

        private mutating func add(_ name: String, _ handler: Handler, isAsynchronous: Bool = false) {
            precondition(
                !name.isEmpty && name.utf8.count <= ForkRequest.longestName, "a handler's name has 1 to 64 bytes")
            precondition(!all.contains { $0.name == name }, "two handlers have the name '\(name)'")
            all.append(Entry(name: name, handler: handler, isAsynchronous: isAsynchronous))
        }
    }

    /// What a handler is given.
    public struct Request: Sendable {
        /// The bytes of the call.
        public var bytes: [UInt8]
        /// Its descriptors, under the child's own numbers.
        public var descriptors: [FileDescriptor]

        /// One to call a handler with as the function that it is, in a test.
        public init(_ bytes: [UInt8] = [], descriptors: [FileDescriptor] = []) {
            self.bytes = bytes
            self.descriptors = descriptors
        }
    }

    /// What a handler gives back. It owns its descriptors, which close with it: copies of it share them.
    public struct Reply: Sendable {
        /// The answer itself.
        public var bytes: [UInt8]
        private let owned: OwnedDescriptors?

        /// An answer; of nothing, if nothing is said.
        ///
        /// - Parameters:
        ///   - bytes: the answer itself.
        ///   - descriptors: these are passed on, and are the reply's from now on. The call has to expect so many:
        ///     `expecting` of `begin`.
        public init(_ bytes: [UInt8] = [], descriptors: [FileDescriptor] = []) {
            self.bytes = bytes
            owned = descriptors.isEmpty ? nil : OwnedDescriptors(descriptors, areStrangers: false)
        }

        /// Host: what a child sent.
        init(_ bytes: [UInt8], received descriptors: [Int32]) {
            self.bytes = bytes
            owned =
                descriptors.isEmpty
                ? nil : OwnedDescriptors(descriptors.map(FileDescriptor.init(rawValue:)), areStrangers: true)
        }

        /// The descriptors, as many as the call expected: they are the caller's now, who closes them. Once; then there
        /// are none.
        ///
        /// A child may have sent what can make read(2), write(2) or close(2) wait for it: a pipe, a socket that
        /// lingers.
        public func takeDescriptors() -> [FileDescriptor] { owned?.take() ?? [] }
    }
}

/// Descriptors that close when nobody has them any more, unless they were taken.
private final class OwnedDescriptors: Sendable {
    private let descriptors: [FileDescriptor]
    private let areStrangers: Bool
    private let isTaken = Atomic(false)

    init(_ descriptors: [FileDescriptor], areStrangers: Bool) {
        self.descriptors = descriptors
        self.areStrangers = areStrangers
    }

    deinit {
        let left = take().map(\.rawValue)
        if areStrangers { discard(left) } else { left.forEach(forkcore_close) }
    }

    func take() -> [FileDescriptor] {
        isTaken.exchange(true, ordering: .relaxed) ? [] : descriptors
    }
}
