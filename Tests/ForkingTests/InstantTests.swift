// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Time")
struct InstantTests {
    @Test("durations saturate instead of overflowing")
    func nanoseconds() {
        #expect(Duration.seconds(1).inNanoseconds == 1_000_000_000)
        #expect(Duration.nanoseconds(-3).inNanoseconds == -3)
        #expect((Duration.seconds(-1) + .nanoseconds(1)).inNanoseconds == -999_999_999)
        #expect(Duration(secondsComponent: 0, attosecondsComponent: 999_999_999).inNanoseconds == 0)
        #expect(Duration.seconds(Int64.max).inNanoseconds == .max)
        #expect(Duration.seconds(Int64.min).inNanoseconds == .min)
        #expect(Duration.seconds(9_223_372_037).inNanoseconds == .max)
        #expect(Duration.seconds(-9_223_372_037).inNanoseconds == .min)
        #expect(Duration.nanoseconds(Int64.max).inNanoseconds == .max)
        #expect(Duration.nanoseconds(Int64.min).inNanoseconds == .min)
        // More seconds than 64 bits can count.
        #expect(Duration.seconds(1e19).inNanoseconds == .max && Duration.seconds(-1e19).inNanoseconds == .min)
        #expect(Duration.seconds(1e19).inMicroseconds > 0 && Duration.seconds(1e20).inSeconds.hasSuffix(" s"))
        #expect(Instant(nanoseconds: 1) + .seconds(1e19) == Instant(nanoseconds: .max))
    }

    @Test("points in time saturate instead of overflowing")
    func instants() {
        let early = Instant(nanoseconds: 1), late = Instant(nanoseconds: .max)
        #expect(early + .seconds(1) == Instant(nanoseconds: 1_000_000_001))
        #expect(late + .seconds(1) == late)
        #expect(early + .seconds(Int64.max) == late)
        #expect(early + .seconds(Int64.min) < early)
        #expect(Instant(nanoseconds: .min) + .seconds(-1) == Instant(nanoseconds: .min))
        #expect(late - early == .nanoseconds(Int64.max - 1))
        #expect((early + .seconds(Int64.min)) - Instant(nanoseconds: 5) == .nanoseconds(Int64.min))
        #expect(late - Instant(nanoseconds: -5) == .nanoseconds(Int64.max))
        #expect(Instant.now <= Instant.now)
    }

    @Test("the earlier of two, where none means never")
    func theEarlier() {
        let one = Instant(nanoseconds: 1), two = Instant(nanoseconds: 2)
        #expect(earlier(one, two) == one && earlier(two, one) == one)
        #expect(earlier(nil, two) == two && earlier(one, nil) == one && earlier(nil, nil) == nil)
    }

    @Test("seconds are printed with three decimals")
    func printed() {
        #expect(Duration.milliseconds(12).inSeconds == "0.012 s")
        #expect(Duration.milliseconds(61_500).inSeconds == "61.500 s")
        #expect(Duration.zero.inSeconds == "0.000 s")
    }
}
