// SPDX-License-Identifier: Apache-2.0
//
// Parent: judges each client before the fork that it would cost, and ends the connections of those that it refuses.
// SourceAdmission decides.

import CForkCore

extension ForkingServer {
    /// Whether this client is to be served, as the configuration's policy and the user's hook say. Ends the connection
    /// of one that is refused.
    func isWelcome(_ connection: inout Connection) -> Bool {
        guard isAdmitted(&connection) else { return false }
        do {
            if try hooks.verifyConnection(self, connection) { return true }
            tell(.rejected(connection.peer))
        } catch {
            tell(.verifyFailed(connection.peer, error))
        }
        giveBack(connection.account)
        return false
    }

    private func isAdmitted(_ connection: inout Connection) -> Bool {
        guard let decision = decide(SourceAdmission.Origin(of: connection)) else { return true }
        switch decision {
        case .admit(let account):
            connection.account = account.number
            return true
        case .refuse(let reason):
            tell(.refused(connection.peer, reason))
            refuse(&connection, reason)
            return false
        }
    }

    /// The same for a datagram, whose sender is told nothing.
    func isAdmitted(_ datagram: borrowing Datagram) -> Bool {
        guard let decision = decide(AddressKey(datagram.peer).map { .address($0) } ?? .unknown) else { return true }
        switch decision {
        case .admit(let account):
            heldAccount = account.number
            return true
        case .refuse(let reason):
            tell(.refused(datagram.peer, reason))
            return false
        }
    }

    /// A client that was admitted gets no child.
    func giveBack(_ account: Int32) {
        if account >= 0 { sources?.release(SourceAdmission.Account(number: account), at: .now) }
    }

    /// Nil if there is no policy.
    private func decide(_ origin: @autoclosure () -> SourceAdmission.Origin) -> SourceAdmission.Decision? {
        guard sources != nil else { return nil }
        if rulesFile?.hasChanged(.now) == true { reloadRules() }
        var random = SystemRandomNumberGenerator()
        let count = children.count
        return sources?.decide(
            origin(), children: count, free: max(1, configuration.maxChildren - count), at: .now, using: &random)
    }

    /// Reads `AdmissionPolicy.rulesFile` again, if there is one. Parent.
    public func reloadRules() {
        guard rulesFile != nil, let policy = configuration.admission else { return }
        do throws(ForkingError) {
            guard let rules = try rulesFile?.read() else { return }
            try sources?.replaceRules(by: policy.rules.merging(rules))
            _ = forkcore_trim()  // what only the reading needed would be copied for each child
            tell(.rulesRead)
        } catch {
            tell(.rulesFailed(error))
        }
    }

    private func refuse(_ connection: inout Connection, _ reason: AdmissionPolicy.Reason) {
        switch configuration.admission.map({ $0.refusals[reason] ?? $0.refusal }) {
        case .reset?: forkcore_reset_on_close(connection.descriptor.rawValue)
        case .send(let bytes)?:
            forkcore_send_now(connection.descriptor.rawValue, bytes, bytes.count)
            connection.wasTold = true
        case .close?, nil: break
        }
    }

    // MARK: Timers

    /// Whether the next client must wait, whoever it is: clients have come too often.
    var mustWait: Bool { sources != nil && sources?.wait(at: .now) != nil }

    /// When to look at the clock for refusals, or for the next client.
    var nextOfSources: Instant? {
        guard sources != nil else { return nil }
        return earlier(earlier(sources?.reportDue, sources?.wait(at: .now)), refused.next)
    }

    /// Reports refusals, and closes the connections of clients that have received why they were refused.
    func fireSourceTimers(_ now: Instant) {
        guard sources != nil else { return }
        _ = refused.look()
        reportRefusals(now)
    }

    /// Reports the refusals whose time has come by `now`.
    func reportRefusals(_ now: Instant) {
        if let refusals = sources?.takeReport(at: now) { tell(.refusals(refusals)) }
    }
}

extension SourceAdmission.Origin {
    init(of connection: borrowing Connection) {
        if let address = AddressKey(connection.peer) {
            self = .address(address)
            return
        }
        var (pid, user, group): (ProcessID, UInt32, UInt32) = (0, 0, 0)
        let code = forkcore_peer_credentials(connection.descriptor.rawValue, &pid, &user, &group)
        self = code == 0 ? .user(user) : .unknown
    }
}
