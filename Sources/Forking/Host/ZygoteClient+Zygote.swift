// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Host: whether there is a zygote, its end, and its successor.
extension ZygoteClient {
    func requireZygote(_ state: inout State) throws(ForkingError) {
        listen(&state)
        guard state.control == nil, state.beginning == nil else { return }
        guard state.queue.phase == .open else { throw .shutDown }
        if let pause = state.queue.pause(at: .now) { throw .lost(nextStart: pause) }
        do { try startAgain(&state) } catch {
            state.events.append(.startFailed(error))
            state.queue.noteStartFailed(at: .now)
            throw .lost(nextStart: state.queue.pause(at: .now))
        }
    }

    /// Takes what the zygote has said; notices if it has ended.
    func listen(_ state: inout State) {
        while let control = state.control {
            do {
                guard let message = try CallMessage.receive(over: control.rawValue) else { return }
                if message.kind == .reply { state.queue.noteReady() }
                if message.kind == .threw { state.events.append(.startFailed(Self.notReady(message))) }
            } catch {
                lose(&state)
            }
        }
    }

    /// One that hears of its end is dead, and can be reaped, in less than a millisecond: so long the news of it waits,
    /// for how it ended. All others are reaped later, by whoever comes by.
    static let briefly = Duration.milliseconds(20)

    /// The zygote has ended, or is to: what it had ends with it. One that hears of it does that in milliseconds.
    func lose(_ state: inout State, isStuck: Bool = false, isUnasked: Bool = true) {
        guard let table = state.table, let pid = table.children.first?.pid else { return }
        // Where another thread waits on it, or on a duplicate, closing would neither wake that one nor tell the zygote.
        if let control = state.control { shutdown(control.rawValue, Int32(SHUT_RDWR)) }
        state.control = nil
        state.table = nil
        var status = ExitStatus.unknown
        table.onExit = { status = $0.status }
        if isStuck { table.killAll() }
        if !isUnasked { table.signal(.continue, to: pid) }  // stopped, it would not hear of it
        if isUnasked { _ = try? table.wait(atMost: Self.briefly) }
        state.ending.append(EndingZygote(pid: pid, table: table, killAt: .now + .seconds(2)))
        if let loss = state.queue.noteLost(at: .now) {
            state.events.append(.lost(pid, status, failures: loss.failures, pause: loss.pause))
        } else {
            giveUp(&state)
            reconcile(&state)
        }
    }

    /// Reaps those that have ended, and kills those that take too long. Never waits.
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

    /// One that is not ready yet does not stand still: what it prewarms takes its time.
    func replaceStuck(_ id: PendingCall.ID) {
        change { state in
            listen(&state)
            if state.queue.isRunning(id), case .ready = state.queue.zygote {
                lose(&state, isStuck: true)
            }
        }
    }

    // MARK: Started again

    static let inheritance = Inheritance("FORKING_ZYGOTE")
    static let controlDescriptor: Int32 = 3

    /// This executable, as it was started, with its host's number in a variable.
    static func successor() -> Program {
        var environment = CStrings(copying: environ)
        environment.append(inheritance.variable(forkcore_process()))
        return Program(
            path: "/proc/self/exe", arguments: .ofThisProcess, environment: environment)
    }

    /// The host has threads and must not fork; this is clone(2) with CLONE_VM and execve(2). Whoever does so waits for
    /// it once the state is unlocked: see `change`.
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

    /// Waits until it is executed. That takes microseconds, unless a file system is slow: no other thread is to wait
    /// for it. Until then the zygote's end of its socket is open here too, and its death would not show.
    func finishStart(of zygote: BeginningZygote) {
        let isExecuted = zygote.table.awaitPrograms()
        change { state in
            state.beginning = nil
            if isExecuted, !state.queue.wasKilled {
                state.table = zygote.table
                state.control = zygote.control
                state.queue.noteStarted(at: .now)
                state.counts = ZygoteCounts()
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

/// Host: a zygote that is about to be executed. Its table belongs to the thread that has started it, until it is.
struct BeginningZygote: @unchecked Sendable {
    let pid: ProcessID
    let table: ChildTable
    let control: ParentDescriptor
    /// Whether that thread waits for it by now.
    var isAwaited = false
}

/// Host: a zygote that is ending, or has ended, and is to be reaped.
struct EndingZygote {
    let pid: ProcessID
    /// With it alone.
    let table: ChildTable
    /// When it has had time enough.
    let killAt: Instant
}
