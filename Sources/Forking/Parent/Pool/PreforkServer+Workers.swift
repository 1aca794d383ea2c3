// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

extension PreforkServer {
    enum Service {
        case connections((inout Connection, Worker) throws -> Void)
        case body((Worker) throws -> Void)
    }

    /// The parent's resources for a worker.
    struct WorkerLink {
        let slot: ScoreboardSlot
        /// Closing it asks the worker to drain.
        var lifeline: ParentDescriptor?
        /// Closing it ends the worker. The kernel closes it when the parent dies.
        let tie: ParentDescriptor

        mutating func askToDrain() {
            slot.askToDrain()
            lifeline = nil
        }
    }

    // MARK: Supervising

    /// Parent: compares the pool with what it should be, and acts on the difference.
    func reconcile(_ now: Instant) {
        for pid in policy.takeWeighing(now) where isTooLarge(pid) { policy.noteTooLarge(pid) }
        carryOut(
            policy.reconcile(
                snapshots(now), queued: { listeners.queued }, isStarting: loop.life.standing == .starting, at: now), now
        )
    }

    /// The workers' scoreboard slots as read now, in the policy's order.
    func snapshots(_ now: Instant) -> [WorkerSnapshot] {
        policy.workers.map { links[$0.pid]!.slot.read(startedAt: $0.startedAt, now: now) }
    }

    private func isTooLarge(_ pid: ProcessID) -> Bool {
        guard let limit = configuration.maxMemoryKiB, let size = WorkerMemory.proportionalSize(of: pid) else {
            return false
        }
        return size > limit
    }

    /// Carries out the policy's decisions. Workers are forked only while the server serves.
    func carryOut(_ actions: [PoolPolicy.Action], _ now: Instant) {
        for action in actions {
            switch action {
            case .tell(let event): tell(event)
            case .fork: if loop.life.state == .serving, !policy.isPausing { addWorker(now) }
            case .drain(let pid): links[pid]?.askToDrain()
            case .terminate(let pid):
                links[pid]?.slot.askToDrain(atOnce: true)
                children.signal(.terminate, to: pid, group: true)
                children.signal(.continue, to: pid, group: true)  // a stopped worker does not handle SIGTERM
            case .abort(let pid): children.signal(.abort, to: pid)
            case .kill(let pid): children.signal(.kill, to: pid, group: true)
            case .noteServing:
                tell(.serving(addresses))
                for shared in listeners { shared.listener.takeOver() }
                loop.noteServing()
            case .tellReloaded: loop.tellManager("READY=1")
            case .giveUp(let error):
                failure = error
                advance(to: .drain)
            }
        }
    }

    /// Parent: called when a child was reaped.
    func noteEnd(of exit: ChildExit) {
        guard policy.workers.contains(where: { $0.pid == exit.pid }) else {
            if held.remove(exit.pid) != nil { tell(.ended(exit, .expected)) }
            return
        }
        let now = Instant.now
        let isServing = loop.life.state == .serving
        let snapshots = isServing ? snapshots(now) : policy.workers.map(\.snapshot)
        let actions = policy.noteEnd(of: exit, snapshots, isServing: isServing, at: now)
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

    /// SIGHUP: replaces all workers.
    func replaceAll() {
        // Sent before anything can fail: with Type=notify-reload the manager waits for this message, and for the one
        // that ends the reload.
        loop.tellManager("RELOADING=1\nMONOTONIC_USEC=\(Instant.now.nanoseconds / 1000)")
        do {
            try hooks.beforeFork(self)
        } catch {
            tell(.replacingFailed("\(error)"))
            // A replacement that is already in progress sends this itself at its end.
            if !policy.isReplacingAll { loop.tellManager("READY=1") }
            return
        }
        carryOut(policy.replaceAll(), .now)
    }

    // MARK: Forking

    private func addWorker(_ now: Instant) {
        do throws(ForkingError) {
            try forkWorker(now)
        } catch {
            carryOut(policy.noteForkFailed(error, at: now), now)
        }
    }

    private func forkWorker(_ now: Instant) throws(ForkingError) {
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
        let actions = policy.noteForked(
            pid, number: number, retiresAt: configuration.maxAge.map { now + scattered($0) },
            slot.read(startedAt: now, now: now), at: now)
        carryOut(actions, now)
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
}
