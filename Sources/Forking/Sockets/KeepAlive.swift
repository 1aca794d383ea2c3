// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// How vanished TCP clients are detected: a host that loses its power or its network sends no end of stream.
///
/// If nothing arrives for `idle`, the kernel probes the client's host, and again after each `interval`. After `count`
/// unanswered probes, reads and writes throw `ForkingError.Code.system` with `Errno.timedOut`. A client that is alive
/// but silent is not affected; `ioTimeout` and `timeout` are for that. SO_KEEPALIVE; TCP_KEEPIDLE, TCP_KEEPINTVL,
/// TCP_KEEPCNT in tcp(7).
public struct KeepAlive: Hashable, Sendable {
    /// The time without data before the first probe: 1 to 32,767 seconds.
    public var idle: Duration
    /// The time between two probes: 1 to 32,767 seconds.
    public var interval: Duration
    /// The number of unanswered probes after which the connection ends: 1 to 127.
    public var count: Int

    /// The defaults detect a vanished client after two minutes.
    public init(idle: Duration = .seconds(60), interval: Duration = .seconds(10), count: Int = 6) {
        self.idle = idle
        self.interval = interval
        self.count = count
    }

    /// Validates the values. Returns whole seconds, as the kernel takes them.
    fileprivate func checked() throws(ForkingError) -> (idle: Int32, interval: Int32) {
        guard (1...127).contains(count) else {
            throw .invalid("keepAlive is invalid: its count is \(count), and must be from 1 to 127")
        }
        for (name, time) in [("idle", idle), ("interval", interval)] {
            guard (.seconds(1) ... .seconds(32_767)).contains(time) else {
                throw .invalid("keepAlive is invalid: its \(name) is \(time), and must be from 1 to 32767 seconds")
            }
        }
        return (Int32(idle.components.seconds), Int32(interval.components.seconds))
    }
}

extension KeepAlive {
    /// Sets the option on a TCP listener, whose connections inherit it; nil turns it off.
    fileprivate static func set(_ keepAlive: KeepAlive?, of descriptor: Int32) throws(ForkingError) {
        let (idle, interval) = try keepAlive?.checked() ?? (0, 0)
        let code = forkcore_set_keepalive(descriptor, idle, interval, Int32(keepAlive?.count ?? 0))
        try check(code, "setsockopt SO_KEEPALIVE")
    }

    fileprivate static func set(userTimeout timeout: Duration?, of descriptor: Int32) throws(ForkingError) {
        if let timeout, !(.milliseconds(1) ... .milliseconds(Int64(Int32.max))).contains(timeout) {
            throw .invalid("userTimeout is \(timeout), and must be from 1 to 2147483647 milliseconds")
        }
        let code = forkcore_set_user_timeout(descriptor, UInt32(timeout?.inMilliseconds ?? 0))
        try check(code, "setsockopt TCP_USER_TIMEOUT")
    }
}

extension Listener.Options {
    /// Applies `keepAlive` and `userTimeout` to a TCP listener.
    func watchPeers(of descriptor: Int32) throws(ForkingError) {
        try KeepAlive.set(keepAlive, of: descriptor)
        try KeepAlive.set(userTimeout: userTimeout, of: descriptor)
    }
}

extension Listener {
    /// Sets what `Options.keepAlive` describes, for a listener on an adopted socket. Does nothing for Unix and datagram
    /// sockets. setsockopt(2).
    ///
    /// - Throws: `ForkingError.Code.invalid` if a value is out of range; `.system`.
    public func setKeepAlive(_ keepAlive: KeepAlive?) throws(ForkingError) {
        if hasPeersToLose { try KeepAlive.set(keepAlive, of: descriptor.rawValue) }
    }

    /// Sets what `Options.userTimeout` describes, for a listener on an adopted socket. Does nothing for Unix and
    /// datagram sockets. setsockopt(2).
    ///
    /// - Throws: `ForkingError.Code.invalid` if the value is out of range; `.system`.
    public func setUserTimeout(_ timeout: Duration?) throws(ForkingError) {
        if hasPeersToLose { try KeepAlive.set(userTimeout: timeout, of: descriptor.rawValue) }
    }

    /// Applies the options to a socket that the predecessor created.
    func watchPeers(as options: Options) throws(ForkingError) {
        if hasPeersToLose { try options.watchPeers(of: descriptor.rawValue) }
    }

    private var hasPeersToLose: Bool { !isDatagram && !address.isUnix }
}
