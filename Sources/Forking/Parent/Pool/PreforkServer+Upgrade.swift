// SPDX-License-Identifier: Apache-2.0

extension PreforkServer {
    /// SIGUSR2: starts the program anew on the same sockets; once all of its workers serve, this one drains.
    func upgrade() {
        if let event = loop.upgrade(with: listeners, limit: configuration.spawnLimit) { note(event) }
    }

    /// Something has become of it.
    func note(_ event: UpgradeEvent) {
        switch event {
        case .started(let pid): hooks.observe(.upgrading(pid))
        case .failed(let why): hooks.observe(.upgradeFailed(why))
        case .serves(let pid):
            loop.handOver(endingReload: policy.isReplacingAll, listeners)
            hooks.observe(.upgraded(pid))
            advance(to: .drain)
        case .lost(let pid):
            hooks.observe(.upgradeFailed(UpgradeEvent.told(ofLost: pid)))
            // The manager starts the service anew once this process has ended.
            if loop.isManaged { advance(to: .terminate) }
        }
    }
}
