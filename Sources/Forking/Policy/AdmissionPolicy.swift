// SPDX-License-Identifier: Apache-2.0

/// Which clients of a `ForkingServer` are served, and how much of it one source may have. The parent judges each client
/// after it has accepted it, before the fork that it would cost.
///
/// A *source* is what counts as one client: an IPv4 address, an IPv6 network (an address alone would not do, because
/// each host has many), or the user at the other end of a Unix socket. Whatever a source has to its account is forgotten
/// by itself: its children end, its rate fills up again, its penalties expire.
public struct AdmissionPolicy: Sendable {
    /// How many leading bits of an IPv4 address name its source.
    public var ipv4Prefix = 32
    /// How many leading bits of an IPv6 address name its source.
    public var ipv6Prefix = 64
    /// The maximum number of children that one source has at the same time. Nil: no limit.
    public var maxPerSource: Int?
    /// How often one source's clients are served. Nil: no limit.
    public var rate: Rate?
    /// How often clients are served, whoever they are. Further ones wait in the kernel's queue. Nil: no limit.
    public var totalRate: Rate?
    /// What sources are refused for after bad endings.
    public var penalties = Penalties()
    /// Refuses some clients at random before the server is full. Nil: none.
    public var earlyDrop: EarlyDrop?
    /// Children that are kept for certain clients.
    public var reservations: [Reservation] = []
    /// Which addresses are served at all.
    public var rules = AddressRules()
    /// A file of further rules: see `AddressRules.init(parsing:file:)`. The server reads it when it is made, again when
    /// it has changed and a client comes, and when `ForkingServer.reloadRules()` is called. If it is wrong then, the
    /// server reports an event, and keeps the rules that it has.
    public var rulesFile: String?
    /// The maximum number of sources that are remembered, more than `ForkingServer.Configuration.maxChildren`, at 64
    /// bytes each. Then the source that was last seen the longest ago is forgotten: one without a penalty if there is
    /// any, and never one that has children.
    public var maxSources = 65_536
    /// What a refused client sees, unless `refusals` has something else for the reason.
    public var refusal = Refusal.close
    /// What a client sees that is refused for a certain reason.
    public var refusals: [Reason: Refusal] = [:]

    /// Serves every client.
    public init() {}

    /// A token bucket.
    public struct Rate: Hashable, Sendable {
        /// The number of clients in a second, on average.
        public var perSecond: Double
        /// The number of clients that may come at once, after a pause.
        public var burst: Int

        /// Makes a rate. Without `burst`, as many clients may come at once as in a second, at least one.
        public init(perSecond: Double, burst: Int? = nil) {
            self.perSecond = perSecond
            self.burst = burst ?? (perSecond >= 1 && perSecond <= 1e9 ? Int(perSecond) : 1)
        }
    }

    /// How long a source is refused after a child of its has ended badly, as sshd's PerSourcePenalties. The penalties of
    /// one source add up. Datagrams earn none, because anybody can send one in another's name.
    public struct Penalties: Hashable, Sendable {
        /// For a child that a signal ended, other than a signal of this server's, or SIGPIPE.
        public var crash = Duration.zero
        /// For a child that exceeded its time limit.
        public var timeout = Duration.zero
        /// For a child that exited with one of these statuses: so its handler or program can judge its client.
        public var statuses: [Int32: Duration] = [:]
        /// A source is not refused before it has this much to its account.
        public var least = Duration.seconds(15)
        /// No source has more than this to its account.
        public var most = Duration.seconds(600)

        /// No penalties.
        public init() {}

        var areNone: Bool { crash <= .zero && timeout <= .zero && statuses.isEmpty }

        /// For a child's end.
        func penalty(for exit: ChildExit) -> Duration {
            guard !exit.isLeftover else { return .zero }
            switch (exit.reason, exit.status) {
            case (.timeout, _): return timeout
            case (.stopped, _), (_, .signaled(.brokenPipe, _)), (_, .unknown): return .zero
            case (.own, .signaled): return crash
            case (.own, .exited(let code)): return statuses.isEmpty ? .zero : statuses[code] ?? .zero
            }
        }
    }

    /// Random early drop, as sshd's MaxStartups: from `begin` children on, `percent` of the clients are refused, and
    /// more the more children there are; from `full` on, all.
    public struct EarlyDrop: Hashable, Sendable {
        /// The number of children from which on clients are refused.
        public var begin: Int
        /// How many of them at first.
        public var percent: Int
        /// The number of children from which on all are.
        public var full: Int

        /// Makes one, such as 10, 30, 100.
        public init(begin: Int, percent: Int, full: Int) {
            (self.begin, self.percent, self.full) = (begin, percent, full)
        }

        /// The probability of a refusal with so many children, in percent.
        func percent(at children: Int) -> Int {
            if children < begin { return 0 }
            if children >= full { return 100 }
            return percent + (100 - percent) * (children - begin) / (full - begin)
        }
    }

    /// Some of the children, kept for clients from a range of addresses or of a user. Others are refused when no more
    /// are left than are kept and not in use by those for whom they are. At most 100 reservations.
    public struct Reservation: Hashable, Sendable, BitwiseCopyable {
        /// For whom they are kept.
        public enum Holder: Hashable, Sendable, BitwiseCopyable {
            /// Clients with these addresses.
            case addresses(AddressRange)
            /// The user at the other end of a Unix socket.
            case user(UInt32)
        }

        /// How many.
        public var children: Int
        /// For whom.
        public var holder: Holder

        /// Keeps so many children.
        public init(_ children: Int, for holder: Holder) { (self.children, self.holder) = (children, holder) }
    }

    /// Why a client is refused.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Reason: Int, Hashable, Sendable, CaseIterable {
        /// The rules deny its address.
        case denied
        /// Its source has penalties.
        case penalized
        /// It was drawn by the random early drop.
        case earlyDrop
        /// The children that are left are kept for others.
        case reserved
        /// Its source has as many children as one source may have.
        case perSource
        /// Its source's clients come too often.
        case rate
    }

    /// What a refused client sees. Nobody waits for it.
    public enum Refusal: Hashable, Sendable {
        /// Its connection ends.
        case close
        /// Its connection is reset.
        case reset
        /// It receives these bytes, as far as the socket takes them at once, and then its connection ends.
        case send([UInt8])
    }
}

extension AdmissionPolicy.Reason: CustomStringConvertible {
    /// A name for labels, such as `per_source`.
    package var name: String {
        switch self {
        case .denied: "denied"
        case .penalized: "penalized"
        case .earlyDrop: "early_drop"
        case .reserved: "reserved"
        case .perSource: "per_source"
        case .rate: "rate"
        }
    }

    /// A phrase for people.
    public var description: String {
        switch self {
        case .denied: "its address is denied"
        case .penalized: "its source has penalties"
        case .earlyDrop: "drawn by the early drop"
        case .reserved: "what is left is reserved"
        case .perSource: "its source has enough children"
        case .rate: "its source comes too often"
        }
    }
}

extension AdmissionPolicy {
    func check(maxChildren: Int) throws(ForkingError) {
        try Self.check("ipv4Prefix", ipv4Prefix, in: 0...32)
        try Self.check("ipv6Prefix", ipv6Prefix, in: 0...128)
        try requireAtLeast1("maxPerSource", maxPerSource)
        try rate?.check("rate")
        try totalRate?.check("totalRate")
        for time in [penalties.crash, penalties.timeout, penalties.least, penalties.most] + penalties.statuses.values {
            try requireNotNegative("a penalty", time)
        }
        guard penalties.least <= penalties.most else {
            throw .invalid(
                "penalties.least is \(penalties.least), and cannot be more than penalties.most, \(penalties.most)")
        }
        try earlyDrop?.check()
        for reservation in reservations { try requireAtLeast1("a reservation's children", reservation.children) }
        guard reservations.count <= 100 else {
            throw .invalid("there are \(reservations.count) reservations, and there can be at most 100")
        }
        let kept = reservations.reduce(0) { $0 + min($1.children, maxChildren) }
        guard kept < maxChildren else {
            throw .invalid(
                "reservations is \(kept) children in all, and must be fewer than maxChildren, which is \(maxChildren)")
        }
        guard maxSources > maxChildren, maxSources <= Self.mostSources else {
            throw .invalid(
                "maxSources is \(maxSources), and must be more than maxChildren, \(maxChildren), and at most "
                    + "\(Self.mostSources)")
        }
    }

    /// What `SourceAdmission.Account` has room for.
    private static let mostSources = 16_000_000

    private static func check(_ name: String, _ value: Int, in range: ClosedRange<Int>) throws(ForkingError) {
        guard range.contains(value) else {
            throw .invalid("\(name) is \(value), and must be from \(range.lowerBound) to \(range.upperBound)")
        }
    }
}

extension AdmissionPolicy.Rate {
    fileprivate func check(_ name: StaticString) throws(ForkingError) {
        guard perSecond >= 1e-6, perSecond <= 1e9 else {
            throw .invalid("\(name) is \(perSecond) a second, and must be from 0.000001 to 1000000000")
        }
        guard burst >= 1 else { throw .invalid("the burst of \(name) is \(burst), and must be at least 1") }
    }
}

extension AdmissionPolicy.EarlyDrop {
    fileprivate func check() throws(ForkingError) {
        guard begin >= 0, full > begin, (0...100).contains(percent) else {
            throw .invalid(
                "earlyDrop is \(begin):\(percent):\(full), and must be BEGIN:PERCENT:FULL with BEGIN below FULL, and "
                    + "PERCENT from 0 to 100, such as 10:30:100")
        }
    }
}
