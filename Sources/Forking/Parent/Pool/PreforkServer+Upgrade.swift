// SPDX-License-Identifier: Apache-2.0

extension PreforkServer {
    /// SIGUSR2: starts the program anew on the same sockets; once all of its workers serve, this one drains.
    func upgrade() {
        if let event = loop.upgrade(with: listeners, limit: configuration.startTimeout) { note(event) }
    }

    /// Something has become of it.
    func note(_ event: UpgradeEvent) {
        switch event {
        case .started(let pid): tell(.upgrading(pid))
        case .failed(let why): tell(.upgradeFailed(why))
        case .serves(let pid):
            loop.handOver(endingReload: policy.isReplacingAll, listeners)
            tell(.upgraded(pid))
            advance(to: .drain)
        case .lost(let pid):
            tell(.upgradeFailed(UpgradeEvent.told(ofLost: pid)))
            // The manager starts the service anew once this process has ended.
            if loop.isManaged { advance(to: .terminate) }
        }
    }
}
