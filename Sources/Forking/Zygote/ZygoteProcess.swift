// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// The zygote: has one thread, forks a child for each fork request, and warm children ahead of calls, reaps children,
/// and kills a child when the host shuts down its channel.
///
/// It never sees a call's request or reply: these go directly between host and child.
final class ZygoteProcess {
    /// The number of fork requests received before the loop checks for hang-ups and ended children.
    private static let requestsAtOnce = 8

    let control: ParentDescriptor
    /// Readable when the host has ended, for whatever reason. pidfd_open(2)
    private let host: ParentDescriptor
    /// Reports when the host hangs up on a call's channel, or on the control socket. epoll(7)
    let hangUps: ParentDescriptor
    /// The control socket's token in `hangUps`. A channel's token is its child's process ID.
    private static let controlToken: UInt64 = 0
    let table: ChildTable
    private let handlers: Zygote.Handlers
    private let names: HandlerNames
    let marks: ChannelMarks
    let replacements: Replacements
    private let beforeFork: () throws -> Void
    private let childOptions: ChildOptions
    /// The number of warm children that it forks at its start.
    private let warmChildren: Int
    /// The stack that `serve` runs on.
    private let stack = ParentStack()
    let state: ParentCell<State>
    private let tally: SharedTally
    /// The tally's file, for the host.
    private let tallyFile: ParentDescriptor

    /// What changes from call to call. Nothing else may change: see `ParentStack`.
    struct State: BitwiseCopyable {
        var isDraining = false
        /// No descriptor is free for another channel. Fork requests stay in the socket until a child has ended:
        /// received now, they would lose their channels.
        var isShort = false
        var warming = Warming()
    }

    /// A service manager or a terminal sends these signals to all processes of a service. The zygote ignores them,
    /// because it ends with its host. In children they have their usual effect.
    private let ignored: SignalDescriptor

    init(
        _ control: Int32, of hostID: ProcessID, _ configuration: Zygote.Configuration, _ hooks: Zygote.Hooks,
        _ handlers: Zygote.Handlers
    ) throws(ForkingError) {
        self.control = ParentDescriptor(control)
        var handlers = handlers
        handlers.around = hooks.aroundHandler
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
        warmChildren = configuration.warmChildren
        table = try ChildTable(maxChildren: configuration.maxChildren + warmChildren)
        marks = try ChannelMarks()
        replacements = try Replacements(for: marks)
        state = try ParentCell(State())
        tallyFile = try ParentDescriptor("memfd_create") { forkcore_memory_file("forking-tally", $0) }
        tally = try SharedTally(tallyFile.rawValue, isZygote: true)
        table.endsGroups = true
        table.onExit = { [unowned self] in tell($0) }
        table.onTrouble = { [unowned self] in tell($0) }
        if let timeout = options.timeout {
            table.timesOut = { [marks] in (marks.time($0.tag) ?? .now) + timeout }
        }
        try table.reapStrangers()  // all children here are calls' children, or were reparented from them
    }

    /// Serves until the host ends or hangs up, or until drained. Returns the exit status.
    func run() -> Int32 {
        guard prepare() else { return 1 }
        try? stack.run { () throws(ForkingError) in serve() }
        table.onExit = { [unowned self] in tellEnd($0.tag, $0.status, $0.usage) }
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
            forkAhead()
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
        state.value.warming.missing = warmChildren
        return (try? CallMessage(.ready, descriptors: [tallyFile.rawValue]).send(over: control.rawValue)) != nil
    }

    /// Does all that a child does, with a trivial handler, so that everything the Swift runtime creates at first use
    /// exists in each child.
    private func rehearse() throws {
        let pair = try DescriptorPair()
        var request = CallMessage(.request, [0])
        request.head.handler = HandlerName("rehearsal")
        try request.send(over: pair.ours.rawValue)
        var handlers = Zygote.Handlers()
        handlers.answer("rehearsal") { Zygote.Reply($0.bytes) }
        let names = HandlerNames(handlers.all)
        _ = ZygoteChild(channel: pair.theirs.rawValue, requested: .now, names: names, marks: marks).run(handlers)
        try self.handlers.rehearsal?()
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
        let descriptors: InlineArray<4, Int32> = [
            host.rawValue, hangUps.rawValue, takesRequests ? control.rawValue : -1, table.descriptor.rawValue,
        ]
        return Ready(rawValue: try waitUntilReadable(descriptors, atMost: isForkingAhead ? .zero : nil))
    }

    // MARK: Fork requests

    var takesRequests: Bool { !table.isFull && !state.value.isDraining && !state.value.isShort }

    private func takeRequests() {
        for _ in 0..<Self.requestsAtOnce {
            state.value.isShort = table.count > 0 && !hasDescriptorLeft
            guard takesRequests, takeRequest() else { return }
        }
    }

    var hasDescriptorLeft: Bool {
        let next = fcntl(control.rawValue, F_DUPFD_CLOEXEC, 0)
        if next >= 0 { forkcore_close(next) }
        return next >= 0
    }

    /// Returns whether there was one.
    private func takeRequest() -> Bool {
        var request = ForkRequest(.call)
        var channel: Int32 = -1
        let code = withUnsafeMutableBytes(of: &request) { head in
            withUnsafeMutablePointer(to: &channel) {
                var message = forkcore_message(
                    head: head.baseAddress, head_size: head.count, bytes: nil, count: 0, descriptors: $0,
                    descriptor_count: 1)
                return forkcore_message_receive(control.rawValue, &message)
            }
        }
        guard code == 0 else { return false }
        switch request.kind {
        case .drain: state.value.isDraining = true
        case .warm: state.value.warming.missing += Int(request.count)
        case .call: serve(channel)
        }
        return true
    }

    /// Forks the child of a call. If the call was cancelled while it waited, closing the channel reports its end.
    private func serve(_ channel: Int32) {
        guard !forkcore_hung_up(channel) else { return forkcore_close(channel) }
        replacements.clear(channel)
        do throws(ForkingError) {
            try fork(for: channel, requested: .now)
            ParentOnly.add(channel)
        } catch {
            refuse(channel, error)
        }
    }

    /// What a child needs to start: it has no access to its parent's stack.
    private struct Start: BitwiseCopyable {
        let zygote: Unmanaged<ZygoteProcess>
        let child: ZygoteChild
    }

    /// Forks a child that keeps `channel`. Later children close it: the caller adds it to `ParentOnly`, after the fork.
    func fork(for channel: Int32, requested: Instant?, keeping kept: [Int32] = []) throws(ForkingError) {
        marks.clear(channel)
        let child = ZygoteChild(channel: channel, requested: requested, names: names, marks: marks)
        let start = Start(zygote: .passUnretained(self), child: child)
        let pid = try table.fork(options: childOptions, keeping: kept, from: stack, start) {
            let start = $0!.load(as: Start.self)
            return start.zygote._withUnsafeGuaranteedRef { start.child.run($0.handlers) }
        }
        tally.value.alive = Int64(table.count)
        tally.value.forked += 1
        table.setTag(channel, of: pid)
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
                let channel = table.tag(of: pid)
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
        tally.value.reaping += (Instant.now - begun).inNanoseconds
    }

    private func tell(_ exit: ChildExit) {
        tally.value.reaped += 1
        tally.value.alive = Int64(table.count)
        state.value.isShort = false
        if !replace(exit) { tellEnd(exit.tag, exit.status, exit.usage) }
    }

    /// A child that has ended, but is held by a tracer, has ended as far as its call is concerned.
    private func tell(_ trouble: ChildTrouble) {
        Lines.tell("zygote: \(trouble)")
        guard case .held(let pid, _) = trouble else { return }
        tellEnd(table.tag(of: pid), .unknown, nil)
        table.setTag(-1, of: pid)
    }

    /// Reports the child's end on its channel. Has no effect if the host has the reply already.
    private func tellEnd(_ channel: Int32, _ status: ExitStatus, _ usage: ResourceUsage?) {
        guard channel >= 0 else { return }
        forkcore_poll_remove(hangUps.rawValue, channel)
        var message = CallMessage(.ended)
        message.head.end = CallMessage.End(status)
        message.head.usage = usage.map { CallMessage.Usage($0) } ?? CallMessage.Usage()
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
