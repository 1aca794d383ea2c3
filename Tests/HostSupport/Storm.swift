// SPDX-License-Identifier: Apache-2.0

package import Forking
import Foundation
import Synchronization

/// Many calls from eight Tasks of a busy host, one in ten of which fails, while the zygote is killed again and again.
///
/// Each call must end as what it was; only what was in flight when a zygote was killed may be lost; and afterwards host
/// and zygote hold what they held before.
package final class Storm: Sendable {
    private static let lanes = 8
    /// Dispatch opens descriptors for its clocks when it first needs them, and keeps them.
    private static let clocks = 4
    /// A zygote that ends within its first second has no successor at once.
    private static let life = Duration.milliseconds(1200)

    /// What a call is to be. Four in forty fail.
    package enum Kind: Sendable {
        case answer, trap, kill, deadline, cancellation
    }

    /// Calls of one Task, one after the other.
    package struct Lane: Sendable {
        package let numbers: Range<Int>
        fileprivate let storm: Storm

        package func kind(of number: Int) -> Kind {
            switch number % 40 {
            case 5: .trap
            case 15: .kill
            case 25: .deadline
            case 35: .cancellation
            default: .answer
            }
        }

        /// Makes a call, which may be lost with its zygote.
        package func attempt(_ number: Int, _ body: (Kind) async throws -> Void) async throws {
            let begun = seconds()
            do { try await body(kind(of: number)) } catch let error as ForkingError where error.code == .zygoteLost {
                storm.lost.add(1, ordering: .relaxed)
            }
            let duration = seconds() - begun
            storm.slowest.withLock { $0 = max($0, duration) }
            try expect(duration < 60, "call \(number) took \(duration) s")
        }
    }

    private let zygote: Zygote
    /// Makes one call, for which a zygote is needed.
    private let probe: @Sendable () async throws -> Void
    private let body: @Sendable (Lane) async throws -> Void
    private let lost = Atomic(0)
    private let slowest = Mutex(0.0)

    package init(
        _ zygote: Zygote, probe: @escaping @Sendable () async throws -> Void,
        _ body: @escaping @Sendable (Lane) async throws -> Void
    ) {
        (self.zygote, self.probe, self.body) = (zygote, probe, body)
    }

    package func run(calls: Int) async throws {
        let noise = Noise()
        noise.begin()
        defer { noise.end() }
        try await replaceZygote()  // the first one is not as its successors: it was not executed
        try await callFromLanes(calls / 8 + 400)  // until memory has its size
        let before = try await atRest()
        lost.store(0, ordering: .relaxed)
        let begun = seconds()
        let killed = try await callWhileZygotesDie(calls)
        let duration = seconds() - begun
        let after = try await atRest(like: before)
        let lost = lost.load(ordering: .relaxed)
        print(
            "\(calls) calls, \(Int(Double(calls) / duration)) a second, slowest \(slowest.withLock { $0 }) s;",
            "\(killed) zygotes killed, \(lost) calls lost; before \(before), after \(after)")
        try expect(lost <= Self.lanes * killed, "more calls were lost than were in flight")
        try expect(after.host.residentKiB < before.host.residentKiB + 8192, "memory of the host")
        try expect(after.zygote.residentKiB < before.zygote.residentKiB + 2048, "memory of the zygote")
    }

    private func callFromLanes(_ calls: Int) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for lane in 0..<Self.lanes {
                let count = calls / Self.lanes
                let numbers = lane * count..<(lane + 1) * count
                group.addTask { try await self.body(Lane(numbers: numbers, storm: self)) }
            }
            try await group.waitForAll()
        }
    }

    /// Returns how many.
    private func callWhileZygotesDie(_ calls: Int) async throws -> Int {
        let killer = Task {
            var killed = 0
            while true {
                do { try await Task.sleep(for: Self.life) } catch { return killed }
                try await replaceZygote()
                killed += 1
            }
        }
        defer { killer.cancel() }
        try await callFromLanes(calls)
        killer.cancel()
        return try await killer.value
    }

    private func replaceZygote() async throws {
        guard let pid = zygote.pid else { throw Failed("no zygote") }
        kill(pid, SIGKILL)
        let begun = seconds()
        while true {
            // Twice, because a call is what notices a zygote's end.
            if await isAnswered(), zygote.pid != pid, await isAnswered() { return }
            try expect(seconds() - begun < 60, "no zygote any more")
            await Task.yield()
        }
    }

    private func isAnswered() async -> Bool { (try? await probe()) != nil }

    private struct Held: CustomStringConvertible {
        let host: Holdings
        let zygote: Holdings
        let warm: Int

        var descriptors: (host: Int, zygote: Int) { (host.descriptors - warm, zygote.descriptors - zygote.children) }
        var description: String { "host \(host), zygote \(zygote), \(warm) warm" }
    }

    /// What host and zygote hold when only warm children are left, for each of which both have a descriptor.
    private func atRest(like before: Held? = nil) async throws -> Held {
        let begun = seconds()
        while true {
            if let pid = zygote.pid {
                let warm = zygote.status.warm
                let held = Held(host: Holdings(getpid()), zygote: Holdings(pid), warm: warm)
                let (host, zygote) = held.descriptors
                let isLike =
                    before.map {
                        host <= $0.descriptors.host + Self.clocks && zygote <= $0.descriptors.zygote
                    } ?? true
                if held.zygote.children == warm, self.zygote.status.warm == warm, isLike { return held }
                try expect(
                    seconds() - begun < 60, "there are \(held), and were \(before?.description ?? "fewer") before")
            }
            try await Task.sleep(for: .milliseconds(5))
        }
    }
}

extension Storm {
    /// That a call fails because its process was ended by a signal.
    package static func expectEnd<Result>(_ signal: Signal, _ body: () async throws -> Result) async throws {
        try await expectFailure(.ended(.signaled(signal, dumpedCore: false)), body)
    }

    /// That a call fails, and by what. What is lost with its zygote is thrown.
    package static func expectFailure<Result>(
        _ wanted: ForkingError, _ body: () async throws -> Result
    ) async throws {
        let got: any Error
        do {
            _ = try await body()
            throw Failed("a call did not fail, where \(wanted) was to come")
        } catch {
            got = error
        }
        guard let got = got as? ForkingError, got.code != .zygoteLost else { throw got }
        try expect(got == wanted, "\(got), not \(wanted)")
    }
}
