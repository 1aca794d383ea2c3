// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// SIGUSR2, for servers of each kind: another program takes this one's place, and this one another's.
extension ServerLoop {
    /// Starts the program anew, from where it was started and with the same arguments, on the same sockets.
    ///
    /// - Returns: why it was not; nil if it was.
    func upgrade(with listeners: [SharedListener], limit: Duration) -> UpgradeEvent? {
        guard successor == nil else { return .failed("the program of an earlier SIGUSR2 is still starting") }
        guard life.canBeReplaced else {
            return .failed("this program has not fully started itself: send it again once it serves")
        }
        let sockets = listeners.map { Handover.Socket(descriptor: $0.descriptor, origin: $0.listener.origin) }
        do throws(ForkingError) {
            successor = try Successor(
                executable, with: sockets, control: handedOver, variables: reports?.environment ?? [], limit: limit)
            return nil
        } catch {
            return .failed(error.description)
        }
    }

    /// What to poll for the sake of an upgrade.
    var upgradeDescriptors: (Int32, Int32) {
        if let successor { return successor.descriptors }
        return (life.standing == .unconfirmed ? Predecessor.readinessSocket ?? -1 : -1, -1)
    }

    /// What has happened to the other program. Once in each turn: there is an upgrade, or a reason to look, seldom.
    func lookAfterUpgrade(_ ready: Ready) -> UpgradeEvent? {
        // Said, or gone: there is no other main process but this one.
        if !ready.isDisjoint(with: .upgrade), life.confirm() { reports?.becomeMain(.now) }
        guard let successor else { return nil }
        let event = successor.look(.now)
        switch event {
        case .failed: self.successor = nil
        case .started, .serves, .lost, nil: break
        }
        return event
    }

    /// The new program serves: it answers who asks for the status, and the manager is told. This one is to drain.
    func handOver(endingReload: Bool, _ listeners: [SharedListener]) {
        guard let successor else { return }
        life.handOver()
        for shared in listeners { shared.listener.leaveFile() }
        leaveControl()
        reports?.handOver(to: successor.pid, endingReload: endingReload, .now)
        if reports == nil { successor.tellMain() }
    }

    /// This server stops, and has not been upgraded.
    func abandonSuccessor() {
        successor?.abandon()
        successor = nil
    }
}
