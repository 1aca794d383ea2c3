// SPDX-License-Identifier: Apache-2.0
//
// Threads that are busy with what holds locks of Swift's runtime, of Foundation and of Dispatch. A child that was
// forked while one was held waits for it for ever.

import Foundation
import NIOCore
import NIOPosix

/// Starts so many, one kind after the other, and returns when each has done its work once. They end with the process.
func startBusyThreads(_ count: Int) {
    let ready = DispatchSemaphore(value: 0)
    let kinds: [@Sendable (DispatchSemaphore) -> Void] = [startEventLoop, startTypes, startFoundation, startTasks]
    for number in 0..<count { kinds[number % kinds.count](ready) }
    for _ in 0..<count { ready.wait() }
}

/// Between pieces of work: two cores are to have time for the calls, too.
private let pauseMicroseconds: UInt32 = 200

@Sendable private func startThread(_ ready: DispatchSemaphore, _ work: @escaping @Sendable (Int) -> Void) {
    Thread.detachNewThread {
        for turn in 0... {
            work(turn)
            if turn == 0 { ready.signal() }
            usleep(pauseMicroseconds)
        }
    }
}

/// An event loop that allocates, and writes into buffers.
@Sendable private func startEventLoop(_ ready: DispatchSemaphore) {
    let loop = MultiThreadedEventLoopGroup(numberOfThreads: 1).next()
    let task = loop.scheduleRepeatedTask(initialDelay: .zero, delay: .microseconds(Int64(pauseMicroseconds))) { _ in
        var buffer = ByteBufferAllocator().buffer(capacity: 16)
        for number in 0..<100 { buffer.writeString("message \(number)\r\n") }
    }
    _ = task
    loop.execute { ready.signal() }
}

private struct Zero<Rest> {}
private struct One<Rest> {}

/// New generic types, for each of which the runtime makes metadata; and their names.
@Sendable private func startTypes(_ ready: DispatchSemaphore) {
    startThread(ready) { turn in
        for number in turn * 20..<turn * 20 + 20 { _ = typeName(number, Void.self) }
    }
}

/// Another type for each number: its binary digits.
private func typeName<Rest>(_ number: Int, _ rest: Rest.Type) -> String {
    if number == 0 { return "\(Optional<Rest>.self)" }
    return number % 2 == 0 ? typeName(number / 2, Zero<Rest>.self) : typeName(number / 2, One<Rest>.self)
}

@Sendable private func startFoundation(_ ready: DispatchSemaphore) {
    startThread(ready) { turn in _ = foundation([UInt8(turn % 256)]) }
}

@Sendable private func startTasks(_ ready: DispatchSemaphore) {
    Task.detached {
        for turn in 0... {
            await withTaskGroup(of: Int.self) { group in
                for number in 0..<4 { group.addTask { (0..<number).reduce(0, +) } }
            }
            if turn == 0 { ready.signal() }
            try? await Task.sleep(for: .microseconds(Int(pauseMicroseconds)))
        }
    }
}
