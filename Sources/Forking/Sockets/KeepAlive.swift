// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// How a silent TCP client is found to have vanished: a host that lost its power, or its network, says no goodbye.
///
/// After `idle` without a word from it the client's host is asked whether it still knows of the connection, and again
/// each `interval`; when `count` questions had no answer, reads and writes throw `ForkingError.Code.system` with
/// `Errno.timedOut`. A client that is there, but says nothing, is not disturbed: that is `ioTimeout`'s and `timeout`'s.
/// SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT in tcp(7).
public struct KeepAlive: Hashable, Sendable {
    /// From a second to 32,767.
    public var idle: Duration
    /// From a second to 32,767.
    public var interval: Duration
    /// From 1 to 127.
    public var count: Int

    /// By default a client that has vanished is found after two minutes.
    public init(idle: Duration = .seconds(60), interval: Duration = .seconds(10), count: Int = 6) {
        self.idle = idle
        self.interval = interval
        self.count = count
    }

    /// Whole seconds, as the kernel counts.
    fileprivate func checked() throws(ForkingError) -> (idle: Int32, interval: Int32) {
        guard (1...127).contains(count) else {
            throw .invalid("a keepAlive with count \(count) cannot be: it must be from 1 to 127")
        }
        for (name, time) in [("idle", idle), ("interval", interval)] {
            guard (.seconds(1) ... .seconds(32_767)).contains(time) else {
                throw .invalid("a keepAlive with \(name) \(time) cannot be: it must be from 1 to 32767 seconds")
            }
        }
        return (Int32(idle.components.seconds), Int32(interval.components.seconds))
    }
}

extension KeepAlive {
    /// Sets it, or with nil unsets it, of a TCP listener, and so of what it accepts.
    fileprivate static func set(_ keepAlive: KeepAlive?, of descriptor: Int32) throws(ForkingError) {
        let (idle, interval) = try keepAlive?.checked() ?? (0, 0)
        let code = forkcore_set_keepalive(descriptor, idle, interval, Int32(keepAlive?.count ?? 0))
        try check(code, "setsockopt SO_KEEPALIVE")
    }

    fileprivate static func set(userTimeout timeout: Duration?, of descriptor: Int32) throws(ForkingError) {
        if let timeout, !(.milliseconds(1) ... .milliseconds(Int64(Int32.max))).contains(timeout) {
            throw .invalid("a userTimeout of \(timeout) cannot be: it must be from 1 to 2147483647 milliseconds")
        }
        let code = forkcore_set_user_timeout(descriptor, UInt32(timeout?.inMilliseconds ?? 0))
        try check(code, "setsockopt TCP_USER_TIMEOUT")
    }
}

extension Listener.Options {
    /// Has a TCP listener's vanished clients found as these options say.
    func watchPeers(of descriptor: Int32) throws(ForkingError) {
        try KeepAlive.set(keepAlive, of: descriptor)
        try KeepAlive.set(userTimeout: userTimeout, of: descriptor)
    }
}

extension Listener {
    /// Sets what is said at `Options.keepAlive`; for a socket that somebody else made. Unix sockets have no such thing,
    /// and are left as they are.
    ///
    /// - Throws: `ForkingError.Code.invalid` for times that cannot be; `.system`.
    public func setKeepAlive(_ keepAlive: KeepAlive?) throws(ForkingError) {
        if hasPeersToLose { try KeepAlive.set(keepAlive, of: descriptor.rawValue) }
    }

    /// Sets what is said at `Options.userTimeout`; for a socket that somebody else made. Unix sockets have no such
    /// thing, and are left as they are.
    ///
    /// - Throws: `ForkingError.Code.invalid` for a time that cannot be; `.system`.
    public func setUserTimeout(_ timeout: Duration?) throws(ForkingError) {
        if hasPeersToLose { try KeepAlive.set(userTimeout: timeout, of: descriptor.rawValue) }
    }

    /// The same, of a socket that this program made before it was executed anew.
    func watchPeers(as options: Options) throws(ForkingError) {
        if hasPeersToLose { try options.watchPeers(of: descriptor.rawValue) }
    }

    private var hasPeersToLose: Bool { !isDatagram && !address.isUnix }
}
