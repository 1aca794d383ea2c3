// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Upgrades by SIGUSR2, for all servers: a new program replaces this one, or this one replaces its predecessor.
extension ServerLoop {
    /// Starts the program anew, from where it was started and with the same arguments, on the same sockets.
    ///
    /// - Returns: nil if it was started, or else why not.
    func upgrade(with listeners: [SharedListener], limit: Duration) -> UpgradeEvent? {
        guard successor == nil else { return .failed("the program of an earlier SIGUSR2 is still starting") }
        guard life.canBeReplaced else {
            return .failed("this program is still taking over from an older one: send SIGUSR2 again once it serves")
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

    /// The descriptors to poll for an upgrade; -1: none.
    var upgradeDescriptors: (Int32, Int32) {
        if let successor { return successor.descriptors }
        return (life.standing == .unconfirmed ? Predecessor.readinessSocket ?? -1 : -1, -1)
    }

    /// Called in each turn: returns what has happened to the new program. Most turns have no upgrade, and nothing to
    /// check.
    func lookAfterUpgrade(_ ready: Ready) -> UpgradeEvent? {
        // The predecessor has told the manager, or has ended: this is the main process now.
        if !ready.isDisjoint(with: .upgrade), life.confirm() { reports?.becomeMain(.now) }
        guard let successor else { return nil }
        let event = successor.look(.now)
        switch event {
        case .failed: self.successor = nil
        case .started, .serves, .lost, nil: break
        }
        return event
    }

    /// Called when the new program serves: it gets the control socket, and the manager is told. The caller then drains
    /// this server.
    func handOver(endingReload: Bool, _ listeners: [SharedListener]) {
        guard let successor else { return }
        life.handOver()
        for shared in listeners { shared.listener.leaveFile() }
        leaveControl()
        reports?.handOver(to: successor.pid, endingReload: endingReload, .now)
        if reports == nil { successor.tellMain() }
    }

    /// Gives up an upgrade that is in progress when this server stops.
    func abandonSuccessor() {
        successor?.abandon()
        successor = nil
    }
}
