// SPDX-License-Identifier: Apache-2.0

extension PreforkServer {
    /// Callbacks that customise a `PreforkServer`. Each says in which process it runs.
    ///
    /// Hooks in the parent get the server as an argument. Workers are not supervised while one runs. It may read all of
    /// the server, and call `stop()`.
    public struct Hooks {
        /// Parent: runs before the first worker is forked, and again before SIGHUP replaces all workers. Each worker
        /// shares the memory that it loads. It must not start a thread. If it throws at the start, `serve()` throws; on
        /// SIGHUP, the old workers stay.
        public var beforeFork: (PreforkServer) throws -> Void = { _ in }
        /// Parent: receives each event. By default, one line on stderr for each event that is trouble (`isTrouble`).
        /// `print` is buffered if stdout is a file or a pipe, and waits while a pipe is full; `Lines.tell` does
        /// neither.
        public var onEvent: (PreforkServer, Event) -> Void = { _, event in
            if event.isTrouble { Lines.tell(event.description) }
        }
        /// Parent: further signals to take as events while serving, and the code to run for each. SIGHUP, SIGTTIN,
        /// SIGTTOU and SIGUSR2 cannot be among them, because the pool takes them itself.
        public var signals: [Signal: (PreforkServer) -> Void] = [:]
        /// Worker: a handler threw. The connection is still open. By default, one line on stderr, with the peer, unless
        /// the peer caused the error (`isPeersDoing`).
        public var onError: (any Error, SocketAddress) throws -> Void = { tellOfError($0, $1) }

        /// Creates the default hooks: trouble is reported on stderr.
        public init() {}
    }

    /// An event in a pool, as its parent sees it. Its texts can be asked for in any process, on any thread.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Event: Sendable {
        /// All workers are ready for the first time.
        case serving([SocketAddress])
        /// A worker was forked.
        case forked(ProcessID, number: Int)
        /// A worker reported that it is ready.
        case ready(ProcessID, number: Int)
        /// A worker was asked to drain, or drains by itself, for this reason.
        case draining(ProcessID, DrainReason)
        /// A worker ended and was reaped.
        case ended(ChildExit, WorkerEnd)
        /// No worker could be forked. The pool retries.
        case forkFailed(ForkingError)
        /// A worker was not ready within `Configuration.startTimeout`, and is killed.
        case notReady(ProcessID)
        /// A worker was busy for longer than `requestTimeout`, or without a heartbeat for longer than
        /// `heartbeatTimeout`, and is ended. The peer is the last one that it served.
        case stuck(ProcessID, for: Duration, peer: SocketAddress?)
        /// A worker has not ended so long after it was asked to drain, and is ended. The peer is the last one that it
        /// served.
        case overdue(ProcessID, DrainReason, after: Duration, peer: SocketAddress?)
        /// A worker, or another process that shares this listener, had shut it down. The pool listens on it again.
        case listeningAgain(SocketAddress)
        /// This many workers in a row failed at their start. The next one is forked after this pause.
        case crashLoop(failures: Int, pause: Duration)
        /// The number of workers that the pool should have has changed.
        case resized(Int)
        /// All workers are being replaced.
        case replacing
        /// All workers were replaced.
        case replaced
        /// A new worker failed, so the remaining old workers stay.
        case replacingFailed(String)
        /// A new program was started on the same sockets.
        case upgrading(ProcessID)
        /// The new program serves, and this one drains.
        case upgraded(ProcessID)
        /// The new program does not serve, and this one continues; or the new program ended while this one drains.
        case upgradeFailed(String)
        /// A step of stopping began.
        case stopping(StopStep)
        /// These workers are still alive some time after SIGKILL: they are stuck in the kernel, or this process may not
        /// signal them.
        case abandoned([ProcessID])
        /// A worker cannot be ended, or has ended and cannot be reaped. The latter is replaced.
        case trouble(ChildTrouble)
    }

    /// Why a worker drains.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum DrainReason: Sendable {
        /// The worker called `retire()`, or has served `maxRequests`.
        case retired
        /// The worker is older than `maxAge`.
        case age
        /// The worker uses more than `maxMemoryKiB`.
        case memory
        /// All workers are being replaced.
        case replaced
        /// The pool has more workers than it should.
        case excess
        /// The worker got SIGTERM from another process.
        case signalled
    }

    /// What a worker's end means.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum WorkerEnd: Sendable {
        /// The worker was asked to end, or has served requests and returned.
        case expected
        /// The worker was never ready, or never had a request. The pool waits before it forks another.
        case failedStart
        /// The worker crashed, or was killed. A replacement is forked at once.
        case crashed
    }
}

extension PreforkServer.DrainReason: CustomStringConvertible {
    /// The reason in words.
    public var description: String {
        switch self {
        case .retired: "it asked to be replaced"
        case .age: "it is older than maxAge"
        case .memory: "it uses more memory than maxMemoryKiB"
        case .replaced: "it is being replaced"
        case .excess: "the pool shrinks"
        case .signalled: "it got SIGTERM"
        }
    }
}

extension PreforkServer.Event {
    /// Whether a person should see it.
    public var isTrouble: Bool { severity >= .warning }

    /// The severity of the event. There are few workers, so the events of each worker's life are info.
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
        case .notReady(let pid): "worker \(pid) was not ready within startTimeout, and is killed"
        case .stuck(let pid, let time, let peer):
            "worker \(pid) has been stuck for \(time.inSeconds)\(peer.map { ", its last peer was \($0)" } ?? ""), and is ended"
        case .overdue(let pid, let reason, let time, let peer):
            "worker \(pid) still serves \(time.inSeconds) after it was to drain (\(reason))"
                + "\(peer.map { ", its last peer was \($0)" } ?? ""), and is ended"
        case .listeningAgain(let address):
            "the listener on \(address) was shut down by a process that shares it, and listens again"
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
