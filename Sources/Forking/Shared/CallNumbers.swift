// SPDX-License-Identifier: Apache-2.0
//
// Host, zygote and child: conversions between API types and the plain numbers of a message's head.

import Glibc

extension ExitStatus {
    init(_ end: CallMessage.End) {
        self =
            if end.isUnknown != 0 {
                .unknown
            } else if end.signal != 0 {
                .signaled(Signal(rawValue: end.signal), dumpedCore: end.dumpedCore != 0)
            } else {
                .exited(code: end.code)
            }
    }
}

extension CallMessage.End {
    init(_ status: ExitStatus) {
        switch status {
        case .exited(let code): self.code = code
        case .signaled(let signal, let dumpedCore):
            self.signal = signal.rawValue
            self.dumpedCore = dumpedCore ? 1 : 0
        case .unknown: isUnknown = 1
        }
    }
}

extension ResourceUsage {
    init(_ usage: CallMessage.Usage) {
        userTime = .microseconds(usage.userMicroseconds)
        systemTime = .microseconds(usage.systemMicroseconds)
        maxResidentKiB = usage.maxResidentKiB
        minorFaults = usage.minorFaults
        majorFaults = usage.majorFaults
    }
}

extension CallMessage.Usage {
    init(_ usage: ResourceUsage) {
        userMicroseconds = usage.userTime.inNanoseconds / 1000
        systemMicroseconds = usage.systemTime.inNanoseconds / 1000
        maxResidentKiB = usage.maxResidentKiB
        minorFaults = usage.minorFaults
        majorFaults = usage.majorFaults
    }

    /// The usage of this process. getrusage(2)
    static var own: Self {
        var usage = rusage()
        guard getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 else { return Self() }
        func microseconds(_ time: timeval) -> Int64 { Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_usec) }
        return Self(
            userMicroseconds: microseconds(usage.ru_utime), systemMicroseconds: microseconds(usage.ru_stime),
            maxResidentKiB: Int64(usage.ru_maxrss), minorFaults: Int64(usage.ru_minflt),
            majorFaults: Int64(usage.ru_majflt))
    }
}
