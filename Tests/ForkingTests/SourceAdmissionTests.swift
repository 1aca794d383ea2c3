// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

/// A server's view of its clients: time, children, and the answers that it gets.
private final class Desk {
    var admission: SourceAdmission
    var now = Instant(nanoseconds: 1_000_000_000_000)
    var random = FixedGenerator(state: 7)
    var children = 0
    let maxChildren: Int

    init(maxChildren: Int = 100, _ change: (inout AdmissionPolicy) throws -> Void) throws {
        var policy = AdmissionPolicy()
        try change(&policy)
        try policy.check(maxChildren: maxChildren)
        admission = try SourceAdmission(policy)
        self.maxChildren = maxChildren
    }

    var wait: Instant? { admission.wait(at: now) }
    var reportDue: Instant? { admission.reportDue }
    func report() -> AdmissionPolicy.Refusals? { admission.takeReport(at: now) }
    func replaceRules(by rules: AddressRules) throws { try admission.replaceRules(by: rules) }
    func release(_ account: SourceAdmission.Account) { admission.release(account, at: now) }

    func pass(_ seconds: Double) { now = now + .seconds(seconds) }

    /// Returns the source of a client that is served.
    func come(_ text: String) throws -> SourceAdmission.Decision {
        let address = try SocketAddress(parsing: text.contains(":") ? "[\(text)]:1" : "\(text):1")
        return come(.address(AddressKey(address)!))
    }

    func come(_ origin: SourceAdmission.Origin) -> SourceAdmission.Decision {
        let decision = admission.decide(
            origin, children: children, free: maxChildren - children, at: now, using: &random)
        if case .admit = decision { children += 1 }
        return decision
    }

    /// Returns why it is refused; nil if it is served.
    func refusal(_ text: String) throws -> AdmissionPolicy.Reason? {
        guard case .refuse(let reason) = try come(text) else { return nil }
        return reason
    }

    func end(
        _ decision: SourceAdmission.Decision, _ status: Forking.ExitStatus = .exited(code: 0),
        reason: ChildExit.Reason = .own
    ) {
        guard case .admit(let account) = decision else { return }
        children -= 1
        let exit = ChildExit(
            pid: 1, peer: nil, status: status, reason: reason, duration: .zero, isLeftover: false, usage: nil,
            execError: nil)
        admission.noteEnd(of: exit, account, at: now)
    }

    /// A client comes, and its child crashes.
    func crash(_ text: String) throws -> AdmissionPolicy.Reason? {
        let decision = try come(text)
        end(decision, .signaled(.illegalInstruction, dumpedCore: false))
        guard case .refuse(let reason) = decision else { return nil }
        return reason
    }
}

@Suite("Admission by source")
struct SourceAdmissionTests {
    // systemd's MaxConnectionsPerSource, s6-tcpserver4's -C, xinetd's per_source.
    @Test("a source has at most so many children, and another as soon as one has ended")
    func perSource() throws {
        let desk = try Desk { $0.maxPerSource = 2 }
        let first = try desk.come("192.0.2.1")
        #expect(try desk.refusal("192.0.2.1") == nil)
        #expect(try desk.refusal("192.0.2.1") == .perSource)
        #expect(try desk.refusal("192.0.2.2") == nil)
        desk.end(first)
        #expect(try desk.refusal("192.0.2.1") == nil)
        #expect(try desk.refusal("192.0.2.1") == .perSource)
    }

    @Test("an IPv6 network is one source, and so is an IPv4 network if asked for; a mapped address is an IPv4 address")
    func prefixes() throws {
        let desk = try Desk { $0.maxPerSource = 1 }
        #expect(try desk.refusal("2001:db8::1") == nil)
        #expect(try desk.refusal("2001:db8::ffff:2") == .perSource)
        #expect(try desk.refusal("2001:db8:0:1::1") == nil)
        #expect(try desk.refusal("192.0.2.1") == nil)
        #expect(try desk.refusal("::ffff:192.0.2.1") == .perSource)
        let wide = try Desk {
            $0.maxPerSource = 1
            ($0.ipv4Prefix, $0.ipv6Prefix) = (24, 48)
        }
        #expect(try wide.refusal("192.0.2.1") == nil)
        #expect(try wide.refusal("192.0.2.200") == .perSource)
        #expect(try wide.refusal("192.0.3.1") == nil)
        #expect(try wide.refusal("2001:db8:0:7::1") == nil)
        #expect(try wide.refusal("2001:db8:0:8::1") == .perSource)
    }

    @Test("users are sources of their own; who is unknown has no account")
    func users() throws {
        let desk = try Desk { $0.maxPerSource = 1 }
        #expect(desk.come(.user(0)) == .admit(.init(source: 0)))
        #expect(desk.come(.user(0)) == .refuse(.perSource))
        #expect(desk.come(.user(1)) == .admit(.init(source: 1)))
        #expect(desk.come(.unknown) == .admit(.init()))
        #expect(desk.come(.unknown) == .admit(.init()))
    }

    @Test("a source's rate: a burst, then a client each step, and the burst again after a pause")
    func rate() throws {
        let desk = try Desk { $0.rate = AdmissionPolicy.Rate(perSecond: 2, burst: 3) }
        for _ in 0..<3 { #expect(try desk.refusal("192.0.2.1") == nil) }
        #expect(try desk.refusal("192.0.2.1") == .rate)
        #expect(try desk.refusal("192.0.2.2") == nil)
        desk.pass(0.499)
        #expect(try desk.refusal("192.0.2.1") == .rate)
        desk.pass(0.001)
        #expect(try desk.refusal("192.0.2.1") == nil)
        #expect(try desk.refusal("192.0.2.1") == .rate)
        desk.pass(60)
        for _ in 0..<3 { #expect(try desk.refusal("192.0.2.1") == nil) }
        #expect(try desk.refusal("192.0.2.1") == .rate)
        // What was refused has taken nothing.
        for _ in 0..<100 { #expect(try desk.refusal("192.0.2.1") == .rate) }
        desk.pass(0.5)
        #expect(try desk.refusal("192.0.2.1") == nil)
    }

    @Test("the rate of all makes clients wait")
    func totalRate() throws {
        let desk = try Desk { $0.totalRate = AdmissionPolicy.Rate(perSecond: 10, burst: 2) }
        #expect(desk.wait == nil)
        #expect(try desk.refusal("192.0.2.1") == nil)
        #expect(try desk.refusal("192.0.2.2") == nil)
        let next = desk.wait
        #expect(next == desk.now + .milliseconds(100))
        desk.pass(0.1)
        #expect(desk.wait == nil)
    }

    // The behaviours that OpenSSH's regress/penalty.sh states.
    @Test("penalties: one below the least is admitted, with the second it is refused, and then they expire")
    func penalties() throws {
        let desk = try Desk {
            $0.penalties.crash = .seconds(9)
            $0.penalties.least = .seconds(10)
        }
        #expect(try desk.crash("192.0.2.1") == nil)
        #expect(try desk.crash("192.0.2.1") == nil)
        #expect(try desk.crash("192.0.2.1") == .penalized)
        #expect(try desk.refusal("192.0.2.2") == nil)
        desk.pass(17.9)
        #expect(try desk.refusal("192.0.2.1") == .penalized)  // also when less than the least is left
        desk.pass(0.2)
        #expect(try desk.refusal("192.0.2.1") == nil)
        #expect(try desk.crash("192.0.2.1") == nil)  // begins anew
        #expect(try desk.refusal("192.0.2.1") == nil)
    }

    @Test("penalties add up to the most, whatever the order of their causes; what is no cause costs nothing")
    func penaltySums() throws {
        let desk = try Desk {
            $0.penalties.crash = .seconds(40)
            $0.penalties.timeout = .seconds(30)
            $0.penalties.statuses = [7: .seconds(20)]
            ($0.penalties.least, $0.penalties.most) = (.seconds(15), .seconds(60))
        }
        let all = try (0..<6).map { _ in try desk.come("192.0.2.1") }
        desk.end(all[0], .signaled(.brokenPipe, dumpedCore: false))
        desk.end(all[1], .signaled(.kill, dumpedCore: false), reason: .stopped)
        desk.end(all[2], .exited(code: 1))
        #expect(try desk.refusal("192.0.2.1") == nil)
        desk.end(all[3], .signaled(.terminate, dumpedCore: false), reason: .timeout)
        desk.end(all[4], .exited(code: 7))
        desk.end(all[5], .signaled(.segmentationFault, dumpedCore: true))
        #expect(try desk.refusal("192.0.2.1") == .penalized)
        desk.pass(59.9)
        #expect(try desk.refusal("192.0.2.1") == .penalized)
        desk.pass(0.2)
        #expect(try desk.refusal("192.0.2.1") == nil)
    }

    // OpenSSH's MaxStartups.
    @Test("early drop: none before the begin, then the percentage, rising in a line, and all from full on")
    func earlyDrop() throws {
        let drop = AdmissionPolicy.EarlyDrop(begin: 10, percent: 30, full: 100)
        #expect([0, 9, 10, 55, 99, 100, 1000].map(drop.percent) == [0, 0, 30, 65, 99, 100, 100])
        #expect(AdmissionPolicy.EarlyDrop(begin: 0, percent: 0, full: 1).percent(at: 0) == 0)
        let desk = try Desk(maxChildren: 1000) { $0.earlyDrop = drop }
        func dropped(with children: Int) throws -> Int {
            var count = 0
            for _ in 0..<10_000 {
                desk.children = children
                if try desk.refusal("192.0.2.1") == .earlyDrop { count += 1 }
            }
            return count
        }
        #expect(try dropped(with: 9) == 0)
        #expect(try (2_800...3_200).contains(dropped(with: 10)))
        #expect(try (6_300...6_700).contains(dropped(with: 55)))
        #expect(try dropped(with: 100) == 10_000)
    }

    // PostgreSQL's reserved_connections and superuser_reserved_connections.
    @Test("what is left is kept for those who have reservations, and early drop is not for them")
    func reservations() throws {
        let inside = try AddressRange(parsing: "10.0.0.0/8")
        let desk = try Desk(maxChildren: 5) {
            $0.reservations = [
                AdmissionPolicy.Reservation(2, for: .addresses(inside)), AdmissionPolicy.Reservation(1, for: .user(0)),
            ]
            $0.earlyDrop = AdmissionPolicy.EarlyDrop(begin: 2, percent: 100, full: 3)
        }
        #expect(try desk.refusal("192.0.2.1") == nil)
        #expect(try desk.refusal("192.0.2.1") == nil)
        #expect(try desk.refusal("192.0.2.1") == .earlyDrop)
        #expect(desk.come(.user(7)) == .refuse(.earlyDrop))
        #expect(try desk.refusal("10.1.2.3") == nil)
        #expect(try desk.refusal("10.1.2.3") == nil)
        #expect(try desk.refusal("10.1.2.3") == .reserved)  // the last is root's
        let root = desk.come(.user(0))
        #expect(root == .admit(.init(reservation: 1)))
        desk.end(root)
        #expect(try desk.refusal("10.1.2.3") == .reserved)
        #expect(desk.come(.user(0)) == root)
    }

    @Test("what a client takes up is one number")
    func accounts() {
        for source in [-1, 0, 1, 15_999_999] {
            for reservation in [-1, 0, 99] {
                let account = SourceAdmission.Account(source: source, reservation: reservation)
                #expect(SourceAdmission.Account(number: account.number) == account)
                #expect((account.number < 0) == (source < 0 && reservation < 0))
            }
        }
    }

    @Test("the rules come first, and can be replaced")
    func rules() throws {
        let desk = try Desk { $0.rules = AddressRules(deny: [try AddressRange(parsing: "192.0.2.0/24")]) }
        #expect(try desk.refusal("192.0.2.1") == .denied)
        #expect(try desk.refusal("192.0.3.1") == nil)
        #expect(desk.come(.user(0)) == .admit(.init()))
        try desk.replaceRules(by: AddressRules(allow: [try AddressRange(parsing: "192.0.2.0/24")]))
        #expect(try desk.refusal("192.0.2.1") == nil)
        #expect(try desk.refusal("192.0.3.1") == .denied)
    }

    @Test("refusals are reported once a second, by reason, with the worst source")
    func reports() throws {
        let desk = try Desk {
            $0.maxPerSource = 1
            $0.rules = AddressRules(deny: [try AddressRange(parsing: "198.51.100.0/24")])
        }
        #expect(desk.reportDue == nil && desk.report() == nil)
        _ = try desk.refusal("192.0.2.1")
        for _ in 0..<3 { _ = try desk.refusal("192.0.2.1") }
        _ = try desk.refusal("192.0.2.2")
        _ = try desk.refusal("192.0.2.2")
        _ = try desk.refusal("198.51.100.7")
        #expect(desk.report() == nil)
        desk.pass(1)
        #expect(desk.reportDue == desk.now)
        let report = try #require(desk.report())
        #expect(report.counts == [.perSource: 4, .denied: 1])
        #expect(
            report.description
                == "refused 5 clients: 4 (its source has enough children), 1 (its address is denied); 3 from 192.0.2.1")
        #expect(desk.reportDue == nil && desk.report() == nil)
        _ = try desk.refusal("192.0.2.2")
        desk.pass(1)
        let next = try #require(desk.report())
        #expect(
            next.description == "refused 1 client: 1 (its source has enough children); 1 from 192.0.2.2")
    }

    @Test("a client that got no child after all is given back")
    func released() throws {
        let desk = try Desk { $0.maxPerSource = 1 }
        guard case .admit(let account) = try desk.come("192.0.2.1") else { throw Missing() }
        desk.release(account)
        #expect(try desk.refusal("192.0.2.1") == nil)
    }

    private struct Missing: Error {}

    @Test("a wrong policy is refused in words")
    func wrong() {
        let cases: [(String, (inout AdmissionPolicy) -> Void)] = [
            ("maxPerSource is 0, and must be at least 1, or nil for none", { $0.maxPerSource = 0 }),
            ("ipv4Prefix is 33, and must be from 0 to 32", { $0.ipv4Prefix = 33 }),
            ("rate is 0.0 a second, and must be from 0.000001 to 1000000000", { $0.rate = .init(perSecond: 0) }),
            (
                "rate is nan a second, and must be from 0.000001 to 1000000000",
                { $0.rate = AdmissionPolicy.Rate(perSecond: .nan) }
            ),
            ("the burst of totalRate is 0, and must be at least 1", { $0.totalRate = .init(perSecond: 1, burst: 0) }),
            (
                "earlyDrop is 5:30:5, and must be BEGIN:PERCENT:FULL with BEGIN below FULL, and PERCENT from 0 to 100, "
                    + "such as 10:30:100", { $0.earlyDrop = .init(begin: 5, percent: 30, full: 5) }
            ),
            (
                "reservations is 3 children in all, and must be fewer than maxChildren, which is 3",
                { $0.reservations = [.init(3, for: .user(0))] }
            ),
            ("maxSources is 3, and must be more than maxChildren, 3, and at most 16000000", { $0.maxSources = 3 }),
        ]
        for (text, change) in cases {
            var configuration = ForkingServer.Configuration()
            configuration.maxChildren = 3
            var policy = AdmissionPolicy()
            change(&policy)
            configuration.admission = policy
            let error = #expect(throws: ForkingError.self) { _ = try configuration.checked() }
            #expect(error?.description == text)
        }
    }
}
