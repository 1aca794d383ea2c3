// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// The zygote: one thread for ever, which forks a child for each fork request, reaps, and kills whose host hangs up.
///
/// It never sees a request, nor an answer: those go between host and child.
final class ZygoteProcess {
    /// So many fork requests are taken before it is looked whose time has come, and who has ended.
    private static let requestsAtOnce = 8

    private let control: ParentDescriptor
    /// Readable when the host has ended, however it did. pidfd_open(2)
    private let host: ParentDescriptor
    /// The calls' channels, and the socket that fork requests come by, readable when the host hangs up. epoll(7)
    private let hangUps: ParentDescriptor
    /// That socket's token there. Each channel's is its child's pid.
    private static let controlToken: UInt64 = 0
    private let table: ChildTable
    private let handlers: Zygote.Handlers
    private let names: HandlerNames
    private let beforeFork: () throws -> Void
    private let childOptions: ChildOptions
    /// Where it runs, once it is prepared.
    private let stack = ParentStack()
    private let state: ParentCell<State>

    /// What changes from call to call. So nothing else may: see `ParentStack`.
    private struct State: BitwiseCopyable {
        var tally = ZygoteTally()
        var isDraining = false
        /// There was no number for another channel: fork requests wait until a child has ended. Taken, they would be
        /// lost.
        var isShort = false
    }

    /// A service manager, or a terminal, sends these to all processes of a service; the zygote ends with its host.
    /// Children have them as ever.
    private let ignored: SignalDescriptor

    init(
        _ control: Int32, of hostID: ProcessID, _ configuration: Zygote.Configuration, _ hooks: Zygote.Hooks,
        _ handlers: Zygote.Handlers
    ) throws(ForkingError) {
        self.control = ParentDescriptor(control)
        self.handlers = handlers
        names = HandlerNames(handlers.all)
        beforeFork = hooks.beforeFork
        // Each call has limits of its own, which its child takes on where it can tell the host.
        var options = configuration.child
        options.limits = ResourceLimits()
        childOptions = options
        ignored = try SignalDescriptor([.terminate, .interrupt, .hangup])
        host = try ParentDescriptor("pidfd_open") { forkcore_pidfd(hostID, $0) }
        // It had ended before, and its number may be another's.
        guard getppid() == hostID else { throw .invalid("the zygote's host has ended") }
        hangUps = try ParentDescriptor("epoll_create1", forkcore_poll_open)
        try check(forkcore_poll_add_hang_up(hangUps.rawValue, control, Self.controlToken), "epoll_ctl")
        table = try ChildTable(maxChildren: configuration.maxChildren)
        state = try ParentCell(State())
        table.endsGroups = true
        table.onExit = { [unowned self] in tell($0) }
        table.onTrouble = { [unowned self] in tell($0) }
        try table.reapStrangers()  // this process has no other children than its calls', and what those make its own
    }

    /// Serves until the host has gone or hung up, or until it is drained. Returns its exit status.
    func run() -> Int32 {
        guard prepare() else { return 1 }
        try? stack.run { () throws(ForkingError) in serve() }
        table.killAll()
        _ = try? table.wait(atMost: .seconds(1))
        return 0
    }

    private func serve() {
        while !(state.value.isDraining && table.count == 0) {
            guard let ready = try? wait(), !ready.contains(.hostsEnd) else { return }
            if ready.contains(.hangUps), !killAbandoned() { return }
            if ready.contains(.requests) { takeRequests() }
            if ready.contains(.children) { collect() }
        }
    }

    /// Runs what is to be warm, and says that it is, or why not.
    private func prepare() -> Bool {
        do {
            _ = forkcore_trim()  // what only the start needed need not be copied by each fork
            try Threads.runAlone(beforeFork)
            let threads = forkcore_thread_count()
            if threads > 1 {
                throw ForkingError.invalid("it has started threads, and may start none: there are \(threads)")
            }
            try rehearse()
        } catch {
            let text = error is ForkingError ? "\(error)" : "it threw \(type(of: error)): \(error)"
            CallMessage(.threw, text: CallMessage.bytes(text)).sendWord(over: control.rawValue)
            return false
        }
        return (try? CallMessage(.reply).send(over: control.rawValue)) != nil
    }

    /// Does what each child does, but for its handler: what the language makes at first use is then made in each of
    /// them.
    private func rehearse() throws {
        let pair = try DescriptorPair()
        try CallMessage(.request, [0]).send(over: pair.ours.rawValue)
        _ = ZygoteChild(channel: pair.theirs.rawValue, limits: forkcore_limits(), ordered: .now, tally: ZygoteTally())
            .run(.answer { Zygote.Reply($0.bytes) })
    }

    private struct Ready: OptionSet {
        let rawValue: UInt32
        static let hostsEnd = Ready(rawValue: 1)
        static let hangUps = Ready(rawValue: 2)
        static let requests = Ready(rawValue: 4)
        static let children = Ready(rawValue: 8)
    }

    /// Waits for something to do. While there is no room, fork requests wait in the socket.
    private func wait() throws(ForkingError) -> Ready {
        Ready(
            rawValue: try waitUntilReadable([
                host.rawValue, hangUps.rawValue, takesRequests ? control.rawValue : -1, table.descriptor.rawValue,
            ]))
    }

    // MARK: Orders

    private var takesRequests: Bool { !table.isFull && !state.value.isDraining && !state.value.isShort }

    private func takeRequests() {
        for _ in 0..<Self.requestsAtOnce {
            state.value.isShort = table.count > 0 && !hasDescriptorLeft
            guard takesRequests, takeRequest() else { return }
        }
    }

    private var hasDescriptorLeft: Bool {
        let next = fcntl(control.rawValue, F_DUPFD_CLOEXEC, 0)
        if next >= 0 { forkcore_close(next) }
        return next >= 0
    }

    /// Whether there was one.
    private func takeRequest() -> Bool {
        var request = ForkRequest()
        var channel: Int32 = -1
        var message = forkcore_message()
        return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: ForkRequest.longestName) { name in
            let code = withUnsafeMutableBytes(of: &request) { head in
                withUnsafeMutablePointer(to: &channel) {
                    message = forkcore_message(
                        head: head.baseAddress, head_size: head.count, bytes: name.baseAddress, count: name.count,
                        descriptors: $0, descriptor_count: 1)
                    return forkcore_message_receive(control.rawValue, &message)
                }
            }
            guard code == 0 else { return false }
            if request.kind == .drain { state.value.isDraining = true }
            guard message.descriptor_count == 1 else { return true }
            fork(UnsafeBufferPointer(rebasing: name.prefix(message.count)), request.limits, channel)
            return true
        }
    }

    /// What a child is told.
    private struct Start: BitwiseCopyable {
        let zygote: Unmanaged<ZygoteProcess>
        let handler: Int
        let child: ZygoteChild
    }

    private func fork(_ name: UnsafeBufferPointer<UInt8>, _ limits: forkcore_limits, _ channel: Int32) {
        // Cancelled while it waited. Closed, its end is as good as told.
        guard !forkcore_hung_up(channel), let handler = names.number(of: name) else { return forkcore_close(channel) }
        var tally = state.value.tally
        tally.alive = Int64(table.count) + 1
        tally.forked += 1
        let child = ZygoteChild(channel: channel, limits: limits, ordered: .now, tally: tally)
        let start = Start(zygote: .passUnretained(self), handler: handler, child: child)
        do throws(ForkingError) {
            let pid = try table.fork(options: childOptions, from: stack, start) {
                let start = $0!.load(as: Start.self)
                return start.zygote._withUnsafeGuaranteedRef {
                    start.child.run($0.handlers.all[start.handler].handler)
                }
            }
            state.value.tally.forked += 1
            watch(channel, of: pid)
        } catch {
            refuse(channel, error)
        }
    }

    /// Only now is it one that children close: its own is to keep it.
    private func watch(_ channel: Int32, of pid: ProcessID) {
        ParentOnly.add(channel)
        table.keep(channel, for: pid)
        _ = forkcore_poll_add_hang_up(hangUps.rawValue, channel, UInt64(pid))
    }

    private func refuse(_ channel: Int32, _ error: ForkingError) {
        var message = CallMessage(.notForked)
        if case .system(let call, let code) = error.detail {
            message.bytes = CallMessage.bytes(call)
            message.head.code = code.rawValue
        } else {
            message.bytes = CallMessage.bytes("fork: \(error)")
        }
        message.sendWord(over: channel)
        forkcore_close(channel)
    }

    // MARK: Ends

    /// Kills children whose calls the host has hung up; false if it has hung up on the zygote.
    private func killAbandoned() -> Bool {
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 16) { tokens in
            var count = 0
            guard forkcore_poll_ready(hangUps.rawValue, tokens.baseAddress, tokens.count, &count) == 0 else {
                return true
            }
            for index in 0..<count {
                guard tokens[index] != Self.controlToken else { return false }
                let pid = ProcessID(tokens[index])
                let channel = table.channel(of: pid)
                guard channel >= 0 else { continue }
                // Its end is news; that the host hung up is news no more.
                forkcore_poll_remove(hangUps.rawValue, channel)
                table.signal(.kill, to: pid, group: true)
            }
            return true
        }
    }

    private func collect() {
        let begun = Instant.now
        table.collect(telling: { tell($0) })
        state.value.tally.reaping += (Instant.now - begun).inNanoseconds
    }

    private func tell(_ exit: ChildExit) {
        state.value.tally.reaped += 1
        state.value.isShort = false
        tellEnd(exit.channel, exit.status, exit.usage)
    }

    /// A child that has ended, but is held by whoever traces it, has ended for its call.
    private func tell(_ trouble: ChildTrouble) {
        Lines.tell("zygote: \(trouble)")
        guard case .held(let pid, _) = trouble else { return }
        tellEnd(table.channel(of: pid), .unknown, nil)
        table.keep(-1, for: pid)
    }

    /// To a host that has its answer already, this comes too late, and is lost.
    private func tellEnd(_ channel: Int32, _ status: ExitStatus, _ usage: ResourceUsage?) {
        guard channel >= 0 else { return }
        forkcore_poll_remove(hangUps.rawValue, channel)
        var message = CallMessage(.ended)
        message.head.end = CallMessage.End(status)
        message.head.usage = usage.map { CallMessage.Usage($0) } ?? CallMessage.Usage()
        message.head.tally = state.value.tally
        message.head.tally.alive = Int64(table.count)
        message.sendWord(over: channel)
        ParentOnly.remove(channel)
        forkcore_close(channel)
    }
}

extension ZygoteProcess {
    /// The whole life of a zygote, from the fork or the start on. Returns its exit status.
    static func run(
        _ control: Int32, of host: ProcessID, _ configuration: Zygote.Configuration, _ hooks: Zygote.Hooks,
        _ handlers: Zygote.Handlers
    ) -> Int32 {
        do {
            return try ZygoteProcess(control, of: host, configuration, hooks, handlers).run()
        } catch {
            Lines.tell("zygote: \(error)")
            return 1
        }
    }
}
