// SPDX-License-Identifier: Apache-2.0
//
// Parent: what every server with a `ServerLoop` does.

/// The events that every server reports. The cases of its `Event` are the witnesses.
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
    /// How long the new program may take to be ready.
    var startTimeout: Duration { get }
    /// Whether the service manager waits for the end of a reload.
    var isReloading: Bool { get }

    func tell(_ event: Event)
    /// Carries out a step of stopping.
    func carryOut(_ stop: Lifecycle.Stop)
}

extension LoopServer {
    /// Moves to a step of stopping, unless the server has reached it or a harder one.
    func advance(to step: StopStep) {
        if let stop = loop.life.stop(step, at: .now) { carryOut(stop) }
    }

    /// SIGUSR2: starts the program anew on the same sockets. Once the new program serves, this one drains.
    func upgrade() {
        guard loop.life.state == .serving else { return }
        if let event = loop.upgrade(with: shared, limit: startTimeout) { note(event) }
    }

    /// Handles and reports the progress of an upgrade.
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
            // The manager restarts the service once this process has ended.
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
