// SPDX-License-Identifier: Apache-2.0

/// Decides when a host asks its zygote for warm children: children forked before the calls that they will serve.
///
/// Half of them are asked for at once, when half are left, and after a reply: then the forks compete with no call that
/// its caller waits for. A new zygote forks all of them without being asked.
struct WarmChildren {
    /// The number of warm children that there should be.
    let wanted: Int
    /// Those that the host can use now.
    private(set) var ready = 0
    /// Whether the zygote is forking some, of which the host will hear.
    private(set) var isAwaited = false

    init(wanted: Int) { self.wanted = wanted }

    /// A zygote was started.
    mutating func noteStarted() { (ready, isAwaited) = (0, wanted > 0) }

    /// The zygote was lost, and its children with it.
    mutating func noteLost() { (ready, isAwaited) = (0, false) }

    /// The zygote has forked some.
    ///
    /// - Parameter isLast: whether these are all that it could fork.
    mutating func noteForked(_ count: Int, isLast: Bool = true) {
        ready += count
        if isLast { isAwaited = false }
    }

    /// A call takes a warm child, which there must be.
    mutating func noteTaken() {
        precondition(ready > 0, "no child is warm")
        ready -= 1
    }

    /// A call has ended: how many children the zygote is now asked for, or 0.
    mutating func refill() -> Int {
        guard !isAwaited, ready <= wanted / 2, ready < wanted else { return 0 }
        isAwaited = true
        return wanted - ready
    }
}
