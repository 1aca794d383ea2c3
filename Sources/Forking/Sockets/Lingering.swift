// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// Connections that a worker has done with, but whose peers have not all of the answer yet: closed now, one that sends
/// a word more would have it cut off. The worker serves others meanwhile. See `forkcore_linger`. Worker, one thread.
final class Lingering {
    private struct Leaver {
        let descriptor: FileDescriptor
        let until: Instant
    }

    /// Oldest first. Where there are more, the oldest is closed as it is.
    private var leavers: [Leaver] = []
    private static let most = 64
    private static let pause = Duration.milliseconds(10)
    private var nextLook = Instant.now

    /// Takes the connection over.
    func add(_ connection: consuming Connection) {
        guard connection.beginFinish() else { return }
        let descriptor = connection.release()
        let now = Instant.now
        if leavers.isEmpty { nextLook = now + Self.pause }
        if leavers.count == Self.most { close(leavers.removeFirst()) }
        leavers.append(Leaver(descriptor: descriptor, until: now + Connection.longestFinish))
    }

    /// Closes those for which it is time.
    ///
    /// - Returns: when to look again; nil: there is none.
    func look() -> Instant? {
        guard !leavers.isEmpty else { return nil }
        let now = Instant.now
        guard nextLook <= now else { return nextLook }
        leavers.removeAll { leaver in
            guard leaver.until <= now || !forkcore_linger(leaver.descriptor.rawValue) else { return false }
            forkcore_close(leaver.descriptor.rawValue)
            return true
        }
        nextLook = now + Self.pause
        return leavers.isEmpty ? nil : nextLook
    }

    /// Descriptors are wanted for others.
    func closeAll() {
        leavers.forEach(close)
        leavers = []
    }

    /// The worker has nothing else to do any more.
    func finish() {
        for leaver in leavers {
            let rest = max(.zero, leaver.until - .now)
            forkcore_finish(leaver.descriptor.rawValue, false, rest.inMilliseconds)
            forkcore_close(leaver.descriptor.rawValue)
        }
        leavers = []
    }

    private func close(_ leaver: Leaver) {
        _ = forkcore_linger(leaver.descriptor.rawValue)
        forkcore_close(leaver.descriptor.rawValue)
    }
}
