// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// A reference to a table that does not retain it, for lists. The table leaves them in its deinit.
struct TableReference: @unchecked Sendable {
    private let table: Unmanaged<ChildTable>

    init(_ table: ChildTable) { self.table = Unmanaged.passUnretained(table) }

    func stands(for other: ChildTable) -> Bool { table.toOpaque() == Unmanaged.passUnretained(other).toOpaque() }

    /// Does not retain the table: the count is in memory that is shared with the children.
    func with<Result>(_ body: (ChildTable) -> Result) -> Result { table._withUnsafeGuaranteedRef(body) }

    /// For calls during which the table could be released.
    var retained: ChildTable { table.takeUnretainedValue() }

    // MARK: All tables of this process

    /// Locked, because a table that reaps by pidfd can be made on any thread.
    private static let all = Mutex<[TableReference]>([])

    static func enlist(_ table: ChildTable) { all.withLock { $0.append(TableReference(table)) } }

    static func delist(_ table: ChildTable) { all.withLock { $0.removeAll { $0.stands(for: table) } } }

    /// The table that has `pid` as its child. In a child, the copies of its parent's tables do not count.
    static func having(_ pid: ProcessID) -> TableReference? {
        all.withLock { $0.first { $0.with { $0.source.isOurs && $0.slots.slot(of: pid) != nil } } }
    }
}
