// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization

// The loop of a pool's parent, in the order in which SIGHUP goes through it: the signal, what the policy decides, new
// workers, the ends of the old ones.
extension PreforkServer {
    // MARK: A turn

    /// One turn: compares the pool with what it should be, waits, then handles signals, exits and timers.
    func turn() throws(ForkingError) {
        if loop.life.state == .serving { keepListening() }
        if loop.life.state == .serving {  // keepListening may have stopped it
            let (now, isStarting) = (Instant.now, loop.life.standing == .starting)
            let actions = policy.reconcile(
                snapshots(now), queued: { listeners.queued }, isStarting: isStarting, at: now)
            carryOut(actions, now)
        }
        loop.report(reportState, { reportLine })
        let ready = try loop.wait(
            for: wakeEvent.descriptor,
            until: earlier(policy.nextLook, earlier(wakeEvent.pause.until, passOnPause.until)),
            isBusy: false)
        if ready.contains(.signal) { takeSignals() }
        if ready.contains(.stop), let step = stopSwitch.take() { advance(to: step) }
        if ready.contains(.children) { children.collect() }  // calls `noteEnd(of:)` for each that has ended
        wakeEvent.fireTimers(.now)
        if ready.contains(.work) { wakeEvent.take(.now) }  // some worker's scoreboard has changed
        if let event = loop.lookAfterUpgrade(ready) { note(event) }
        if passOnPause.isOver(at: .now) { passOnLastClients(.now) }
        switch loop.fireTimers(.now) {
        case .stop(let stop): carryOut(stop)
        case .abandonChildren: tell(.abandoned(loop.abandoned))
        case nil: break
        }
        if ready.contains(.control) { loop.answer(from: self) }
    }

    /// Reports an event to the user's hook.
    func tell(_ event: Event) { hooks.onEvent(self, event) }

    // MARK: Signals

    private func takeSignals() {
        for signal in loop.takeSignals() {
            if stopSignals.contains(signal) {
                advance(to: loop.life.nextStep)
            } else if let hook = hooks.signals[signal] {
                hook(self)
            } else if loop.life.state == .serving {
                switch signal {
                case .hangup: replaceAll()
                case .ttyInput: resize { $0.add() }
                case .ttyOutput: resize { $0.remove() }
                default: upgrade()
                }
            }
        }
    }

    private func replaceAll() {
        // Sent before anything can fail: with Type=notify-reload the manager waits for this message, and for the one
        // that ends the reload.
        loop.reports?.say("RELOADING=1\nMONOTONIC_USEC=\(Instant.now.nanoseconds / 1000)", .now)
        do {
            try hooks.beforeFork(self)
        } catch {
            tell(.replacingFailed("\(error)"))
            // A replacement that is already in progress sends this itself at its end.
            if !policy.isReplacingAll { loop.reports?.say("READY=1", .now) }
            return
        }
        policy.replaceAll()  // the next turn begins with `policy.reconcile`, which returns the forks
        tell(.replacing)
    }

    private func resize(_ change: (inout PoolSize) -> Void) {
        change(&policy.size)
        tell(.resized(policy.size.wanted))
    }

    // MARK: Carrying out decisions

    /// The workers' scoreboard slots as read now, in the policy's order.
    func snapshots(_ now: Instant) -> [WorkerSnapshot] {
        policy.workers.map { links[$0.pid]!.slot.read(startedAt: $0.startedAt, now: now) }
    }

    /// Carries out the policy's decisions. Workers are forked and measured only while the server serves.
    private func carryOut(_ actions: [PoolPolicy.Action], _ now: Instant) {
        for action in actions {
            switch action {
            case .tell(let event): tell(event)
            case .fork:
                guard loop.life.state == .serving, !policy.isPausing else { continue }
                do throws(ForkingError) {
                    try fork(now)
                } catch {
                    carryOut(policy.noteForkFailed(error, at: now), now)
                }
            case .drain(let pid):
                links[pid]?.slot.askToDrain()
                links[pid]?.lifeline = nil  // a worker that waits notices that
            case .terminate(let pid):
                links[pid]?.slot.askToDrain(atOnce: true)
                children.signal(.terminate, to: pid, group: true)
                children.signal(.continue, to: pid, group: true)  // a stopped worker does not handle SIGTERM
            case .abort(let pid): children.signal(.abort, to: pid)
            case .kill(let pid): children.signal(.kill, to: pid, group: true)
            case .weigh(let pid):
                if loop.life.state == .serving, isTooLarge(pid) { policy.noteTooLarge(pid, at: now) }
            case .noteServing:
                tell(.serving(addresses))
                for shared in listeners { shared.listener.takeOver() }
                loop.noteServing()
            case .tellReloaded: loop.reports?.say("READY=1", .now)
            case .giveUp(let error):
                failure = error
                advance(to: .drain)
            }
        }
    }

    private func isTooLarge(_ pid: ProcessID) -> Bool {
        guard let limit = configuration.maxMemoryKiB, let size = WorkerMemory.proportionalSize(of: pid) else {
            return false
        }
        return size > limit
    }

    // MARK: Forking

    private func fork(_ now: Instant) throws(ForkingError) {
        let number = policy.nextNumber
        let slot = try ScoreboardSlot()
        let lifeline = try DescriptorPair("socketpair", forkcore_lifeline_open)
        let tie = try DescriptorPair("pipe2", forkcore_tie_open)
        let bell = try wakeEvent.bell()
        let link = WorkerLink(
            slot: slot, lifeline: ParentDescriptor(channel: lifeline.ours.release()),
            tie: ParentDescriptor(tie.ours.release()))
        let setup = WorkerSetup(
            number: number, listeners: listeners.map(\.descriptor), addresses: addresses, slot: slot,
            lifeline: lifeline.theirs.rawValue, tie: tie.theirs.rawValue, lastClients: lastClients.descriptor,
            wakeEvent: bell.rawValue,
            orphanTimeout: (Instant(nanoseconds: 0) + policy.rules.drainTimeout + configuration.child.killTimeout)
                .nanoseconds,
            maxRequests: requestsUntilReplaced(), heartbeatTimeout: configuration.heartbeatTimeout)
        var options = configuration.childOptions
        options.heedless = heedless
        let start = WorkerStart(self, setup)
        let pid = try withExtendedLifetime(start) { () throws(ForkingError) in
            try children.fork(
                options: options, keeping: setup.listeners + [setup.lastClients], from: stack,
                Unmanaged.passUnretained(start)
            ) {
                $0!.load(as: Unmanaged<WorkerStart>.self).takeUnretainedValue().run()
            }
        }
        slot.withhold()
        links[pid] = link
        policy.noteForked(
            pid, number: number, retiresAt: configuration.maxAge.map { now + scattered($0) },
            slot.read(startedAt: now, now: now), at: now)
        tell(.forked(pid, number: number))
    }

    private func requestsUntilReplaced() -> UInt64 {
        guard let limit = configuration.maxRequests else { return .max }
        let tenth = limit / 10
        return UInt64(limit - tenth) + UInt64.random(in: 0...2 * UInt64(tenth))
    }

    /// `time`, plus or minus a tenth.
    private func scattered(_ time: Duration) -> Duration {
        let tenth = time.inNanoseconds / 10
        let (sum, overflow) = time.inNanoseconds.addingReportingOverflow(Int64.random(in: -tenth...tenth))
        return .nanoseconds(overflow ? .max : sum)
    }

    // MARK: Ends

    /// Parent: called when a child was reaped.
    func noteEnd(of exit: ChildExit) {
        let now = Instant.now
        let isServing = loop.life.state == .serving
        let snapshots = isServing ? snapshots(now) : policy.workers.map(\.snapshot)
        guard let actions = policy.noteEnd(of: exit, snapshots, isServing: isServing, at: now) else {
            if held.remove(exit.pid) != nil { tell(.ended(exit, .expected)) }
            return
        }
        unlink(exit.pid)
        carryOut(actions, now)
    }

    /// Removes the link of a worker that is gone. If other code has reaped it, another worker may already have its pid,
    /// and needs its own link.
    private func unlink(_ pid: ProcessID) {
        if !policy.workers.contains(where: { $0.pid == pid }) { links[pid] = nil }
    }

    /// Parent: called when a worker cannot be ended, or has ended and cannot be reaped. The latter does not serve any
    /// more, and is replaced.
    func note(_ trouble: ChildTrouble) {
        let isServing = loop.life.state == .serving
        if case .held(let pid, _) = trouble, policy.forget(pid, isServing: isServing, at: .now) {
            unlink(pid)
            held.insert(pid)
        }
        tell(.trouble(trouble))
    }

    // MARK: Listeners

    /// Parent: listens again on the sockets that a worker has shut down, which it can because all processes share them.
    /// If that fails, no client can connect any more, and the server stops.
    func keepListening() {
        do throws(ForkingError) {
            _ = try listeners.listenAgain { tell(.listeningAgain($0)) }
        } catch {
            failure = error
            advance(to: .drain)
        }
    }

    // MARK: Stopping

    func carryOut(_ stop: Lifecycle.Stop) {
        tell(.stopping(stop.step))
        let areServed = stop.actions.contains(.acceptWaiting) && canServeWaiting
        if areServed { for link in links.values { link.slot.offerLastClients() } }
        // Ask each worker before the sockets stop listening, so that no worker takes that for an error.
        carryOut(policy.stop(), .now)
        if stop.step > .drain { for link in links.values { link.slot.askToDrain(atOnce: true) } }
        if areServed {
            lastClients.take(at: listeners)
        } else {
            lastClients.close()
        }
        if stop.actions.contains(.abandonSuccessor) {
            for shared in listeners { shared.listener.stopListening() }
            loop.abandonSuccessor()
        }
        listeners = []
        if areServed { passOnLastClients(.now) }
        loop.carryOut(stop)
    }

    /// Whether workers can serve the clients in the queues of sockets on which no other process goes on to serve.
    private var canServeWaiting: Bool {
        links.values.contains { $0.slot.fields.takesFromQueue.load(ordering: .relaxed) }
    }

    /// Passes on as many of the clients that waited as the queue has room for.
    func passOnLastClients(_ now: Instant) {
        passOnPause.end()
        if lastClients.passOn() { passOnPause.begin(until: now + Admission.pause) }
    }
}
