// SPDX-License-Identifier: Apache-2.0

import Foundation
import NIOCore
import NIOPosix
import Synchronization

/// What goes on in a host: event loops, Foundation, types made at run time, tasks. Each takes the locks that a child
/// forked from here would find taken for ever.
package final class Noise: Sendable {
    /// A type's metadata stays for ever.
    private static let types = 2_000
    private let isOver = Atomic(false)
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)

    package init() {}

    package func begin() {
        Thread.detachNewThread { self.untilOver { round in _ = typeName(round % Self.types, Int.self) } }
        Thread.detachNewThread {
            self.untilOver { _ in _ = ISO8601DateFormatter().string(from: Date()).data(using: .utf8) }
        }
        for loop in group.makeIterator() { tick(loop) }
        Task { while !isOver.load(ordering: .relaxed) { await Task { _ = [UInt8](repeating: 1, count: 1000) }.value } }
    }

    package func end() {
        isOver.store(true, ordering: .relaxed)
        try? group.syncShutdownGracefully()
    }

    private func tick(_ loop: any EventLoop) {
        guard !isOver.load(ordering: .relaxed) else { return }
        loop.scheduleTask(in: .microseconds(200)) { self.tick(loop) }
    }

    private func untilOver(_ body: (Int) -> Void) {
        var round = 0
        while !isOver.load(ordering: .relaxed) {
            body(round)
            round += 1
            if round % 16 == 0 { usleep(500) }  // two processors have other things to do too
        }
    }
}

private struct Nested<Inner> {}

/// Instantiates metadata: a type of its own for each number.
private func typeName<T>(_ number: Int, _: T.Type) -> String {
    if number == 0 { return String(describing: Nested<T>.self) }
    return number % 2 == 0 ? typeName(number / 2, Nested<T>.self) : typeName(number / 2, [T].self)
}
