// SPDX-License-Identifier: Apache-2.0
//
// Any process: values as bytes and descriptors.

import Forking
import SystemPackage

/// What goes from one process to another.
protocol Transfer: Sendable {
    init(from reader: inout ByteReader) throws
    func write(to writer: inout ByteWriter)
}

extension Transfer {
    init(_ bytes: [UInt8], descriptors: [FileDescriptor] = []) throws {
        var reader = ByteReader(bytes, descriptors)
        try self.init(from: &reader)
    }

    func encoded() -> (bytes: [UInt8], descriptors: [FileDescriptor]) {
        var writer = ByteWriter()
        write(to: &writer)
        return (writer.bytes, writer.descriptors)
    }
}

/// Numbers, texts and parcels, one after the other.
struct ByteWriter {
    private(set) var bytes: [UInt8] = []
    private(set) var descriptors: [FileDescriptor] = []

    mutating func add(byte: UInt8) { bytes.append(byte) }

    mutating func add(_ number: UInt64) {
        withUnsafeBytes(of: number.littleEndian) { bytes += $0 }
    }

    mutating func add(_ block: [UInt8]) {
        add(UInt64(block.count))
        bytes += block
    }

    mutating func add(_ text: String) {
        add(UInt64(text.utf8.count))
        bytes += text.utf8
    }

    mutating func add(_ parcel: Parcel) {
        switch parcel {
        case .encoded(let block):
            add(byte: 0)
            add(block)
        case .bytes(let block):
            add(byte: 1)
            add(block)
        case .descriptor(let descriptor):
            add(byte: 2)
            descriptors.append(descriptor)
        }
    }
}

/// What a `ByteWriter` has written. Throws where it cannot have been one: a child may have been taken over.
struct ByteReader {
    private var rest: ArraySlice<UInt8>
    private var descriptors: ArraySlice<FileDescriptor>

    init(_ bytes: [UInt8], _ descriptors: [FileDescriptor] = []) {
        rest = bytes[...]
        self.descriptors = descriptors[...]
    }

    static let malformed = ForkingError.invalid("malformed message from another process")

    mutating func byte() throws -> UInt8 {
        guard let first = rest.popFirst() else { throw Self.malformed }
        return first
    }

    mutating func number() throws -> UInt64 {
        guard rest.count >= 8 else { throw Self.malformed }
        defer { rest = rest.dropFirst(8) }
        return rest.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Of things that follow, each of at least so many bytes.
    mutating func count(ofAtLeast size: Int = 1) throws -> Int {
        let count = try number()
        guard count <= rest.count / size else { throw Self.malformed }
        return Int(count)
    }

    mutating func block() throws -> [UInt8] {
        let count = try count()
        defer { rest = rest.dropFirst(count) }
        return Array(rest.prefix(count))
    }

    mutating func text() throws -> String { String(decoding: try block(), as: UTF8.self) }

    mutating func parcel() throws -> Parcel {
        switch try byte() {
        case 0: return .encoded(try block())
        case 1: return .bytes(try block())
        case 2:
            guard let descriptor = descriptors.popFirst() else { throw Self.malformed }
            return .descriptor(descriptor)
        default: throw Self.malformed
        }
    }
}
