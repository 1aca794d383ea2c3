// SPDX-License-Identifier: Apache-2.0

/// A problem with a child that is alive, or should be gone. Each is reported once per child.
#if hasAttribute(nonexhaustive)
    @nonexhaustive
#endif
public enum ChildTrouble: Hashable, Sendable {
    /// The child has ended but cannot be reaped, because another process traces it: a debugger, or one that the child
    /// started itself. Its slot stays taken until the tracer detaches or ends. ptrace(2).
    case held(ProcessID, peer: SocketAddress?)
    /// The child, or all that is left of it, may not be signalled: it has changed its credentials, as a set-user-ID
    /// program can, and this process lacks permission. Timeouts and stops do not reach it. kill(2), EPERM.
    case notPermitted(ProcessID, peer: SocketAddress?)

    /// Its process ID, until it is reaped.
    public var pid: ProcessID {
        switch self {
        case .held(let pid, _), .notPermitted(let pid, _): pid
        }
    }
}

extension ChildTrouble: CustomStringConvertible {
    /// `child 4711, peer 127.0.0.1:50000: has ended, but cannot be reaped, because a debugger or tracer holds it`
    public var description: String { told(of: "child") }

    func told(of kind: String) -> String {
        switch self {
        case .held(let pid, let peer):
            "\(kind) \(pid)\(Self.whom(peer)): has ended, but cannot be reaped, because a debugger or tracer holds it"
        case .notPermitted(let pid, let peer):
            "\(kind) \(pid)\(Self.whom(peer)): cannot be ended, because it runs as another user: "
                + "kill: Operation not permitted"
        }
    }

    private static func whom(_ peer: SocketAddress?) -> String { peer.map { ", peer \($0)" } ?? "" }
}
