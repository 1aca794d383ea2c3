// SPDX-License-Identifier: Apache-2.0

extension ForkingServer {
    /// What a user of `ForkingServer` can put in its way. Each says in which process it runs.
    ///
    /// Those in the parent hold the loop up as long as they run: they should not wait for anything, such as a full pipe (as
    /// `print` does; `Lines.tell` does not). One
    /// that needs its server captures it `unowned` (or it would never go away), and may only ask it to `stop()`.
    public struct Hooks {
        /// Parent, before fork: whether to serve this connection. Refused, or when this throws, it is closed, once.
        public var verifyConnection: (borrowing Connection) throws -> Bool = { _ in true }
        /// Parent, before fork: whether to serve this datagram. Refused, or when this throws, it is dropped.
        public var verifyDatagram: (Datagram) throws -> Bool = { _ in true }
        /// Parent: before the first client, and once more when the server has settled, some clients later. What is done here
        /// is ready in each child and costs it nothing: a formatter made, a table read, the handler's own code run once.
        public var prewarm: () -> Void = {}
        /// Parent: once in each turn of the loop, before it waits.
        public var serviceActions: () -> Void = {}
        /// Parent: no client has come for `Configuration.idleTimeout`.
        public var handleTimeout: () -> Void = {}
        /// Child: the handler threw. The connection is still open; the child ends with status 1 after this, even if this
        /// throws too. By default one line on stderr, with the peer, unless it was the peer's doing (`isPeersDoing`): it has gone, or
        /// was too slow, as clients do; anybody could fill a disk with those lines.
        public var handleError: (any Error, SocketAddress) throws -> Void = { tellOfError($0, $1) }
        /// Parent: something happened. By default one line on stderr for whatever is not as it should be.
        public var observe: (Event) -> Void = { event in
            if event.isTrouble { Lines.tell(event.description) }
        }
        /// Parent: signals to take as readable events while serving, besides those that stop the server, and what to do
        /// then, between two clients. It is ordinary code: no restrictions of signal handlers apply. SIGHUP, SIGQUIT and SIGUSR2
        /// do then what it says, and nothing else.
        public var signals: [Signal: () -> Void] = [:]

        /// The defaults: everybody is served, and what goes wrong is said on stderr.
        public init() {}
    }

    /// What happens in a server, as its parent sees it.
    public enum Event: Sendable {
        /// The loop has begun: signals are being taken, clients are being served.
        case serving([SocketAddress])
        /// A child serves this client now.
        case forked(ProcessID, peer: SocketAddress)
        /// A child has ended and was reaped.
        case ended(ChildExit)
        /// The verify hook said no.
        case refused(SocketAddress)
        /// The verify hook threw.
        case verifyFailed(SocketAddress, any Error)
        /// No child could be made for this client, nor will another try do; it was sent away.
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
        /// These children are alive although they were sent SIGKILL some time ago: the kernel holds them, or they may not be
        /// signalled.
        case abandoned([ProcessID])
        /// A child cannot be ended, or reaped.
        case trouble(ChildTrouble)

        /// Whether a person should see it.
        public var isTrouble: Bool { severity >= .warning }

        /// How bad it is.
        public var severity: EventSeverity {
            switch self {
            case .serving, .upgrading, .upgraded, .stopping: .info
            case .forked, .refused: .debug
            case .ended(let exit): Self.isTrouble(exit) ? .warning : .debug
            case .verifyFailed, .shortage: .warning
            case .forkFailed, .upgradeFailed, .listeningAgain, .abandoned, .trouble: .error
            }
        }

        private static func isTrouble(_ exit: ChildExit) -> Bool {
            guard !exit.isLeftover else { return exit.reason == .timeLimit }
            return switch exit.status {
            case .exited(let code): code > 1 || exit.reason == .timeLimit  // 1 was explained by the child
            case .killed(.brokenPipe, _): false  // its client left first, as clients do
            case .killed, .unknown: exit.reason != .stopped  // what a stop ended is no news
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
        case .refused(let peer): "refused \(peer)"
        case .verifyFailed(let peer, let error): "refused \(peer), as the verify hook failed: \(error)"
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

/// Child or worker: what a handler threw, on stderr, unless the peer brought it about.
func tellOfError(_ error: any Error, _ peer: SocketAddress) {
    if (error as? ForkingError)?.isPeersDoing != true { Lines.tell("error while serving \(peer): \(error)") }
}
