// SPDX-License-Identifier: Apache-2.0
//
// The host makes handlers; a child runs one.

import CForkCore
import Synchronization
public import SystemPackage

extension Zygote {
    /// The zygote's handlers: closures that exist in it because they were made before it was forked.
    ///
    /// For each call, one child runs one of them. The child has one thread and may use all of Swift: allocate, throw,
    /// trap, run Tasks, start threads, use Foundation. Only the main queue does not work, because no thread runs it; nor
    /// does the main actor, except in an `async` handler of ForkingAsync.
    public struct Handlers {
        enum Handler {
            case answer((Request) throws -> Reply)
            case serve((inout Connection, Request) throws -> Void)
            case isolate((IsolateSession) throws -> Void)
        }

        struct Entry {
            let name: String
            let handler: Handler
            /// How an isolate with this handler takes calls; nil if the handler is of single calls.
            let isolate: IsolateManner?
        }

        private(set) var all: [Entry] = []
        /// What the zygote runs once, after `beforeFork`, so that its children need not do it anew. It must not start a
        /// thread.
        package var rehearsal: (() throws -> Void)?
        /// `Hooks.aroundHandler`, in the zygote and its children.
        var around: ((Request, () throws -> Void) throws -> Void)?

        /// Registers a handler that replies to a call. It runs in a child. `name` has 1 to 64 bytes and must be unique.
        public mutating func answer(_ name: String, _ handler: @escaping (Request) throws -> Reply) {
            add(name, .answer(handler))
        }

        /// Registers a handler that serves a connection from `Zygote.handOff`. It runs in a child. The connection is
        /// closed when it returns or throws.
        public mutating func serve(_ name: String, _ handler: @escaping (inout Connection, Request) throws -> Void) {
            add(name, .serve(handler))
        }

        mutating func add(_ name: String, _ handler: Handler, isolate: IsolateManner? = nil) {
            precondition(
                !name.isEmpty && name.utf8.count <= HandlerName.longest, "a handler's name must have 1 to 64 bytes")
            precondition(!all.contains { $0.name == name }, "two handlers have the name '\(name)'")
            all.append(Entry(name: name, handler: handler, isolate: isolate))
        }
    }

    /// The input of a handler.
    public struct Request: Sendable {
        /// The call's bytes.
        public var bytes: [UInt8]
        /// The call's descriptors, with the child's own numbers.
        public var descriptors: [FileDescriptor]
        /// What `Hooks.context` returned when the call was begun.
        public var context: [String: String]

        /// Makes a request, for a test that calls a handler directly.
        public init(
            _ bytes: [UInt8] = [], descriptors: [FileDescriptor] = [], context: [String: String] = [:]
        ) {
            self.bytes = bytes
            self.descriptors = descriptors
            self.context = context
        }
    }

    /// The output of a handler. It owns its descriptors, and closes them when its last copy is released.
    public struct Reply: Sendable {
        /// The reply's bytes.
        public var bytes: [UInt8]
        private let owned: OwnedDescriptors?

        /// Makes a reply, empty by default.
        ///
        /// - Parameters:
        ///   - bytes: the reply's bytes.
        ///   - descriptors: descriptors that are passed to the host. The reply owns them from now on. The call must
        ///     expect exactly this number: `expecting` of `begin`. unix(7), SCM_RIGHTS.
        public init(_ bytes: [UInt8] = [], descriptors: [FileDescriptor] = []) {
            self.bytes = bytes
            owned = descriptors.isEmpty ? nil : OwnedDescriptors(descriptors, areStrangers: false)
        }

        /// Host: a reply that a child sent.
        init(_ bytes: [UInt8], received descriptors: [Int32]) {
            self.bytes = bytes
            owned =
                descriptors.isEmpty
                ? nil : OwnedDescriptors(descriptors.map(FileDescriptor.init(rawValue:)), areStrangers: true)
        }

        /// Returns the descriptors, as many as the call expected. The caller must close them. Later calls return none.
        /// Host.
        ///
        /// The child chose them: read(2), write(2) or close(2) may block on a pipe, or on a socket that lingers.
        public func takeDescriptors() -> [FileDescriptor] { owned?.take() ?? [] }
    }
}

/// Descriptors that are closed when the last reference is released, unless they were taken.
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
