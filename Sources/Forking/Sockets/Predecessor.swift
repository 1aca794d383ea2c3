// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// The program that this one replaces in an upgrade, if there is one. Parent.
enum Predecessor {
    private static let handedOver: (readinessSocket: ParentDescriptor, flags: [Character], control: Int32?)? = {
        guard let terms = Handover.inheritance.takeOwn().flatMap({ Handover.Terms($0) }),
            Inheritance.adopt(terms.readinessSocket)
        else { return nil }
        let isThere = Inheritance.adopt(terms.control)
        return (ParentDescriptor(terms.readinessSocket), terms.flags, isThere ? terms.control : nil)
    }()
    private static let isControlTaken = Atomic(false)

    /// The predecessor's control socket, once; the caller then owns it.
    static func takeControl() -> Int32? {
        guard let control = handedOver?.control, !isControlTaken.exchange(true, ordering: .relaxed) else { return nil }
        return control
    }

    /// Whether there is a predecessor. Call it before the first worker is forked, so that the worker does not keep the
    /// readiness socket.
    static var isThere: Bool { handedOver != nil }

    /// Where the predecessor's socket at `index` came from; nil without a predecessor.
    static func origin(_ index: Int, named name: String) -> Listener.Origin? {
        handedOver.map { Handover.origin(flag: $0.flags.indices.contains(index) ? $0.flags[index] : "0", name: name) }
    }

    /// Tells the predecessor that this program serves. The predecessor then drains.
    static func tellReady() {
        if let readinessSocket = handedOver?.readinessSocket { Handover.say(on: readinessSocket.rawValue) }
    }

    /// On this the predecessor reports that the service manager takes this program for the main one from now on, or
    /// closes its end.
    static var readinessSocket: Int32? { handedOver?.readinessSocket.rawValue }
}
