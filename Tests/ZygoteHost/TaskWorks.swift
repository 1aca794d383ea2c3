// SPDX-License-Identifier: Apache-2.0

import Forking
import ForkingAsync
import Foundation
import HostSupport
import NIOPosix
import Synchronization
import SystemPackage

/// What an `async` handler can do with Tasks, on the one thread of a child. Each returns whether it went right.
enum TaskWorks {
    typealias Work = @Sendable () async throws -> Bool

    /// Without any other thread.
    static let alone: [String: Work] = [
        "Task": { await Task { isFirstThread }.value },
        "Task.detached": { await Task.detached(priority: .background) { isFirstThread }.value },
        "async let": {
            async let one = isFirstThread
            async let other = isFirstThread
            return await (one, other) == (true, true)
        },
        "four Tasks": { await sum(of: 4) == 6 },
        "a thousand Tasks": { await sum(of: 1000) == 499_500 },
        "actors": {
            let counter = Counter()
            await withTaskGroup(of: Void.self) { group in
                for _ in 0..<100 { group.addTask { await counter.add() } }
            }
            return await counter.count == 100
        },
        "the main actor": {
            await MainActor.run { mainCount += 1 }
            let isFirst = await Task { @MainActor in
                mainCount += 1
                await Task.yield()
                MainActor.preconditionIsolated()
                return isFirstThread
            }.value
            return await MainActor.run { mainCount == 2 } && isFirst
        },
        "Task.sleep": {
            let begun = ContinuousClock.now
            try await Task.sleep(for: .milliseconds(20))
            return ContinuousClock.now - begun >= .milliseconds(20) && isFirstThread
        },
        "Task.sleep on the main actor": {
            try await Task { @MainActor in
                try await Task.sleep(nanoseconds: 1_000_000)
                MainActor.preconditionIsolated()
                return isFirstThread
            }.value
        },
        "Task.sleep, the last to begin the first to end": {
            try await withThrowingTaskGroup(of: Int.self) { group in
                let begun = ContinuousClock.now
                for number in 0..<50 {
                    let end = begun + .milliseconds(200 - 3 * number)
                    group.addTask {
                        try await Task.sleep(until: end, clock: .continuous)
                        return number
                    }
                }
                return try await group.reduce(into: []) { $0.append($1) } == (0..<50).reversed()
            }
        },
        "Task.sleep, cancelled": {
            let task = Task { try await Task.sleep(for: .seconds(Int64.max)) }
            await Task.yield()
            task.cancel()
            guard case .failure(let error) = await task.result else { return false }
            return error is CancellationError
        },
        // A Task that waits for another gives way to it, wherever it runs.
        "Task.yield": {
            let flag = Flag()
            let waiting = [
                Task { await flag.awaited() }, Task { @MainActor in await flag.awaited() },
                Task { await Counter().wait(for: flag) },
            ]
            await Task.yield()
            flag.isSet.store(true, ordering: .releasing)
            for task in waiting { await task.value }
            return true
        },
    ]

    /// With threads of others.
    static let withThreads: [String: Work] = [
        "a continuation that a queue's thread resumes": {
            for _ in 0..<100 {
                let wasFirst = await withCheckedContinuation { continuation in
                    DispatchQueue.global().async { continuation.resume(returning: isFirstThread) }
                }
                guard !wasFirst, isFirstThread else { return false }
            }
            return true
        },
        "an event loop": {
            let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
            let wasFirst = try await group.next().submit { isFirstThread }.get()
            try await group.shutdownGracefully()
            return !wasFirst && isFirstThread
        },
        "a stream": {
            let stream = AsyncStream<Int> { continuation in
                Thread.detachNewThread {
                    for number in 0..<1000 { continuation.yield(number) }
                    continuation.finish()
                }
            }
            return await stream.reduce(0, +) == 499_500 && isFirstThread
        },
    ]

    static func register(in handlers: inout Zygote.Handlers) {
        for (name, work) in alone.merging(withThreads, uniquingKeysWith: { first, _ in first }) {
            handlers.answer(name) { _ async throws -> Zygote.Reply in
                try expect(try await work(), "\(name) went wrong")
                return Zygote.Reply(Array("\(threadCount)".utf8))
            }
        }
        handlers.answer("blocked") { _ async throws -> Zygote.Reply in
            block(until: Task {})
            return Zygote.Reply()
        }
        handlers.answer("unawaited") { _ async throws -> Zygote.Reply in
            Task { while true { await Task.yield() } }
            Task { try await Task.sleep(for: .seconds(1000)) }
            await Task.yield()
            return Zygote.Reply()
        }
        handlers.serve("lines, awaited") { (connection: inout Connection, request: Zygote.Request) async throws in
            while let line = try connection.readLine() {
                try connection.write(await Task { request.bytes + Array(" ".utf8) + line }.value)
            }
        }
    }

    private static func sum(of count: Int) async -> Int {
        await withTaskGroup(of: Int.self) { group in
            for number in 0..<count {
                group.addTask {
                    await Task.yield()
                    return number
                }
            }
            return await group.reduce(0, +)
        }
    }

    /// Blocks a thread that could run the Task.
    private static func block(until task: Task<Void, Never>) {
        let done = DispatchSemaphore(value: 0)
        Task {
            await task.value
            done.signal()
        }
        done.wait()
    }
}

private var isFirstThread: Bool { Thread.isMainThread }

/// Threads that have no more to do stay for a while, so that this counts all that there were.
private var threadCount: Int {
    let stat = try? String(contentsOfFile: "/proc/self/stat", encoding: .utf8)
    return stat?.split(separator: ")").last?.split(separator: " ").dropFirst(17).first.flatMap { Int($0) } ?? -1
}

@MainActor private var mainCount = 0

private actor Counter {
    private(set) var count = 0

    func add() { count += 1 }
    func wait(for flag: Flag) async { await flag.awaited() }
}

private final class Flag: Sendable {
    let isSet = Atomic(false)

    func awaited() async { while !isSet.load(ordering: .acquiring) { await Task.yield() } }
}
