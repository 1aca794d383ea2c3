// SPDX-License-Identifier: Apache-2.0
//
// Three processes of an upgrade: the old program writes it, the child that becomes the new program passes it on, the
// new program reads it.

import CForkCore
import Glibc
import SystemPackage

/// What a program hands over to its successor: sockets, as a service manager does, sd_listen_fds(3), and a readiness
/// socket, on which the successor reports that it serves.
struct Handover {
    static let inheritance = Inheritance("FORKING_UPGRADE")
    static let first: Int32 = 3

    struct Socket {
        let descriptor: Int32
        let origin: Listener.Origin
    }

    let sockets: [Socket]
    let readinessSocket: Int32
    let control: Int32?
    let variables: [String]

    /// What the new program finds in the environment.
    struct Terms: Equatable {
        /// The descriptor on which the new program reports that it serves.
        let readinessSocket: Int32
        /// The descriptor of the control socket, on which the new program must answer status requests; or -1.
        let control: Int32
        /// One letter for each socket: see `flag(of:)`.
        let flags: [Character]

        var text: String { "\(readinessSocket) \(control) \(String(flags))" }
    }

    /// A letter for each socket says where it comes from. Its name in LISTEN_FDNAMES holds the rest.
    static func flag(of origin: Listener.Origin) -> Character {
        switch origin {
        case .made: "1"
        case .manager: "0"
        case .descriptor: "d"
        }
    }

    static func name(of origin: Listener.Origin) -> String {
        switch origin {
        case .made: "made"
        case .manager(let name): name
        case .descriptor(let number): String(number)
        }
    }

    static func origin(flag: Character, name: String) -> Listener.Origin {
        switch flag {
        case "1": .made
        case "d": Int32(name).map { .descriptor($0) } ?? .manager(name: name)
        default: .manager(name: name)
        }
    }

    /// Reports readiness, or its confirmation, on one end of a readiness socket.
    static func say(on descriptor: Int32) { _ = send(descriptor, [1], 1, Int32(MSG_NOSIGNAL | MSG_DONTWAIT)) }

    /// Whether the other program has reported, and not merely closed its end.
    static func isSaid(on descriptor: Int32) -> Bool {
        var byte: UInt8 = 0
        return recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT)) == 1
    }
}

extension Handover.Terms {
    /// Nil if the text is malformed.
    init?(_ text: String) {
        let parts = text.split(separator: " ", omittingEmptySubsequences: false)
        guard parts.count == 3, let readinessSocket = Int32(parts[0]), readinessSocket >= 0,
            let control = Int32(parts[1])
        else { return nil }
        self.init(readinessSocket: readinessSocket, control: control, flags: Array(parts[2]))
    }
}
