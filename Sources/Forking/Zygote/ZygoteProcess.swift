// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// The zygote: has one thread, forks a child for each fork request, reaps children, and kills a child when the host
/// shuts down its channel.
///
/// It never sees a call's request or reply: these go directly between host and child.
final class ZygoteProcess {
    /// The number of fork requests received before the loop checks for hang-ups and ended children.
    private static let requestsAtOnce = 8

    private let control: ParentDescriptor
    /// Readable when the host has ended, for whatever reason. pidfd_open(2)
    private let host: ParentDescriptor
    /// Reports when the host hangs up on a call's channel, or on the control socket. epoll(7)
    private let hangUps: ParentDescriptor
    /// The control socket's token in `hangUps`. A channel's token is its child's process ID.
    private static let controlToken: UInt64 = 0
    private let table: ChildTable
    private let handlers: Zygote.Handlers
    private let names: HandlerNames
    private let beforeFork: () throws -> Void
    private let childOptions: ChildOptions
    /// The stack that `serve` runs on.
    private let stack = ParentStack()
    private let state: ParentCell<State>

    /// What changes from call to call. Nothing else may change: see `ParentStack`.
    private struct State: BitwiseCopyable {
        var tally = ZygoteTally()
        var isDraining = false
        /// No descriptor is free for another channel. Fork requests stay in the socket until a child has ended:
        /// received now, they would lose their channels.
        var isShort = false
    }

    /// A service manager or a terminal sends these signals to all processes of a service. The zygote ignores them,
    /// because it ends with its host. In children they have their usual effect.
    private let ignored: SignalDescriptor

    init(
        _ control: Int32, of hostID: ProcessID, _ configuration: Zygote.Configuration, _ hooks: Zygote.Hooks,
        _ handlers: Zygote.Handlers
    ) throws(ForkingError) {
        self.control = ParentDescriptor(control)
        self.handlers = handlers
        names = HandlerNames(handlers.all)
        beforeFork = hooks.beforeFork
        // A call's limits are applied by its child, which can report a failure to the host.
        var options = configuration.child
        options.limits = ResourceLimits()
        childOptions = options
        ignored = try SignalDescriptor([.terminate, .interrupt, .hangup])
        host = try ParentDescriptor("pidfd_open") { forkcore_pidfd(hostID, $0) }
        // The host may have ended before pidfd_open, and its process ID may have been reused.
        guard getppid() == hostID else { throw .invalid("the zygote's host has ended") }
        hangUps = try ParentDescriptor("epoll_create1", forkcore_poll_open)
        try check(forkcore_poll_add_hang_up(hangUps.rawValue, control, Self.controlToken), "epoll_ctl")
        table = try ChildTable(maxChildren: configuration.maxChildren)
        state = try ParentCell(State())
        table.endsGroups = true
        table.onExit = { [unowned self] in tell($0) }
        table.onTrouble = { [unowned self] in tell($0) }
        try table.reapStrangers()  // all children here are calls' children, or were reparented from them
    }

    /// Serves until the host ends or hangs up, or until drained. Returns the exit status.
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

    /// Runs `beforeFork` and a rehearsal, and tells the host that the zygote is ready, or why not. Returns whether it
    /// is.
    private func prepare() -> Bool {
        do {
            _ = forkcore_trim()  // unmap what only the start used, so that forks do not copy it
            try Threads.runAlone(beforeFork)
            let threads = forkcore_thread_count()
            if threads > 1 {
                throw ForkingError.invalid("it has started threads, which it must not: there are \(threads)")
            }
            try rehearse()
        } catch {
            let text = error is ForkingError ? "\(error)" : "it threw \(type(of: error)): \(error)"
            CallMessage(.threw, text: CallMessage.bytes(text)).sendWord(over: control.rawValue)
            return false
        }
        // An empty reply says that it is ready.
        return (try? CallMessage(.reply).send(over: control.rawValue)) != nil
    }

    /// Does all that a child does, with a trivial handler, so that everything the Swift runtime creates at first use
    /// exists in each child.
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

    /// Waits for something to do. While no child can be forked, fork requests stay in the socket.
    private func wait() throws(ForkingError) -> Ready {
        Ready(
            rawValue: try waitUntilReadable([
                host.rawValue, hangUps.rawValue, takesRequests ? control.rawValue : -1, table.descriptor.rawValue,
            ]))
    }

    // MARK: Fork requests

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

    /// Returns whether there was one.
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

    /// What a child needs to start: it has no access to its parent's stack.
    private struct Start: BitwiseCopyable {
        let zygote: Unmanaged<ZygoteProcess>
        let handler: Int
        let child: ZygoteChild
    }

    private func fork(_ name: UnsafeBufferPointer<UInt8>, _ limits: forkcore_limits, _ channel: Int32) {
        // The call was cancelled while it waited. Closing the channel reports its end.
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

    /// Marks the channel as parent-only, after the fork: this child keeps its channel, and later children close it.
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

    // MARK: Children's ends

    /// Kills the children of calls on which the host has hung up. Returns false if it has hung up on the zygote.
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
                // Stop polling the channel, which would report the hang-up again. The table reports the child's end.
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

    /// A child that has ended, but is held by a tracer, has ended as far as its call is concerned.
    private func tell(_ trouble: ChildTrouble) {
        Lines.tell("zygote: \(trouble)")
        guard case .held(let pid, _) = trouble else { return }
        tellEnd(table.channel(of: pid), .unknown, nil)
        table.keep(-1, for: pid)
    }

    /// Reports the child's end on its channel. Has no effect if the host has the reply already.
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
    /// The whole life of a zygote, from its fork or execve on. Returns the exit status.
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
