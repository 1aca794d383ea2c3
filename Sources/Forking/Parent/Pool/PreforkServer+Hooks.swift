// SPDX-License-Identifier: Apache-2.0

extension PreforkServer {
    /// Callbacks that customise a `PreforkServer`. Each says in which process it runs.
    ///
    /// Those in the parent are given the server. They delay the workers' supervision while they run. Of the server they
    /// may read everything, and call `stop()`.
    public struct Hooks {
        /// Parent: before the first worker, and again before SIGHUP replaces them all. What is loaded here is there in
        /// each worker, and in memory but once. It may start no thread. When it throws, at first `serve()` does, and on
        /// SIGHUP the workers stay.
        public var beforeFork: (PreforkServer) throws -> Void = { _ in }
        /// Parent: something happened. By default one line on stderr for whatever is not as it should be. What `print`
        /// says is late where stdout is a file or a pipe, unless it is flushed, and waits for its reader; `Lines.tell`
        /// does neither.
        public var onEvent: (PreforkServer, Event) -> Void = { _, event in
            if event.isTrouble { Lines.tell(event.description) }
        }
        /// Parent: further signals to take as readable events while serving, and what to do then. Those that the pool
        /// has a use for itself, SIGHUP, SIGTTIN, SIGTTOU and SIGUSR2, cannot be among them.
        public var signals: [Signal: (PreforkServer) -> Void] = [:]
        /// Worker: a handler threw. The connection is still open. By default one line on stderr, with the peer, unless
        /// it was the peer's doing (`isPeersDoing`).
        public var onError: (any Error, SocketAddress) throws -> Void = { tellOfError($0, $1) }

        /// The defaults: what goes wrong is said on stderr.
        public init() {}
    }

    /// What happens in a pool, as its parent sees it.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Event: Sendable {
        /// All workers are ready for the first time.
        case serving([SocketAddress])
        /// A worker was forked.
        case forked(ProcessID, number: Int)
        /// A worker serves.
        case ready(ProcessID, number: Int)
        /// A worker is to drain, for this reason.
        case draining(ProcessID, DrainReason)
        /// A worker has ended and was reaped.
        case ended(ChildExit, WorkerEnd)
        /// No worker could be forked; it is tried again.
        case forkFailed(ForkingError)
        /// A worker was not ready in time, and is killed.
        case notReady(ProcessID)
        /// A worker has been busy, or silent, for too long, and is ended. The peer is whom it served last.
        case stuck(ProcessID, for: Duration, peer: SocketAddress?)
        /// A worker that was asked to drain has not ended for so long, and is ended. The peer is whom it served last.
        case overdue(ProcessID, DrainReason, after: Duration, peer: SocketAddress?)
        /// A worker, or somebody else who has it, has shut down the listener on this address; it is listened on again.
        case listeningAgain(SocketAddress)
        /// So many workers in a row have failed at their start; the next one is forked after this time.
        case crashLoop(failures: Int, pause: Duration)
        /// There are to be so many workers from now on.
        case resized(Int)
        /// All workers are being replaced.
        case replacing
        /// All workers were replaced.
        case replaced
        /// The workers that are left stay, as no new one could be had.
        case replacingFailed(String)
        /// A new program was started on the same sockets.
        case upgrading(ProcessID)
        /// It serves, and this one drains.
        case upgraded(ProcessID)
        /// It does not, and this one goes on; or it has ended while this one drains.
        case upgradeFailed(String)
        /// A step of stopping has begun.
        case stopping(StopStep)
        /// These workers are alive although they were sent SIGKILL some time ago: the kernel holds them, or they may
        /// not be signalled.
        case abandoned([ProcessID])
        /// A worker cannot be ended, or reaped; one that has ended is replaced.
        case trouble(ChildTrouble)
    }

    /// Why a worker is to drain.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum DrainReason: Sendable {
        /// It called `retire()`, or has served `maxRequests`.
        case retired
        /// It is older than `maxAge`.
        case age
        /// It has more than `maxMemoryKiB`.
        case memory
        /// All are being replaced.
        case replaced
        /// There are more than there should be.
        case excess
        /// It got SIGTERM from somebody else.
        case signalled
    }

    /// What a worker's end means.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum WorkerEnd: Sendable {
        /// It was asked to, or has served and then returned.
        case expected
        /// It was never ready, or never had a request: its successor waits.
        case failedStart
        /// It crashed, or was killed; its successor was forked at once.
        case crashed
    }
}

extension PreforkServer {
    /// Tells whoever wants to know what happens.
    func tell(_ event: Event) { hooks.onEvent(self, event) }
}

extension PreforkServer.DrainReason: CustomStringConvertible {
    /// In words, for people.
    public var description: String {
        switch self {
        case .retired: "it asked to be replaced"
        case .age: "it has reached its age"
        case .memory: "it has too much memory"
        case .replaced: "it is being replaced"
        case .excess: "there are more than needed"
        case .signalled: "it got SIGTERM"
        }
    }
}

extension PreforkServer.Event {
    /// Whether a person should see it.
    public var isTrouble: Bool { severity >= .warning }

    /// How bad it is. The life of each worker, of which there are few, is info.
    public var severity: EventSeverity {
        switch self {
        case .serving, .forked, .ready, .draining, .resized, .replacing, .replaced, .upgrading, .upgraded, .stopping:
            .info
        case .ended(let exit, .expected): exit.reason != .stopped && !exit.status.isSuccess ? .warning : .info
        case .ended(_, .failedStart), .notReady: .warning
        case .ended(_, .crashed), .forkFailed, .stuck, .overdue, .listeningAgain, .crashLoop, .replacingFailed,
            .upgradeFailed, .abandoned, .trouble:
            .error
        }
    }
}

extension PreforkServer.Event: CustomStringConvertible {
    /// One line for people, without a newline.
    public var description: String {
        switch self {
        case .serving(let addresses): ForkingServer.Event.serving(addresses).description
        case .forked(let pid, let number): "worker \(pid) forked, number \(number)"
        case .ready(let pid, let number): "worker \(pid) ready, number \(number)"
        case .draining(let pid, let reason): "worker \(pid) drains: \(reason)"
        case .ended(let exit, let end): exit.told(of: "worker") + (end == .failedStart ? ", before it had served" : "")
        case .forkFailed(let error): "no worker could be forked: \(error)"
        case .notReady(let pid): "worker \(pid) was not ready in time, and is killed"
        case .stuck(let pid, let time, let peer):
            "worker \(pid) has been stuck for \(time.inSeconds)\(peer.map { ", its last peer was \($0)" } ?? ""), and is ended"
        case .overdue(let pid, let reason, let time, let peer):
            "worker \(pid) still serves \(time.inSeconds) after it was to drain (\(reason))"
                + "\(peer.map { ", its last peer was \($0)" } ?? ""), and is ended"
        case .listeningAgain(let address): "the listener on \(address) was shut down, and listens again"
        case .crashLoop(let failures, let pause):
            "\(failures) workers in a row failed at their start; the next one starts after \(pause.inSeconds)"
        case .resized(let count): "\(count) workers from now on"
        case .replacing: "replacing all workers"
        case .replaced: "all workers were replaced"
        case .replacingFailed(let why): "the reload has failed, and the old workers stay: \(why)"
        case .upgrading(let pid): ForkingServer.Event.upgrading(pid).description
        case .upgraded(let pid): ForkingServer.Event.upgraded(pid).description
        case .upgradeFailed(let why): ForkingServer.Event.upgradeFailed(why).description
        case .stopping(let step): ForkingServer.Event.stopping(step).description
        case .abandoned(let pids): "these workers are left alive, as they could not be ended: \(pids)"
        case .trouble(let trouble): trouble.told(of: "worker")
        }
    }
}
