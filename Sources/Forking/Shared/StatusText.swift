// SPDX-License-Identifier: Apache-2.0
//
// The server, which writes its status, and any process that reads it.

// A status as text: lines of words separated by one space. The first word is the line's key.
//
//     swift-forking 1
//     shape prefork
//     …
//     source NAME CHILDREN PENALTY refused|served
//     process PID NUMBER STATE REQUESTS IN-STATE AGE PEER
//     end
//
// Times are nanoseconds; addresses are the bytes of a sockaddr in hexadecimal, because they may contain any byte; a
// missing value is `-`. A reader ignores keys, and words at the end of a line, that it does not know. An incompatible
// change gets another number in the first line.

// MARK: - Writing

extension ServerStatus {
    private static let firstLine = "swift-forking 1"
    private static let lastLine = "end"

    /// Parent: writes everything before the processes.
    func writeBeginning(to text: inout [UInt8]) {
        text.line(Self.firstLine)
        text.line("shape", shape.rawValue)
        text.line("pid", String(pid))
        text.line("phase", phase.rawValue)
        text.line("age", String(age.inNanoseconds))
        text.line("limit", String(maxProcesses))
        text.line("wanted", wanted.map { String($0) } ?? "-")
        for address in addresses {
            text += "address ".utf8
            text.append(hex: address)
            text += "\n".utf8
        }
        for source in sources {
            text.line(
                "source", source.name, String(source.children), String(source.penalty.inNanoseconds),
                source.isRefused ? "refused" : "served")
        }
    }

    static func writeEnd(to text: inout [UInt8]) { text.line(lastLine) }
}

extension ServerStatus.Process {
    func write(to text: inout [UInt8]) {
        text += "process \(pid) ".utf8
        text.word(number.map { String($0) })
        text.word(state.rawValue)
        text.word(requests.map { String($0) })
        text.word(inState.map { String($0.inNanoseconds) })
        text.word(String(age.inNanoseconds))
        if let peer { text.append(hex: peer) } else { text += "-".utf8 }
        text += "\n".utf8
    }
}

extension [UInt8] {
    fileprivate mutating func line(_ words: String...) {
        self += words.joined(separator: " ").utf8
        self += "\n".utf8
    }

    fileprivate mutating func word(_ word: String?) {
        self += (word ?? "-").utf8
        self += " ".utf8
    }

    fileprivate mutating func append(hex address: SocketAddress) {
        let digits: StaticString = "0123456789abcdef"
        address.withSockaddr { start, length in
            for byte in UnsafeRawBufferPointer(start: start, count: Int(length)) {
                append(digits.utf8Start[Int(byte >> 4)])
                append(digits.utf8Start[Int(byte & 15)])
            }
        }
    }
}

// MARK: - Reading

extension ServerStatus {
    /// - Throws: `ForkingError.Code.invalid` if the text is malformed or incomplete.
    init(text: [UInt8]) throws(ForkingError) {
        var lines = text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        guard let first = lines.first, first.elementsEqual(Self.firstLine.utf8) else {
            throw .invalid("it does not begin with '\(Self.firstLine)'")
        }
        guard lines.popLast()?.isEmpty == true, lines.popLast()?.elementsEqual(Self.lastLine.utf8) == true else {
            throw .invalid("its end is missing")
        }
        var reader = StatusReader()
        for (index, line) in lines.enumerated().dropFirst() {
            guard reader.take(line) else { throw .invalid("line \(index + 1) is not understood") }
        }
        guard let status = reader.status else { throw .invalid("a line is missing") }
        self = status
        sort()
    }
}

private struct StatusReader {
    private var shape: ServerStatus.Shape?
    private var pid: ProcessID?
    private var phase: ServerStatus.Phase?
    private var age: Duration?
    private var limit: Int?
    private var wanted: Int??
    private var addresses: [SocketAddress] = []
    private var sources: [ServerStatus.Source] = []
    private var processes: [ServerStatus.Process] = []

    /// The status, if no line was missing.
    var status: ServerStatus? {
        guard let shape, let pid, let phase, let age, let limit, let wanted else { return nil }
        return ServerStatus(
            shape: shape, pid: pid, addresses: addresses, age: age, phase: phase, maxProcesses: limit, wanted: wanted,
            sources: sources, processes: processes)
    }

    /// Returns whether the line is well-formed.
    mutating func take(_ line: ArraySlice<UInt8>) -> Bool {
        let words = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false).map {
            String(decoding: $0, as: UTF8.self)
        }
        guard words.count >= 2 else { return false }
        let value = words[1]
        switch words[0] {
        case "shape": shape = ServerStatus.Shape(rawValue: value)
        case "pid": pid = number(value)
        case "phase": phase = ServerStatus.Phase(rawValue: value)
        case "age": age = time(value)
        case "limit": limit = number(value)
        case "wanted": wanted = optional(value, number)
        case "address":
            guard let address = address(value) else { return false }
            addresses.append(address)
        case "source":
            guard let source = source(words) else { return false }
            sources.append(source)
        case "process":
            guard let process = process(words) else { return false }
            processes.append(process)
        default: return true
        }
        return true
    }

    private func source(_ words: [String]) -> ServerStatus.Source? {
        guard words.count >= 5, !words[1].isEmpty, let children: Int = number(words[2]), let penalty = time(words[3])
        else { return nil }
        let name = ForkingError.printable(words[1])
        return ServerStatus.Source(name: name, children: children, penalty: penalty, isRefused: words[4] == "refused")
    }

    private func process(_ words: [String]) -> ServerStatus.Process? {
        guard words.count >= 8, let pid: ProcessID = number(words[1]),
            let workerNumber: Int? = optional(words[2], number),
            let state = ServerStatus.Process.State(rawValue: words[3]),
            let requests: UInt64? = optional(words[4], number), let inState = optional(words[5], time),
            let age = time(words[6]), let peer = optional(words[7], address)
        else { return nil }
        return ServerStatus.Process(
            pid: pid, number: workerNumber, state: state, requests: requests, inState: inState, age: age, peer: peer)
    }

    /// Nil if malformed; `.some(nil)` for a missing value.
    private func optional<Value>(_ word: String, _ read: (String) -> Value?) -> Value?? {
        word == "-" ? .some(nil) : read(word).map { .some($0) }
    }

    /// No number here is negative.
    private func number<Number: FixedWidthInteger>(_ word: String) -> Number? {
        Number(word).flatMap { $0 < 0 ? nil : $0 }
    }

    private func time(_ word: String) -> Duration? {
        let nanoseconds: Int64? = number(word)
        return nanoseconds.map { .nanoseconds($0) }
    }

    private func address(_ word: String) -> SocketAddress? {
        let digits = Array(word.utf8)
        guard digits.count.isMultiple(of: 2), digits.count <= 2 * SocketAddress.longest else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard digits[index] != UInt8(ascii: "+"),
                let byte = UInt8(String(decoding: digits[index..<index + 2], as: UTF8.self), radix: 16)
            else { return nil }
            bytes.append(byte)
        }
        return SocketAddress { storage, length in
            UnsafeMutableRawPointer(storage).copyMemory(from: bytes, byteCount: bytes.count)
            length.pointee = UInt32(bytes.count)
        }.checked
    }
}
