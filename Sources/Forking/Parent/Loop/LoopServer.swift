// SPDX-License-Identifier: Apache-2.0
//
// Parent: what a server with a `ServerLoop` does, whatever it serves.

/// What every server tells. Its events' cases fulfil this.
protocol LoopEvent {
    static func upgrading(_ pid: ProcessID) -> Self
    static func upgraded(_ pid: ProcessID) -> Self
    static func upgradeFailed(_ reason: String) -> Self
}

extension ForkingServer.Event: LoopEvent {}
extension PreforkServer.Event: LoopEvent {}

protocol LoopServer: AnyObject, StatusSource {
    associatedtype Event: LoopEvent

    var loop: ServerLoop { get }
    /// The listeners that an upgrade hands over.
    var shared: [SharedListener] { get }
    /// How long the new program may take.
    var startTimeout: Duration { get }
    /// Whether the service manager waits to hear of a reload's end.
    var isReloading: Bool { get }

    func tell(_ event: Event)
    /// Does what a step of stopping takes.
    func carryOut(_ stop: Lifecycle.Stop)
}

extension LoopServer {
    /// Goes to a step of stopping, unless it or a harder one was reached.
    func advance(to step: StopStep) {
        if let stop = loop.life.stop(step, at: .now) { carryOut(stop) }
    }

    /// SIGUSR2: starts the program anew on the same sockets; once that one serves, this one drains.
    func upgrade() {
        guard loop.life.state == .serving else { return }
        if let event = loop.upgrade(with: shared, limit: startTimeout) { note(event) }
    }

    /// Something has become of the upgrade.
    func note(_ event: UpgradeEvent) {
        switch event {
        case .started(let pid): tell(.upgrading(pid))
        case .failed(let reason): tell(.upgradeFailed(reason))
        case .serves(let pid):
            loop.handOver(endingReload: isReloading, shared)
            tell(.upgraded(pid))
            advance(to: .drain)
        case .lost(let pid):
            tell(.upgradeFailed(UpgradeEvent.told(ofLost: pid)))
            // The manager starts the service anew once this process has ended.
            if loop.isManaged { advance(to: .terminate) }
        }
    }
}

extension ForkingServer: LoopServer {
    var shared: [SharedListener] { listeners.all }
    var startTimeout: Duration { configuration.startTimeout }
    var isReloading: Bool { false }
}

extension PreforkServer: LoopServer {
    var shared: [SharedListener] { listeners }
    var startTimeout: Duration { configuration.startTimeout }
    var isReloading: Bool { policy.isReplacingAll }
}
