// SPDX-License-Identifier: Apache-2.0

extension ForkingServer {
    /// Callbacks that customise a `ForkingServer`. Each says in which process it runs.
    ///
    /// Those in the parent are given the server. They delay everybody while they run: they should not wait for
    /// anything, such as a full pipe (as `print` does; `Lines.tell` does not). Of the server they may read everything,
    /// and call `stop()`. What they write to, or capture and so retain, is memory that children share: each such page
    /// is copied once more for each child.
    public struct Hooks {
        /// Parent: before the first child is forked, and once more some clients later, when the server has given back
        /// what only its start needed. What is done here is there in each child, and costs it nothing: a formatter
        /// made, a table read, the handler's own code run once. If it throws the first time, `serve()` does; the second
        /// time, it is an event.
        public var beforeFork: (ForkingServer) throws -> Void = { _ in }
        /// Parent, before fork: whether to serve this connection. If this returns false or throws, the connection is
        /// closed.
        public var verifyConnection: (ForkingServer, borrowing Connection) throws -> Bool = { _, _ in true }
        /// Parent, before fork: whether to serve this datagram. If this returns false or throws, the datagram is
        /// dropped.
        public var verifyDatagram: (ForkingServer, Datagram) throws -> Bool = { _, _ in true }
        /// Parent: once in each turn of the loop, before it waits.
        public var onTurn: (ForkingServer) -> Void = { _ in }
        /// Parent: no client has come for `Configuration.idleTimeout`.
        public var onIdle: (ForkingServer) -> Void = { _ in }
        /// Parent: something happened. By default one line on stderr for whatever is not as it should be.
        public var onEvent: (ForkingServer, Event) -> Void = { _, event in
            if event.isTrouble { Lines.tell(event.description) }
        }
        /// Parent: signals to take as readable events while serving, besides those that stop the server, and what to do
        /// then, between two clients. It is ordinary code: no restrictions of signal handlers apply. SIGHUP, SIGQUIT
        /// and SIGUSR2 do then what it says, and nothing else.
        public var signals: [Signal: (ForkingServer) -> Void] = [:]
        /// Child: the handler threw. The connection is still open; the child ends with status 1 after this, even if
        /// this throws too. By default one line on stderr, with the peer, unless it was the peer's doing
        /// (`isPeersDoing`): it has gone, or was too slow, as clients do; anybody could fill a disk with those lines.
        public var onError: (any Error, SocketAddress) throws -> Void = { tellOfError($0, $1) }

        /// The defaults: everybody is served, and what goes wrong is said on stderr.
        public init() {}
    }

    /// What happens in a server, as its parent sees it.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Event: Sendable {
        /// The loop has begun: signals are being taken, clients are being served.
        case serving([SocketAddress])
        /// A child serves this client now.
        case forked(ProcessID, peer: SocketAddress)
        /// A child has ended and was reaped.
        case ended(ChildExit)
        /// The verify hook returned false.
        case rejected(SocketAddress)
        /// The verify hook threw.
        case verifyFailed(SocketAddress, any Error)
        /// The second run of `Hooks.beforeFork` threw: children go on without what it would have made.
        case beforeForkFailed(any Error)
        /// No child could be made for this client, and there is no point in trying again; its connection was closed.
        case forkFailed(SocketAddress, ForkingError)
        /// There was no descriptor, no process or no memory for the next client, which waits.
        case shortage(ForkingError)
        /// A new program was started on the same sockets.
        case upgrading(ProcessID)
        /// It serves, and this one drains.
        case upgraded(ProcessID)
        /// It does not, and this one goes on; or it has ended while this one drains.
        case upgradeFailed(String)
        /// Somebody who has this listener, too, had shut it down.
        case listeningAgain(SocketAddress)
        /// A step of stopping has begun.
        case stopping(StopStep)
        /// These children are alive although they were sent SIGKILL some time ago: the kernel holds them, or they may
        /// not be signalled.
        case abandoned([ProcessID])
        /// A child cannot be ended, or reaped.
        case trouble(ChildTrouble)

        /// Whether a person should see it.
        public var isTrouble: Bool { severity >= .warning }

        /// How bad it is.
        public var severity: EventSeverity {
            switch self {
            case .serving, .upgrading, .upgraded, .stopping: .info
            case .forked, .rejected: .debug
            case .ended(let exit): Self.isTrouble(exit) ? .warning : .debug
            case .verifyFailed, .beforeForkFailed, .shortage: .warning
            case .forkFailed, .upgradeFailed, .listeningAgain, .abandoned, .trouble: .error
            }
        }

        private static func isTrouble(_ exit: ChildExit) -> Bool {
            guard !exit.isLeftover else { return exit.reason == .timeout }
            return switch exit.status {
            case .exited(let code): code > 1 || exit.reason == .timeout  // 1 was explained by the child
            case .signaled(.brokenPipe, _): false  // its client left first, as clients do
            case .signaled, .unknown: exit.reason != .stopped  // what a stop ended is no news
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
        case .rejected(let peer): "refused \(peer)"
        case .verifyFailed(let peer, let error): "refused \(peer), as the verify hook failed: \(error)"
        case .beforeForkFailed(let error): "the hook before the fork failed: \(error)"
        case .forkFailed(let peer, let error): "client \(peer) was not served: \(error)"
        case .shortage(let error): "new clients wait until this has passed: \(error)"
        case .upgrading(let pid): "upgrading: started \(pid)"
        case .upgraded(let pid): "upgraded: \(pid) serves now"
        case .upgradeFailed(let why): "not upgraded: \(why)"
        case .listeningAgain(let address): "the listener on \(address) was shut down, and listens again"
        case .stopping(.drain): "stopping: draining"
        case .stopping(.terminate): "stopping: terminating the children that are left"
        case .stopping(.kill): "stopping: killing the children that are left"
        case .abandoned(let pids): "these children are left alive, as they could not be ended: \(pids)"
        case .trouble(let trouble): trouble.description
        }
    }
}

extension ForkingServer {
    /// Tells whoever wants to know what happens.
    func tell(_ event: Event) { hooks.onEvent(self, event) }
}

/// Child or worker: what a handler threw, on stderr, unless the peer brought it about.
func tellOfError(_ error: any Error, _ peer: SocketAddress) {
    if (error as? ForkingError)?.isPeersDoing != true { Lines.tell("error while serving \(peer): \(error)") }
}
