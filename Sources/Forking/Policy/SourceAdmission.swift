// SPDX-License-Identifier: Apache-2.0

/// Judges clients by where they come from, as an `AdmissionPolicy` says. Policy: it reads what it is given, and writes to
/// its own memory alone, which is not copied to children.
struct SourceAdmission: ~Copyable {
    typealias Reason = AdmissionPolicy.Reason

    enum Decision: Equatable {
        case admit(Account)
        case refuse(Reason)
    }

    /// What an admitted client takes up, until `noteEnd` or `release`. It is small, because each child's record has one.
    struct Account: BitwiseCopyable, Equatable {
        /// The index of its source; -1 if that is not counted.
        var source = -1
        /// The reservation that it counts for, or -1.
        var reservation = -1

        /// As one number; -1 if it takes up nothing.
        var number: Int32 {
            source < 0 && reservation < 0 ? -1 : Int32((reservation + 1) << 24 | (source + 1))
        }

        init(source: Int = -1, reservation: Int = -1) { (self.source, self.reservation) = (source, reservation) }

        init(number: Int32) {
            guard number >= 0 else { return }
            (source, reservation) = (Int(number & 0xff_ffff) - 1, Int(number >> 24) - 1)
        }
    }

    /// Where a client comes from.
    enum Origin: BitwiseCopyable, Equatable {
        case address(AddressKey)
        /// The user at the other end of a Unix socket.
        case user(UInt32)
        /// The kernel does not say.
        case unknown
    }

    private struct State: BitwiseCopyable {
        /// When the bucket of all clients is full again.
        var allFull = Instant(nanoseconds: 0)
        /// When to report refusals; nil if there were none.
        var reportDue: Instant?
        /// Since the last report: the source with the most, and how many.
        var worst: Origin?
        var worstCount: UInt32 = 0
        /// The number of the next report.
        var report: UInt32 = 1
    }

    /// A reservation, and how many of its holders have children.
    private struct Kept: BitwiseCopyable {
        let reservation: AdmissionPolicy.Reservation
        var used = 0

        var left: Int { max(0, reservation.children - used) }
    }

    private let policy: AdmissionPolicy
    private let bucket: TokenBucket?
    private let allBucket: TokenBucket?
    /// Whether sources have accounts.
    private let keepsAccounts: Bool
    private let table: SourceTable
    private let state: ParentCell<State>
    /// Refusals since the last report, by reason.
    private let refused: ParentArray<UInt64>
    private let reservations: ParentArray<Kept>
    private let reservationCount: Int
    private var rules: ParentArray<AddressRules.Entry>
    private var rulesCount: Int
    private var allowsOthers: Bool

    init(_ policy: AdmissionPolicy) throws(ForkingError) {
        let keepsAccounts = policy.maxPerSource != nil || policy.rate != nil || !policy.penalties.areNone
        let table = try SourceTable(capacity: keepsAccounts ? policy.maxSources : 1)
        let state = try ParentCell(State())
        let refused = try ParentArray<UInt64>(count: Reason.allCases.count)
        let reservations = try Self.copy(policy.reservations.map { Kept(reservation: $0) })
        let rules = try Self.copy(policy.rules.entries)
        self.policy = policy
        bucket = policy.rate.map { TokenBucket($0) }
        allBucket = policy.totalRate.map { TokenBucket($0) }
        self.keepsAccounts = keepsAccounts
        self.table = table
        self.state = state
        self.refused = refused
        self.reservations = reservations
        reservationCount = policy.reservations.count
        self.rules = rules
        (rulesCount, allowsOthers) = (policy.rules.entries.count, policy.rules.allowsOthers)
    }

    private static func copy<Element: BitwiseCopyable>(
        _ elements: [Element]
    ) throws(ForkingError) -> ParentArray<Element> {
        let copy = try ParentArray<Element>(count: max(1, elements.count))
        for (index, element) in elements.enumerated() { copy.pointer(to: index).initialize(to: element) }
        return copy
    }

    /// Other rules from now on.
    mutating func replaceRules(by new: AddressRules) throws(ForkingError) {
        rules = try Self.copy(new.entries)
        (rulesCount, allowsOthers) = (new.entries.count, new.allowsOthers)
    }

    // MARK: Clients

    /// When the next client may be taken, whoever it is. Nil: now.
    func wait(at now: Instant) -> Instant? {
        guard let next = allBucket?.next(full: state.value.allFull), next > now else { return nil }
        return next
    }

    /// - Parameters:
    ///   - free: the number of children that there may still be, at least 1.
    ///   - children: the number of children that there are.
    func decide(
        _ origin: Origin, children: Int, free: Int, at now: Instant, using random: inout some RandomNumberGenerator
    ) -> Decision {
        guard allows(origin) else { return refuse(.denied, origin, nil, now) }
        let index = keepsAccounts ? account(of: origin, now) : nil
        if let index, table[index].isPenalized(at: now) { return refuse(.penalized, origin, index, now) }
        let (reservation, keptForOthers) = reserved(for: origin)
        if reservation < 0, isDropped(children, &random) { return refuse(.earlyDrop, origin, index, now) }
        if free <= keptForOthers { return refuse(.reserved, origin, index, now) }
        if let index {
            if let most = policy.maxPerSource, table[index].children >= most {
                return refuse(.perSource, origin, index, now)
            }
            if let bucket {
                guard bucket.next(full: table[index].bucketFull) <= now else {
                    return refuse(.rate, origin, index, now)
                }
                bucket.take(&table[index].bucketFull, at: now)
            }
            table.noteChild(index)
        }
        allBucket?.take(&state.value.allFull, at: now)
        if reservation >= 0 { reservations[reservation].used += 1 }
        return .admit(Account(source: index ?? -1, reservation: reservation))
    }

    private func allows(_ origin: Origin) -> Bool {
        guard rulesCount > 0, case .address(let address) = origin else { return true }
        let entries = UnsafeBufferPointer(start: rules.pointer(to: 0), count: rulesCount)
        return AddressRules.allows(address, entries, allowsOthers: allowsOthers)
    }

    /// The index of a client's source. Nil if the kernel does not say who it is, or if there is no room for another.
    private func account(of origin: Origin, _ now: Instant) -> Int? {
        let key: SourceRecord.Key
        switch origin {
        case .address(let address):
            key = SourceRecord.Key(address, prefix: address.family == 4 ? policy.ipv4Prefix : policy.ipv6Prefix)
        case .user(let user): key = SourceRecord.Key(user: user)
        case .unknown: return nil
        }
        return table.noteSeen(key, at: now)
    }

    /// The reservation that this client counts for, or -1; and how many children are kept for others. Of several of its
    /// own it counts for the first that has children left.
    private func reserved(for origin: Origin) -> (own: Int, keptForOthers: Int) {
        var (own, kept) = (-1, 0)
        for index in 0..<reservationCount {
            let isOwn =
                switch (reservations[index].reservation.holder, origin) {
                case (.addresses(let range), .address(let address)): range.contains(address)
                case (.user(let holder), .user(let user)): holder == user
                default: false
                }
            if !isOwn {
                kept += reservations[index].left
            } else if own < 0 || reservations[own].left == 0 && reservations[index].left > 0 {
                own = index
            }
        }
        return (own, kept)
    }

    private func isDropped(_ children: Int, _ random: inout some RandomNumberGenerator) -> Bool {
        guard let drop = policy.earlyDrop else { return false }
        let percent = drop.percent(at: children)
        return percent > 0 && Int.random(in: 0..<100, using: &random) < percent
    }

    private func refuse(_ reason: Reason, _ origin: Origin, _ index: Int?, _ now: Instant) -> Decision {
        refused[reason.rawValue] += 1
        if state.value.reportDue == nil { state.value.reportDue = now + Self.reportPause }
        if let index {
            if table[index].refusedIn != state.value.report {
                (table[index].refused, table[index].refusedIn) = (0, state.value.report)
            }
            table[index].refused &+= 1
            if table[index].refused > state.value.worstCount {
                (state.value.worst, state.value.worstCount) = (origin, table[index].refused)
            }
        }
        return .refuse(reason)
    }

    // MARK: Ends

    /// A child has ended.
    func noteEnd(of exit: ChildExit, _ account: Account, at now: Instant) {
        let penalty = policy.penalties.penalty(for: exit)
        giveBack(account, now) { if penalty > .zero { $0.penalize(penalty, policy.penalties, at: now) } }
    }

    /// A client that was admitted got no child after all.
    func release(_ account: Account, at now: Instant) { giveBack(account, now) { _ in } }

    private func giveBack(_ account: Account, _ now: Instant, _ change: (inout SourceRecord) -> Void) {
        if account.reservation >= 0 { reservations[account.reservation].used -= 1 }
        if account.source >= 0 { table.noteChildEnd(account.source, at: now, change) }
    }

    // MARK: Reports

    /// Refusals are reported together, after this time.
    static let reportPause = Duration.seconds(1)

    var reportDue: Instant? { state.value.reportDue }

    /// The refusals since the last report, if that is due by `now`.
    func takeReport(at now: Instant) -> AdmissionPolicy.Refusals? {
        guard let due = state.value.reportDue, due <= now else { return nil }
        var report = AdmissionPolicy.Refusals(worst: state.value.worst, ofWorst: Int(state.value.worstCount))
        for reason in Reason.allCases {
            if refused[reason.rawValue] > 0 { report.counts[reason] = Int(clamping: refused[reason.rawValue]) }
            refused[reason.rawValue] = 0
        }
        state.value.reportDue = nil
        (state.value.worst, state.value.worstCount) = (nil, 0)
        state.value.report &+= 1
        return report
    }

    /// The sources that are refused for their penalties, then those with the most children: at most `count` that have
    /// penalties or children. Bounded, because all of it would stay in the parent's heap.
    func worst(_ count: Int, at now: Instant) -> [ServerStatus.Source] {
        var worst: [Int] = []
        for index in 0..<table.count where table[index].children > 0 || table[index].penalizedUntil > now {
            guard let place = worst.firstIndex(where: { isWorse(index, than: $0, now) }) else {
                if worst.count < count { worst.append(index) }
                continue
            }
            worst.insert(index, at: place)
            if worst.count > count { worst.removeLast() }
        }
        return worst.map { index in
            let source = table[index]
            return ServerStatus.Source(
                name: source.key.name(ipv4Prefix: policy.ipv4Prefix, ipv6Prefix: policy.ipv6Prefix),
                children: Int(source.children), penalty: max(.zero, source.penalizedUntil - now),
                isRefused: source.isPenalized(at: now))
        }
    }

    private func isWorse(_ index: Int, than other: Int, _ now: Instant) -> Bool {
        let (a, b) = (table[index], table[other])
        if a.isPenalized(at: now) != b.isPenalized(at: now) { return a.isPenalized(at: now) }
        if a.isPenalized(at: now) { return a.penalizedUntil > b.penalizedUntil }
        return (a.children, a.penalizedUntil) > (b.children, b.penalizedUntil)
    }
}

extension AdmissionPolicy {
    /// The clients that were refused in about a second.
    public struct Refusals: Sendable, CustomStringConvertible {
        /// By reason.
        public internal(set) var counts: [Reason: Int] = [:]
        /// A client of the source with the most refusals, as text, if that source has an account.
        public let worst: String?
        /// The number of that source's refusals.
        public let ofWorst: Int

        init(worst: SourceAdmission.Origin?, ofWorst: Int) {
            self.worst =
                switch worst {
                case .address(let address)?: address.text
                case .user(let user)?: "user \(user)"
                case .unknown?, nil: nil
                }
            self.ofWorst = ofWorst
        }

        /// `refused 812 clients: 800 (its source comes too often), 12 (its source has penalties); 790 from 192.0.2.7`
        public var description: String {
            let sorted = counts.sorted { ($1.value, $0.key.rawValue) < ($0.value, $1.key.rawValue) }
            let sum = sorted.reduce(0) { $0 + $1.value }
            let reasons = sorted.map { "\($0.value) (\($0.key))" }.joined(separator: ", ")
            return "refused \(sum) client\(sum == 1 ? "" : "s"): \(reasons)"
                + (worst.map { "; \(ofWorst) from \($0)" } ?? "")
        }
    }
}
