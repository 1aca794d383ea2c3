// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// A table in a list, which it leaves in its deinit, when it can no longer be looked at.
struct TableReference: @unchecked Sendable {
    private let table: Unmanaged<ChildTable>

    init(_ table: ChildTable) { self.table = Unmanaged.passUnretained(table) }

    func stands(for other: ChildTable) -> Bool { table.toOpaque() == Unmanaged.passUnretained(other).toOpaque() }

    /// Without a reference being counted, in memory that each child would then keep a copy of.
    func with<Result>(_ body: (ChildTable) -> Result) -> Result { table._withUnsafeGuaranteedRef(body) }

    /// For calls in which it could go away.
    var retained: ChildTable { table.takeUnretainedValue() }

    // MARK: All tables of this process

    /// They can be made on any thread, one that reaps by pidfd.
    private static let all = Mutex<[TableReference]>([])

    static func enlist(_ table: ChildTable) { all.withLock { $0.append(TableReference(table)) } }

    static func delist(_ table: ChildTable) { all.withLock { $0.removeAll { $0.stands(for: table) } } }

    /// The table that has `pid` as its child. A child has copies of its parent's, which do not count.
    static func having(_ pid: ProcessID) -> TableReference? {
        all.withLock { $0.first { $0.with { $0.source.isOurs && $0.slots.slot(of: pid) != nil } } }
    }
}
