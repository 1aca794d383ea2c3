// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

/// Always as much as can be, or as little. Not 0: the standard library throws that away, and asks again.
private struct Constant: RandomNumberGenerator {
    let value: UInt64
    func next() -> UInt64 { value }
}

@Suite("Back-off")
struct BackoffTests {
    private let start = Instant(nanoseconds: 1_000)

    /// The waits after `count` failures in a row, each as its wait is over.
    private func waits(_ count: Int, _ generator: some RandomNumberGenerator) -> [Duration] {
        var (backoff, now, generator) = (Backoff(), start, generator)
        return (0..<count).map { _ in
            backoff.noteFailure(at: now, using: &generator)
            let wait = backoff.until! - now
            now = backoff.until!
            return wait
        }
    }

    @Test("a wait doubles up to half a minute")
    func doubling() {
        let milliseconds = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]
        let least = waits(12, Constant(value: 1 << 32)), most = waits(12, Constant(value: .max))
        #expect(least == milliseconds.map { .milliseconds($0 * 8 / 10) })
        #expect(most == milliseconds.map { .milliseconds($0 * 12 / 10) })
        #expect(waits(1000, Constant(value: 1 << 32)).last == .seconds(24))
    }

    @Test("waits differ, within a fifth")
    func jitter() {
        let long = waits(500, FixedGenerator(state: 1)).dropFirst(9)
        #expect(long.allSatisfy { (.seconds(24) ... .seconds(36)).contains($0) })
        #expect(Set(long).count > 30 && long.contains { $0 < .seconds(25) } && long.contains { $0 > .seconds(35) })
    }

    @Test("nothing is waited for at first, after a success, and when the wait is over")
    func ends() {
        var generator = FixedGenerator(state: 1)
        var backoff = Backoff()
        #expect(backoff.until == nil && backoff.failures == 0)
        backoff.noteFailure(at: start, using: &generator)
        let until = backoff.until!
        backoff.fireTimers(Instant(nanoseconds: until.nanoseconds - 1))
        #expect(backoff.until == until)
        backoff.fireTimers(until)
        #expect(backoff.until == nil && backoff.failures == 1)

        backoff.noteFailure(at: until, using: &generator)
        #expect(backoff.until! - until >= .milliseconds(160) && backoff.failures == 2)
        backoff.noteSuccess()
        #expect(backoff.until == nil && backoff.failures == 0)
        backoff.noteFailure(at: until, using: &generator)
        #expect(backoff.until! - until <= .milliseconds(120) && backoff.failures == 1)
    }

    @Test("a batch that fails together counts each, and is waited for once")
    func batches() {
        var generator = FixedGenerator(state: 1)
        var backoff = Backoff()
        for _ in 0..<64 { backoff.noteFailure(at: start, using: &generator) }
        #expect(backoff.failures == 64 && backoff.until! - start <= .milliseconds(120))
        let next = backoff.until!
        for _ in 0..<64 { backoff.noteFailure(at: next, using: &generator) }
        #expect(backoff.failures == 128 && backoff.until! - next <= .milliseconds(240))
        #expect(backoff.until! - next >= .milliseconds(160))
    }
}
