// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Host: starts a zygote, notices its end, and starts its replacement.
extension ZygoteClient {
    func requireZygote(_ state: inout State) throws(ForkingError) {
        look(&state)
        guard state.control == nil, state.beginning == nil else { return }
        guard state.queue.phase == .open else { throw .shutDown }
        if let pause = state.queue.pause(at: .now) { throw .lost(nextStart: pause) }
        do { try startAgain(&state) } catch {
            state.events.append(.startFailed(error))
            state.queue.noteStartFailed(at: .now)
            throw .lost(nextStart: state.queue.pause(at: .now))
        }
    }

    /// Receives the zygote's messages, and notices its end: by its process, too, because a child that it has just forked
    /// has a copy of its socket for a moment.
    func look(_ state: inout State) {
        guard let control = state.control, let table = state.table else { return }
        let ready = try? waitUntilReadable([control.rawValue, table.descriptor.rawValue], atMost: .zero)
        guard ready != 0 else { return }
        noticeEnd(&state)
    }

    /// Notices the zygote's end when one of its descriptors is at its end. A process that is killed closes them one by
    /// one, and may have to wait for a processor meanwhile, so its socket may still be open; but the kernel tells that
    /// it has begun to exit. proc_pid_stat(5)
    func noticeEnd(_ state: inout State) {
        listen(&state)
        guard state.control != nil, let pid = state.table?.children.first?.pid, Self.isEnding(pid) else { return }
        listen(&state)  // its last words
        if state.control != nil { lose(&state) }
    }

    /// Whether a child of this process has begun to exit; or only whether it has ended, if no descriptor is left to ask
    /// for more.
    private static func isEnding(_ pid: ProcessID) -> Bool {
        var process = forkcore_process_info()
        if forkcore_process_look(pid, &process) == 0 { return process.is_ending }
        var info = siginfo_t()
        let code = waitid(P_PID, id_t(pid), &info, WEXITED | WNOHANG | WNOWAIT)
        return code == 0 && info.si_signo == SIGCHLD
    }

    /// Receives the zygote's messages, and notices its end.
    func listen(_ state: inout State) {
        while let control = state.control {
            do {
                // Without the channels of warm children there are none; without the tally nobody counts.
                guard let message = try CallMessage.receive(over: control.rawValue, evenWithoutDescriptors: true)
                else { return }
                switch message.kind {
                case .ready:
                    state.counts.begin(try? Self.tally(in: message))
                    state.queue.noteReady()
                case .forked: noteForked(message, &state)
                case .threw: state.events.append(.startFailed(Self.notReady(message)))
                default: break
                }
            } catch {
                lose(&state)
            }
        }
    }

    /// A zygote whose end is noticed is dead and can be reaped within a millisecond. So `lose` waits this long at most
    /// for its exit status. Other zygotes are reaped later, by `tend`.
    static let briefly = Duration.milliseconds(20)

    /// The zygote has ended or must end, and its children with it. It notices a closed socket within milliseconds.
    func lose(_ state: inout State, isStuck: Bool = false, isUnasked: Bool = true) {
        guard let table = state.table, let pid = table.children.first?.pid else { return }
        // shutdown, not close: if another thread polls this socket, or a duplicate of it, close would neither wake that
        // thread nor tell the zygote.
        if let control = state.control { shutdown(control.rawValue, Int32(SHUT_RDWR)) }
        state.control = nil
        state.table = nil
        dropWarm(&state)
        var status = ExitStatus.unknown
        table.onExit = { status = $0.status }
        if isStuck { table.killAll() }
        if !isUnasked { table.signal(.continue, to: pid) }  // a stopped zygote would not notice the shutdown
        if isUnasked { _ = try? table.wait(atMost: Self.briefly) }
        state.ending.append(EndingZygote(pid: pid, table: table, killAt: .now + .seconds(2)))
        if let loss = state.queue.noteLost(at: .now) {
            state.events.append(.lost(pid, status, failures: loss.failures, pause: loss.pause))
        } else {
            giveUp(&state)
            reconcile(&state)
        }
    }

    /// Reaps zygotes that have ended, and kills those that take too long. Never blocks.
    func reconcile(_ state: inout State) {
        for zygote in state.ending {
            zygote.table.collect()
            if zygote.killAt <= .now { zygote.table.killAll() }
        }
        state.ending.removeAll { zygote in
            guard zygote.table.count == 0 else { return false }
            if state.queue.phase != .open, state.control == nil { state.events.append(.ended(zygote.pid)) }
            return true
        }
        if state.ending.isEmpty { state.queue.noteAllReaped() }
    }

    /// Replaces a zygote that hangs. One that is not ready yet does not: prewarming takes time.
    func replaceStuck(_ id: PendingCall.ID) {
        change { state in
            listen(&state)
            if state.queue.isRunning(id), case .ready = state.queue.zygote {
                lose(&state, isStuck: true)
            }
        }
    }

    // MARK: Replacement

    static let inheritance = Inheritance("FORKING_ZYGOTE")
    static let controlDescriptor: Int32 = 3

    /// This executable with its original arguments and environment, and the host's process ID in a variable.
    static func successor() -> Program {
        var environment = CStrings(copying: environ)
        environment.append(inheritance.variable(forkcore_process()))
        return Program(
            path: "/proc/self/exe", arguments: .ofThisProcess, environment: environment)
    }

    /// The host has threads, so it must not fork: this is clone(2) with CLONE_VM, and execve(2). The thread that
    /// started it waits for execve after it has unlocked the state: see `change`.
    func startAgain(_ state: inout State) throws(ForkingError) {
        let table = try ChildTable(maxChildren: 1, reaping: .pidfd)
        let pair = try DescriptorPair()
        let control = ParentDescriptor(pair.ours.release())
        let pid = try table.spawn(
            state.successor, on: FileDescriptor(rawValue: pair.theirs.rawValue), at: Self.controlDescriptor,
            options: Self.options)
        state.queue.noteBeginning()
        state.beginning = BeginningZygote(pid: pid, table: table, control: control)
    }

    /// Waits for execve, which takes microseconds unless a file system is slow. Other threads do not wait. Until then
    /// the host also holds the zygote's end of the socket, so that the zygote's death would not show.
    func finishStart(of zygote: BeginningZygote) {
        let isExecuted = zygote.table.awaitPrograms()
        change { state in
            state.beginning = nil
            if isExecuted, !state.queue.wasKilled {
                state.table = zygote.table
                state.control = zygote.control
                state.queue.noteStarted(at: .now)
                state.warm.noteStarted()
                state.events.append(.started(zygote.pid))
            } else {
                zygote.table.killAll()
                state.ending.append(EndingZygote(pid: zygote.pid, table: zygote.table, killAt: .now))
                state.queue.noteStartFailed(at: .now)
                if !isExecuted { state.events.append(.startFailed(.system(call: "execve", .timedOut))) }
                let pause = state.queue.pause(at: .now)
                giveUp(&state, because: state.queue.wasKilled ? .shutDown : .lost(nextStart: pause))
            }
            advance(&state)
        }
    }
}

/// Host: a zygote that has not called execve yet. Until then its table belongs to the thread that started it.
struct BeginningZygote: @unchecked Sendable {
    let pid: ProcessID
    let table: ChildTable
    let control: ParentDescriptor
    /// Whether that thread already waits for it.
    var isAwaited = false
}

/// Host: a zygote that is ending or has ended, and must be reaped.
struct EndingZygote {
    let pid: ProcessID
    /// Contains this zygote only.
    let table: ChildTable
    /// The time at which it is killed if it has not ended.
    let killAt: Instant
}
