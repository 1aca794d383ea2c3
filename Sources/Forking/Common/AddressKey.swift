// SPDX-License-Identifier: Apache-2.0

import Glibc

/// An IP address as numbers, which can be masked and compared without an allocation, because the parent does so for each
/// client. It has no port and no zone. The numbers are in the host's byte order, so that keys sort as addresses do.
struct AddressKey: BitwiseCopyable, Hashable {
    /// The first 64 bits. An IPv4 address is in the upper 32, so that prefixes work as with IPv6.
    let high: UInt64
    /// The other 64 bits; 0 for IPv4.
    let low: UInt64
    /// 4 or 6. It is the last field, so that what stands behind a key in memory needs no padding.
    let family: UInt8

    /// The address of a peer; nil for a Unix socket. An IPv4-mapped IPv6 address is the IPv4 address, as in
    /// `SocketAddress.ip`: rules for IPv4 must hold for clients of an IPv6 socket.
    init?(_ address: SocketAddress) {
        guard let key = address.withIPBytes({ AddressKey(bytes: $0) }) else { return nil }
        self = key
    }

    /// The address in 4 or 16 bytes, in network order.
    init(bytes: UnsafeRawBufferPointer) {
        if bytes.count == 4 {
            self.init(v4: UInt32(bigEndian: bytes.loadUnaligned(as: UInt32.self)))
            return
        }
        let high = UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self))
        let low = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        if high == 0, low >> 32 == Self.mapped {
            self.init(v4: UInt32(truncatingIfNeeded: low))
        } else {
            self.init(family: 6, high: high, low: low)
        }
    }

    private init(v4: UInt32) { self.init(family: 4, high: UInt64(v4) << 32, low: 0) }

    init(family: UInt8, high: UInt64, low: UInt64) { (self.family, self.high, self.low) = (family, high, low) }

    /// What stands in `low` above the IPv4 address in an IPv4-mapped address.
    private static let mapped: UInt64 = 0xffff

    /// How many bits the address has, and so the longest prefix.
    var width: Int { family == 4 ? 32 : 128 }

    /// The address with all bits behind the first `prefix` set to 0.
    func masked(to prefix: Int) -> AddressKey {
        AddressKey(family: family, high: high & Self.ones(prefix), low: low & Self.ones(prefix - 64))
    }

    /// The first `count` bits of 64: none if it is negative, all if it is more.
    private static func ones(_ count: Int) -> UInt64 { ~(UInt64.max >> max(0, count)) }

    /// The numeric address, as inet_ntop(3) writes it.
    var text: String {
        var bytes = (high.bigEndian, low.bigEndian)
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        inet_ntop(family == 4 ? AF_INET : AF_INET6, &bytes, &text, socklen_t(text.count))
        return SocketAddress.string(text)
    }
}

extension AddressKey: Comparable {
    static func < (a: AddressKey, b: AddressKey) -> Bool {
        if a.family != b.family { return a.family < b.family }
        return a.high != b.high ? a.high < b.high : a.low < b.low
    }
}
