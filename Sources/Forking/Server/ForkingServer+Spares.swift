// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// The children that were forked ahead, the one that has waited longest first.
struct Spares {
    /// A child that waits for its one client.
    struct Spare {
        let pid: ProcessID
        /// The connection comes to it this way; closed, it ends.
        let channel: ParentDescriptor
    }

    let wanted: Int
    private(set) var waiting: [Spare] = []
    /// Those alive that have no client, also once they were dismissed. Children without a peer can be others' too.
    private var unserved: Set<ProcessID> = []
    /// Once half are used up they are forked anew, up to the full number: were each replaced as it goes, the parent would be
    /// in fork, and hold a processor, at the very time when the child should begin.
    private var isRefilling = true
    /// After a shortage of memory or processes.
    private var shortUntil: Instant?
    /// After some that ended before their client came, at the fault of what they were made ready with: others would, too.
    private var backoff = Backoff()
    /// From the first failure to fork one until the next success: it is told once.
    private(set) var isShort = false

    init(wanted: Int) {
        self.wanted = wanted
        waiting.reserveCapacity(wanted)
        unserved.reserveCapacity(wanted)
    }

    /// When the next one may be forked; nil if that is now.
    var pausedUntil: Instant? { shortUntil ?? backoff.until }

    var lacks: Bool { isRefilling && waiting.count < wanted && pausedUntil == nil }

    mutating func add(_ spare: Spare) {
        waiting.append(spare)
        unserved.insert(spare.pid)
        isShort = false
        if waiting.count == wanted { isRefilling = false }
    }

    mutating func next() -> Spare? {
        guard !waiting.isEmpty else { return nil }
        if waiting.count - 1 <= wanted / 2 { isRefilling = true }
        return waiting.removeFirst()
    }

    /// One has its client.
    mutating func noteClient(of pid: ProcessID) {
        unserved.remove(pid)
        if backoff.failures > 0 { backoff.noteSuccess() }
    }

    /// Whether it is one that has no client.
    func hasNoClient(_ pid: ProcessID) -> Bool { unserved.contains(pid) }

    /// A child has ended.
    ///
    /// - Returns: whether it was a spare that had no client.
    mutating func forget(_ pid: ProcessID) -> Bool {
        guard unserved.remove(pid) != nil else { return false }
        waiting.removeAll { $0.pid == pid }
        isRefilling = true
        var generator = SystemRandomNumberGenerator()
        backoff.noteFailure(at: .now, using: &generator)
        return true
    }

    /// Closes their channels, on which they end.
    mutating func dismiss() {
        let dismissed = unserved
        self = Spares(wanted: 0)
        unserved = dismissed
    }

    mutating func noteShortage(at now: Instant) {
        shortUntil = now + Admission.pause
        isShort = true
    }

    mutating func keepTime(_ now: Instant) {
        if let until = shortUntil, until <= now { shortUntil = nil }
        backoff.keepTime(now)
    }
}

/// Children forked ahead, so that a client does not wait for fork. The parent accepts and verifies as ever, and passes the
/// connection on. A client that waits goes before a spare that lacks; with none left, a child is forked as without spares.
extension ForkingServer {
    /// Whether to fork another now.
    var lacksSpare: Bool { loop.phase == .serving && spares.lacks && !children.isFull }

    /// Parent: forks one.
    func forkSpare() {
        do throws(ForkingError) {
            let (channel, childsEnd) = try Self.openChannel()
            defer { forkcore_close(childsEnd) }
            var options = childOptions
            options.timeLimit = nil  // it begins with the client
            let start = SpareStart(server: .passUnretained(self), channel: childsEnd)
            let pid = try children.fork(options: options, from: stack, start) {
                let start = $0!.load(as: SpareStart.self)
                return start.server._withUnsafeGuaranteedRef { $0.waitForClient(on: start.channel) }
            }
            spares.add(Spares.Spare(pid: pid, channel: channel))
        } catch {
            spares.noteShortage(at: .now)
            if admission.isNewShortage(at: .now) { hooks.observe(.shortage(error)) }
        }
    }

    private struct SpareStart: BitwiseCopyable {
        let server: Unmanaged<ForkingServer>
        let channel: Int32
    }

    private static func openChannel() throws(ForkingError) -> (ParentDescriptor, Int32) {
        var parentsEnd: Int32 = -1
        var childsEnd: Int32 = -1
        try check(forkcore_channel_open(&parentsEnd, &childsEnd), "socketpair")
        return (ParentDescriptor(channel: parentsEnd), childsEnd)
    }

    /// Child: what it will need is made ready now; then it waits.
    private func waitForClient(on channel: Int32) -> Int32 {
        hooks.prewarm()
        var descriptor: Int32 = -1
        var peer = SocketAddress { (_, _) in }
        let code = withUnsafeMutableBytes(of: &peer) {
            forkcore_take_over(channel, &descriptor, $0.baseAddress, $0.count)
        }
        forkcore_close(channel)
        guard code == 0 else { return 0 }  // nobody will come: the server stops, or has gone
        return attend(descriptor, of: peer)
    }

    /// Parent: gives a client to the spare that has waited longest. Nil if there is none.
    func passOn(_ connection: borrowing Connection) -> ProcessID? {
        while let spare = spares.next() {
            let code = withUnsafeBytes(of: connection.peer) {
                forkcore_hand_over(
                    spare.channel.rawValue, connection.descriptor.rawValue, $0.baseAddress, $0.count)
            }
            // One that has died in the meantime took nothing.
            guard code == 0, children.begin(spare.pid, for: connection.peer, configuration.timeLimit) else { continue }
            spares.noteClient(of: spare.pid)
            return spare.pid
        }
        if configuration.spares > 0, children.isFull { awaitRoom() }
        return nil
    }

    /// Parent: a client was admitted for the sake of spares that turn out to be dying. They have closed their channels, but
    /// stand in the table until they are reaped, which is a moment; sent away, the client would pay for it.
    private func awaitRoom() {
        let end = Instant.now + .seconds(1)
        while children.isFull {
            let rest = (end - .now).inNanoseconds
            guard rest > 0 else { return }
            var descriptor = children.descriptor.rawValue
            var ready: UInt32 = 0
            guard forkcore_wait_readable(&descriptor, 1, rest, &ready) == 0 else { return }
            children.collect()
        }
    }

    /// Parent: tells of a child's end, unless it was a spare's that was dismissed.
    func noteEnd(of exit: ChildExit) {
        admission.noteEnd()
        replies?.end(exit.pid)
        if service.isLending {
            var generator = SystemRandomNumberGenerator()
            let failed = !exit.status.isSuccess && exit.reason == .own
            lent.end(exit.pid, failed: failed, at: .now, using: &generator)
        }
        if spares.forget(exit.pid), exit.status.isSuccess { return }
        hooks.observe(.ended(exit))
    }
}
