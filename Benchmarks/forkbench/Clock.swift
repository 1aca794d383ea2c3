// SPDX-License-Identifier: Apache-2.0

import Glibc

/// CLOCK_MONOTONIC.
func nanoseconds() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}

func microseconds(from start: Int64, to end: Int64) -> Double { Double(end - start) / 1000 }

func seconds(since start: Int64) -> Double { Double(nanoseconds() - start) / 1_000_000_000 }
