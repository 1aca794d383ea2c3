// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Host: whether there is a zygote, its end, and its successor.
extension ZygoteLink {
    func requireZygote(_ state: inout State) throws(ZygoteError) {
        listen(&state)
        guard !state.isOver else { throw .shutDown }
        guard state.control == nil else { return }
        let now = Instant.now
        state.backoff.keepTime(now)
        if let until = state.backoff.until { throw .lost(nextStart: until - now) }
        do { try startAgain(&state) } catch {
            state.events.append(.startFailed(error))
            noteFailure(&state)
            throw .lost(nextStart: state.backoff.until.map { $0 - .now })
        }
    }

    /// Takes what the zygote has said; notices if it has ended.
    func listen(_ state: inout State) {
        while let control = state.control {
            do {
                guard let message = try CallMessage.receive(over: control.rawValue, atMost: 0) else { return }
                message.closeDescriptors()
                state.isReady = state.isReady || message.kind == .reply
                if message.kind == .threw { state.events.append(.startFailed(Self.notReady(message))) }
            } catch {
                lose(&state)
            }
        }
    }

    /// The zygote has ended, or is to: what it had ends with it. One that hears of it does that in milliseconds.
    func lose(_ state: inout State, isStuck: Bool = false) {
        let pid = state.table.children.first?.pid
        var status = ExitStatus.unknown
        // Where another thread waits on it, or on a duplicate, closing would neither wake that one nor tell the zygote.
        if let control = state.control { shutdown(control.rawValue, Int32(SHUT_RDWR)) }
        state.control = nil
        state.places = 0  // whenever somebody takes what became of those who had one
        state.table.onExit = { status = $0.status }
        if isStuck { state.table.killAll() }
        if (try? state.table.wait(atMost: .seconds(2))) != true {
            state.table.killAll()
            _ = try? state.table.wait(atMost: .seconds(1))
        }
        if state.isDraining {
            state.isOver = true
            giveUp(&state)
            pid.map { state.events.append(.ended($0)) }
            return
        }
        // One that was ready has earned a successor at once; but not one that ended early after another that had.
        let endedEarly = Instant.now - state.counts.startedAt < .seconds(1)
        if state.isReady, !(endedEarly && state.hasFailed) {
            state.backoff.noteSuccess()
        } else {
            noteFailure(&state)
        }
        state.hasFailed = endedEarly
        let pause = state.backoff.until.map { $0 - .now } ?? .zero
        pid.map { state.events.append(.lost($0, status, failures: state.backoff.failures, pause: pause)) }
    }

    private func noteFailure(_ state: inout State) {
        var generator = SystemRandomNumberGenerator()
        state.backoff.noteFailure(at: .now, using: &generator)
    }

    /// One that is not ready yet does not stand still: what it prewarms takes its time.
    func replaceStuck(_ id: Ticket.ID) {
        change { state in
            listen(&state)
            if state.running[id]?.zygote == state.counts.zygote, state.control != nil, state.isReady {
                lose(&state, isStuck: true)
            }
        }
    }

    // MARK: Started again

    private static let variable = "FORKING_ZYGOTE"
    private static let place: Int32 = 3

    /// This executable, as it was started, with its host's number in a variable.
    static func successor() -> Program {
        var environment = CStrings(copying: environ)
        environment.append("\(variable)=\(forkcore_process())")
        return Program(
            path: "/proc/self/exe", arguments: CStrings(copying: UnsafePointer(CommandLine.unsafeArgv)),
            environment: environment)
    }

    /// In a process that was started to be the zygote of its parent: the socket to it. What anybody else put into the variable
    /// is not believed. If the parent has ended meanwhile, so does this: it would be a second host.
    static func inheritedControl() -> Int32? {
        guard let value = getenv(variable) else { return nil }
        defer { unsetenv(variable) }
        var type: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard let host = ProcessID(String(cString: value)), fcntl(place, F_SETFD, FD_CLOEXEC) == 0,
            getsockopt(place, SOL_SOCKET, SO_TYPE, &type, &length) == 0, type == Int32(SOCK_SEQPACKET.rawValue)
        else { return nil }
        guard host != getppid() else { return place }
        // A host that has just been killed closes its end, if perhaps a moment later; somebody else's socket stays as it is.
        var polled = pollfd(fd: place, events: 0, revents: 0)
        if poll(&polled, 1, 1000) > 0 { forkcore_exit(0) }
        return nil
    }

    /// The host has threads and must not fork; this is clone(2) with CLONE_VM and execve(2).
    func startAgain(_ state: inout State) throws(ForkingError) {
        state.table.collect()  // the old one may have taken longer to end than anybody waited
        let (mine, theirs) = try Self.openControl()
        defer { forkcore_close(theirs) }
        let pid = try state.table.spawn(
            state.successor, on: FileDescriptor(rawValue: theirs), at: Self.place, unblocking: state.unblocked,
            options: Self.options)
        // Until it runs, the zygote's end is open here too, and its death would not show.
        state.table.awaitPrograms()
        state.control = mine
        state.isReady = false
        state.counts = ZygoteCounts(zygote: state.counts.zygote + 1)
        state.events.append(.started(pid))
    }
}
