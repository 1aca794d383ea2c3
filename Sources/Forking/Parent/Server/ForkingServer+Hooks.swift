// SPDX-License-Identifier: Apache-2.0

extension ForkingServer {
    /// Callbacks that customise a `ForkingServer`. Each says in which process it runs.
    ///
    /// Hooks in the parent get the server as an argument. No client is served while one runs: it should not wait for
    /// anything, such as a full pipe (`print` does, `Lines.tell` does not). It may read all of the server, and call
    /// `stop()`. Memory that it writes to, or captures and so retains, is shared with the children: each such page is
    /// copied once more for each child.
    public struct Hooks {
        /// Parent: runs before the first child is forked, and again some clients later, when the server has released
        /// the memory that only its start needed. Each child has the results, at no further cost: a formatter made, a
        /// table read, the handler's own code run once. If it throws the first time, `serve()` throws; the second time,
        /// the server reports an event.
        public var beforeFork: (ForkingServer) throws -> Void = { _ in }
        /// Parent, before fork: whether to serve this connection. If this returns false or throws, the connection is
        /// closed.
        public var verifyConnection: (ForkingServer, borrowing Connection) throws -> Bool = { _, _ in true }
        /// Parent, before fork: whether to serve this datagram. If this returns false or throws, the datagram is
        /// dropped.
        public var verifyDatagram: (ForkingServer, Datagram) throws -> Bool = { _, _ in true }
        /// Parent: runs once in each turn of the loop, before it waits.
        public var onTurn: (ForkingServer) -> Void = { _ in }
        /// Parent: runs when no client has come for `Configuration.idleTimeout`.
        public var onIdle: (ForkingServer) -> Void = { _ in }
        /// Parent: receives each event. By default, one line on stderr for each event that is trouble (`isTrouble`).
        public var onEvent: (ForkingServer, Event) -> Void = { _, event in
            if event.isTrouble { Lines.tell(event.description) }
        }
        /// Parent: signals to take as events while serving, besides those that stop the server, and the code to run for
        /// each, between two clients. That code has no restrictions, unlike a signal handler. An entry for SIGHUP,
        /// SIGQUIT or SIGUSR2 replaces what the server itself does on that signal.
        public var signals: [Signal: (ForkingServer) -> Void] = [:]
        /// Child: the handler threw. The connection is still open. The child then exits with status 1, even if this
        /// hook throws too. By default, one line on stderr, with the peer, unless the peer caused the error
        /// (`isPeersDoing`): it disconnected, or was too slow. Otherwise any client could fill a disk with those lines.
        public var onError: (any Error, SocketAddress) throws -> Void = { tellOfError($0, $1) }

        /// Creates the default hooks: each client is served, and trouble is reported on stderr.
        public init() {}
    }

    /// An event in a server, as its parent sees it. Its texts can be asked for in any process, on any thread.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Event: Sendable {
        /// The loop has begun: the server takes signals and serves clients.
        case serving([SocketAddress])
        /// A child was made for this client.
        case forked(ProcessID, peer: SocketAddress)
        /// A child ended and was reaped.
        case ended(ChildExit)
        /// This client was refused by `Configuration.admission`.
        case refused(SocketAddress, AdmissionPolicy.Reason)
        /// The clients that were refused by `Configuration.admission` in about a second.
        case refusals(AdmissionPolicy.Refusals)
        /// `AdmissionPolicy.rulesFile` was read again.
        case rulesRead
        /// `AdmissionPolicy.rulesFile` cannot be read. The rules stay as they were.
        case rulesFailed(ForkingError)
        /// The verify hook returned false.
        case rejected(SocketAddress)
        /// The verify hook threw.
        case verifyFailed(SocketAddress, any Error)
        /// The second run of `Hooks.beforeFork` threw. The server continues without its effects.
        case beforeForkFailed(any Error)
        /// No child could be made for this client, and a retry would not help. Its connection was closed.
        case forkFailed(SocketAddress, ForkingError)
        /// Descriptors, processes or memory are short for the next client, which waits.
        case shortage(ForkingError)
        /// A new program was started on the same sockets.
        case upgrading(ProcessID)
        /// The new program serves, and this one drains.
        case upgraded(ProcessID)
        /// The new program does not serve, and this one continues; or the new program ended while this one drains.
        case upgradeFailed(String)
        /// Another process that shares this listener had shut it down. The server listens on it again.
        case listeningAgain(SocketAddress)
        /// A step of stopping began.
        case stopping(StopStep)
        /// These children are still alive some time after SIGKILL: they are stuck in the kernel, or this process may
        /// not signal them.
        case abandoned([ProcessID])
        /// A child cannot be ended or reaped.
        case trouble(ChildTrouble)

        /// Whether a person should see it.
        public var isTrouble: Bool { severity >= .warning }

        /// The severity of the event.
        public var severity: EventSeverity {
            switch self {
            case .serving, .rulesRead, .upgrading, .upgraded, .stopping: .info
            case .forked, .refused, .rejected: .debug
            case .ended(let exit): Self.isTrouble(exit) ? .warning : .debug
            case .refusals, .rulesFailed, .verifyFailed, .beforeForkFailed, .shortage: .warning
            case .forkFailed, .upgradeFailed, .listeningAgain, .abandoned, .trouble: .error
            }
        }

        private static func isTrouble(_ exit: ChildExit) -> Bool {
            guard !exit.isLeftover else { return exit.reason == .timeout }
            return switch exit.status {
            case .exited(let code): code > 1 || exit.reason == .timeout  // the child has reported 1 itself
            case .signaled(.brokenPipe, _): false  // its client disconnected first
            case .signaled, .unknown: exit.reason != .stopped  // a stop ended it, as intended
            }
        }
    }
}

extension ForkingServer.Event: CustomStringConvertible {
    /// One line for people, without a newline.
    public var description: String {
        switch self {
        case .serving(let addresses): "serving on \(addresses.map(\.description).joined(separator: ", "))"
        case .forked(let pid, let peer): "child \(pid), peer \(peer): forked"
        case .ended(let exit): exit.description
        case .refused(let peer, let reason): "refused \(peer): \(reason)"
        case .refusals(let refusals): refusals.description
        case .rulesRead: "the address rules were read again"
        case .rulesFailed(let error): "the address rules stay as they were: \(error)"
        case .rejected(let peer): "refused \(peer)"
        case .verifyFailed(let peer, let error): "refused \(peer), as the verify hook failed: \(error)"
        case .beforeForkFailed(let error): "beforeFork failed, and the server goes on without it: \(error)"
        case .forkFailed(let peer, let error): "client \(peer) was not served: \(error)"
        case .shortage(let error): "new clients wait until this has passed: \(error)"
        case .upgrading(let pid): "upgrading: started \(pid)"
        case .upgraded(let pid): "upgraded: \(pid) serves now"
        case .upgradeFailed(let why): "not upgraded: \(why)"
        case .listeningAgain(let address):
            "the listener on \(address) was shut down by a process that shares it, and listens again"
        case .stopping(.drain): "stopping: draining"
        case .stopping(.terminate): "stopping: terminating the children that are left"
        case .stopping(.kill): "stopping: killing the children that are left"
        case .abandoned(let pids): "these children are left alive, as they could not be ended: \(pids)"
        case .trouble(let trouble): trouble.description
        }
    }
}

/// Child or worker: reports an error that a handler threw, on stderr, unless the peer caused it.
func tellOfError(_ error: any Error, _ peer: SocketAddress) {
    if (error as? ForkingError)?.isPeersDoing != true { Lines.tell("error while serving \(peer): \(error)") }
}
