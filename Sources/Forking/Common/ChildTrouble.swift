// SPDX-License-Identifier: Apache-2.0

/// What is wrong with a child that lives, or that should be gone. Each is told once of a child.
#if hasAttribute(nonexhaustive)
    @nonexhaustive
#endif
public enum ChildTrouble: Hashable, Sendable {
    /// It has ended, but cannot be reaped, as another process traces it: a debugger, or one that it started itself. Its
    /// place stays taken until that process lets go or ends. ptrace(2).
    case held(ProcessID, peer: SocketAddress?)
    /// It, or all that is left of it, may not be signalled: it has changed its credentials, as a set-user-ID program
    /// can, and this process may not do so. Time limits and stops do not reach it. kill(2), EPERM.
    case notPermitted(ProcessID, peer: SocketAddress?)

    /// Its number, as long as it was not reaped.
    public var pid: ProcessID {
        switch self {
        case .held(let pid, _), .notPermitted(let pid, _): pid
        }
    }
}

extension ChildTrouble: CustomStringConvertible {
    /// `child 4711, peer 127.0.0.1:50000: has ended, but cannot be reaped, as a debugger or tracer holds it`
    public var description: String { told(of: "child") }

    func told(of kind: String) -> String {
        switch self {
        case .held(let pid, let peer):
            "\(kind) \(pid)\(Self.whom(peer)): has ended, but cannot be reaped, as a debugger or tracer holds it"
        case .notPermitted(let pid, let peer):
            "\(kind) \(pid)\(Self.whom(peer)): cannot be ended, as it runs as another user: "
                + "kill: Operation not permitted"
        }
    }

    private static func whom(_ peer: SocketAddress?) -> String { peer.map { ", peer \($0)" } ?? "" }
}
