// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// The end of a child, until it is reported to the observer.
struct EndedChild: BitwiseCopyable {
    let child: Child
    let ending: forkcore_ending
    let execError: Int32
    let at: Instant
}

/// The ends that were not reported yet, oldest first, in memory that is not copied to children.
///
/// Parent only: a child that touches it gets SIGSEGV. Like an array, it traps if there is no memory.
struct EndedChildren: ~Copyable {
    private struct Header {
        var first = 0
        var end = 0
    }

    private let header: ParentCell<Header>
    private var children: ParentArray<EndedChild>

    var isEmpty: Bool { header.value.first == header.value.end }

    mutating func append(_ child: EndedChild) {
        if header.value.end == children.count { grow() }
        children[header.value.end] = child
        header.value.end += 1
    }

    /// Removes and returns the oldest.
    func next() -> EndedChild? {
        guard !isEmpty else { return nil }
        let child = children[header.value.first]
        header.value.first += 1
        if isEmpty { (header.value.first, header.value.end) = (0, 0) }
        return child
    }

    private mutating func grow() {
        let count = 2 * children.count
        guard let larger = try? children.copy(count: count) else {
            preconditionFailure("no memory for \(count) ended children")
        }
        children = larger
    }
}

extension EndedChildren {
    init() throws(ForkingError) { try self.init(header: ParentCell(Header()), children: ParentArray(count: 16)) }
}

extension ChildExit {
    init(_ ended: EndedChild) {
        let (child, ending) = (ended.child, ended.ending)
        let status: ExitStatus =
            switch ending.state {
            case FORKCORE_EXITED: .exited(code: ending.code)
            case FORKCORE_KILLED: .signaled(Signal(rawValue: ending.signal), dumpedCore: ending.core)
            default: .unknown
            }
        self.init(
            pid: child.pid, peer: child.peer, status: status, reason: child.reason,
            duration: ended.at - child.startedAt, isLeftover: child.isLeftover,
            usage: status == .unknown ? nil : ResourceUsage(ending),
            execError: ended.execError == 0 ? nil : Errno(rawValue: ended.execError), channel: child.channel)
    }
}
