// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// Connections that a worker has finished, but whose clients have not received everything yet. If one were closed now
/// and its client sent more, the connection would be reset and the rest of the reply lost. The worker serves others
/// meanwhile. See `forkcore_linger`. Worker, or a parent whose children close them; one thread.
final class Lingering {
    private struct Leaver {
        let descriptor: FileDescriptor
        let until: Instant
    }

    /// Oldest first. Beyond `most`, the oldest is closed early.
    private var leavers: [Leaver] = []
    private static let most = 64
    private static let pause = Duration.milliseconds(10)
    private var nextLook = Instant.now
    private let isInParent: Bool

    init(inParent isInParent: Bool) { self.isInParent = isInParent }

    /// When to `look()`; nil if there is none.
    var next: Instant? { leavers.isEmpty ? nil : nextLook }

    /// Takes over the connection.
    func add(_ connection: consuming Connection) {
        guard connection.beginFinish() else { return }
        let descriptor = connection.release()
        if isInParent { ParentOnly.add(descriptor.rawValue) }
        let now = Instant.now
        if leavers.isEmpty { nextLook = now + Self.pause }
        if leavers.count == Self.most { close(leavers.removeFirst()) }
        leavers.append(Leaver(descriptor: descriptor, until: now + Connection.longestFinish))
    }

    /// Closes connections whose clients have everything, or whose time is over.
    ///
    /// - Returns: when to call this again; nil if none is left.
    func look() -> Instant? {
        guard !leavers.isEmpty else { return nil }
        let now = Instant.now
        guard nextLook <= now else { return nextLook }
        leavers.removeAll { leaver in
            guard leaver.until <= now || !forkcore_linger(leaver.descriptor.rawValue) else { return false }
            end(leaver)
            return true
        }
        nextLook = now + Self.pause
        return leavers.isEmpty ? nil : nextLook
    }

    /// Closes all, because their descriptors are needed.
    func closeAll() {
        leavers.forEach(close)
        leavers = []
    }

    /// Waits for all, because the worker has nothing else to do.
    func finish() {
        for leaver in leavers {
            let rest = max(.zero, leaver.until - .now)
            forkcore_finish(leaver.descriptor.rawValue, false, rest.inMilliseconds)
            end(leaver)
        }
        leavers = []
    }

    private func close(_ leaver: Leaver) {
        _ = forkcore_linger(leaver.descriptor.rawValue)
        end(leaver)
    }

    private func end(_ leaver: Leaver) {
        if isInParent { ParentOnly.remove(leaver.descriptor.rawValue) }
        forkcore_close(leaver.descriptor.rawValue)
    }
}
