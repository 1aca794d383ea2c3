// SPDX-License-Identifier: Apache-2.0

/// Which addresses may connect.
///
/// The smallest range that contains an address decides. If it is both allowed and denied, it is denied. An address that
/// no range contains is allowed if there are no ranges to allow, and denied otherwise. So `deny` alone names the
/// exceptions, and `allow` alone names all that may connect. Clients of Unix sockets are always allowed, because the
/// permissions of the file decide about them.
///
/// ```swift
/// let office = try AddressRange(parsing: "10.1.0.0/16"), guests = try AddressRange(parsing: "10.1.9.0/24")
/// let rules = AddressRules(allow: [office], deny: [guests])
/// rules.allows(try SocketAddress(ip: "10.1.9.7", port: 80))  // false
/// ```
///
/// A hundred thousand ranges take 2.4 MB. An address is looked up by one binary search for each length of prefix that
/// ranges have.
public struct AddressRules: Sendable, Equatable {
    /// What is decided about one range. Entries are looked up where their owner keeps them, in memory of its choice, so
    /// they contain no references, and also say where to look next.
    struct Entry: BitwiseCopyable, Equatable {
        let key: AddressKey
        let prefix: UInt8
        let isAllowed: Bool
        /// Where the entries with the next shorter prefix begin.
        fileprivate(set) var end: UInt32 = 0
    }

    /// One entry for each range: longer prefixes first, then by address.
    let entries: [Entry]
    /// Whether an address that no range contains is allowed.
    let allowsOthers: Bool

    /// Makes rules from ranges in any order.
    public init(allow: [AddressRange] = [], deny: [AddressRange] = []) {
        let entries =
            allow.map { Entry(key: $0.key, prefix: $0.prefix, isAllowed: true) }
            + deny.map { Entry(key: $0.key, prefix: $0.prefix, isAllowed: false) }
        self.init(entries, allowsOthers: allow.isEmpty)
    }

    /// Sorts the entries, and keeps one for each range.
    private init(_ unsorted: [Entry], allowsOthers: Bool) {
        var entries: [Entry] = []
        entries.reserveCapacity(unsorted.count)
        for entry in unsorted.sorted(by: Self.precedes) {
            // Of the entries for one range, those that deny it come first.
            if let last = entries.last, last.key == entry.key, last.prefix == entry.prefix { continue }
            entries.append(entry)
        }
        var end = entries.count
        for index in entries.indices.reversed() {
            if index + 1 < entries.count, entries[index + 1].prefix != entries[index].prefix { end = index + 1 }
            entries[index].end = UInt32(end)
        }
        (self.entries, self.allowsOthers) = (entries, allowsOthers)
    }

    private static func precedes(_ a: Entry, _ b: Entry) -> Bool {
        if a.prefix != b.prefix { return a.prefix > b.prefix }
        return a.key != b.key ? a.key < b.key : !a.isAllowed && b.isAllowed
    }

    /// The rules with the ranges of both.
    public func merging(_ other: AddressRules) -> AddressRules {
        AddressRules(entries + other.entries, allowsOthers: allowsOthers && other.allowsOthers)
    }

    /// Whether a client with this address may connect.
    public func allows(_ address: SocketAddress) -> Bool {
        entries.withUnsafeBufferPointer { Self.allows(address, $0, allowsOthers: allowsOthers) }
    }
}

// MARK: - Looking up an address

extension AddressRules {
    /// The same from entries that their owner keeps. It only reads them, and neither allocates nor writes to any memory,
    /// because a page that the parent writes to for each client is copied for each child.
    static func allows(
        _ address: SocketAddress, _ entries: UnsafeBufferPointer<Entry>, allowsOthers: Bool
    ) -> Bool {
        guard let key = AddressKey(address) else { return address.isUnix || allowsOthers }
        return allows(key, entries, allowsOthers: allowsOthers)
    }

    static func allows(_ key: AddressKey, _ entries: UnsafeBufferPointer<Entry>, allowsOthers: Bool) -> Bool {
        decision(on: key, in: entries) ?? allowsOthers
    }

    /// What the entry with the longest prefix that the address has decides; nil if the address has none.
    private static func decision(on key: AddressKey, in entries: UnsafeBufferPointer<Entry>) -> Bool? {
        var start = 0
        while start < entries.count {
            let (prefix, end) = (Int(entries[start].prefix), Int(entries[start].end))
            if prefix <= key.width, let found = entry(for: key.masked(to: prefix), in: entries, start, end) {
                return found.isAllowed
            }
            start = end
        }
        return nil
    }

    /// The entry with this key among those from `start` to `end`, which have the same prefix.
    private static func entry(
        for key: AddressKey, in entries: UnsafeBufferPointer<Entry>, _ start: Int, _ end: Int
    ) -> Entry? {
        var (low, high) = (start, end)
        while low < high {
            let middle = low + (high - low) / 2
            if entries[middle].key < key { low = middle + 1 } else { high = middle }
        }
        return low < end && entries[low].key == key ? entries[low] : nil
    }
}

// MARK: - Rules files

extension AddressRules {
    /// Parses the text of a rules file. A line is `allow RANGE` or `deny RANGE`, in any order, as in `allow 10.0.0.0/8`.
    /// `#` begins a comment. Blank lines are skipped.
    ///
    /// - Parameters:
    ///   - text: the content of the file.
    ///   - file: the name of the file, for errors.
    /// - Throws: `ForkingError.Code.invalid`, whose description has the number of the wrong line, and says what is
    ///   expected.
    public init(parsing text: String, file: String) throws(ForkingError) {
        var allow: [AddressRange] = []
        var deny: [AddressRange] = []
        var number = 0
        // In bytes, because to a String CR LF is one character.
        for line in text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            number += 1
            do throws(ForkingError) {
                guard let (isAllowed, range) = try Self.rule(in: line) else { continue }
                if isAllowed { allow.append(range) } else { deny.append(range) }
            } catch {
                throw .invalid("\(ForkingError.printable(file)), line \(number): \(error)")
            }
        }
        self.init(allow: allow, deny: deny)
    }

    /// The rule in a line; nil if there is none.
    private static func rule(in line: Substring.UTF8View) throws(ForkingError) -> (isAllowed: Bool, AddressRange)? {
        let content = line.prefix { $0 != UInt8(ascii: "#") }
        let words = content.split(whereSeparator: isBlank).map { String(Substring($0)) }
        guard let verb = words.first else { return nil }
        guard verb == "allow" || verb == "deny" else {
            throw .invalid("'\(ForkingError.printable(verb))' is neither 'allow' nor 'deny'; \(form)")
        }
        guard words.count > 1 else { throw .invalid("'\(verb)' needs a range of addresses; \(form)") }
        let range = try AddressRange(parsing: words[1])
        guard words.count == 2 else {
            let extra = ForkingError.printable(words[2])
            throw .invalid("'\(extra)' follows the range, and each range needs a line of its own; \(form)")
        }
        return (verb == "allow", range)
    }

    /// Space, tab, and CR, with which lines of some editors end.
    private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 || byte == 0x0d }

    private static let form = "expected something like 'allow 10.0.0.0/8'"
}
