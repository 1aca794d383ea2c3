// SPDX-License-Identifier: Apache-2.0
//
// The command line's process, and the program that it executes to serve: the options go from one to the other.

import Forking
import Glibc
import SystemPackage

/// The parsed command line, as plain values.
///
/// Parsing the command line leaves hundreds of pages mapped and a fragmented heap, which each fork would copy. So
/// forkserve executes itself again, with its job in an environment variable. That image has run only what it needs to
/// serve, and serves a third more connections per second.
struct Job: Equatable {
    enum Service: String {
        case echo, echoDatagrams, echoOnce, program, pool, httpPool
        /// A program for each listener.
        case lending, lendingDatagrams
    }

    var service: Service
    /// At least one.
    var addresses: [String]
    /// How many of the process's last arguments are the program and its arguments.
    var programArguments = 0
    var program = ProgramOptions.Values()
    var ioTimeout: Double?
    var common: CommonOptions.Values
    var forking = ServeOptions.Values()
    var pool = PoolOptions.Values()

    // MARK: From one image to the next

    private static let inheritance = Inheritance("FORKSERVE_JOB")

    /// Executes forkserve again with this job, and does not return. If that fails (no /proc), serves in this image.
    func start() throws(ForkingError) {
        Self.inheritance.leave(encoded)
        execv("/proc/self/exe", Arguments.vector.baseAddress!)
        Self.inheritance.remove()
        try serve()
    }

    /// The job that the previous image left, if any. A value that another process has put into the variable is ignored,
    /// because it was never validated.
    static func left() -> Job? { inheritance.takeOwn().flatMap { Job(encoded: $0) } }

    /// Sets the process's name. The kernel names it after the executed file, here "exe", so that neither pgrep(1) nor
    /// ps(1) would find it.
    static func takeOwnName() {
        guard let path = Arguments.vector.first ?? nil else { return }
        let name = strrchr(path, Int32(UInt8(ascii: "/"))).map { $0 + 1 } ?? path
        guard name.pointee != 0, let file = try? FileDescriptor.open("/proc/self/comm", .writeOnly) else { return }
        // The kernel cuts the name to 15 bytes.
        try? file.closeAfter { _ = try file.write(UnsafeRawBufferPointer(start: name, count: strlen(name))) }
    }

}

/// The text that one image leaves to the next.
extension Job {
    var encoded: String {
        var coder = FieldCoder()
        var job = self
        job.code(&coder)
        return coder.words.joined(separator: " ")
    }

    init?(encoded: String) {
        self.init(service: .echo, addresses: [], common: CommonOptions.Values())
        var coder = FieldCoder(
            reading: encoded.split(separator: " ", omittingEmptySubsequences: false).map(String.init))
        code(&coder)
        guard coder.isValid, coder.words.isEmpty else { return nil }
    }

    private mutating func code(_ coder: inout FieldCoder) {
        var name = service.rawValue
        coder.field(&name)
        coder.field(&addresses)
        coder.field(&programArguments)
        program.code(&coder)
        coder.field(&ioTimeout)
        common.code(&coder)
        forking.code(&coder)
        pool.code(&coder)
        if let service = Service(rawValue: name) { self.service = service } else { coder.isValid = false }
    }
}

/// Writes values as words, or reads them back, so that one function defines their order for both.
struct FieldCoder {
    private(set) var words: [String] = []
    private let isReading: Bool
    var isValid = true

    init() { isReading = false }

    init(reading words: [String]) {
        self.words = words
        isReading = true
    }

    mutating func field<Value: LosslessStringConvertible>(_ value: inout Value) {
        guard isReading else { return words.append(Self.escaped(value.description)) }
        guard !words.isEmpty, let read = Value(Self.unescaped(words.removeFirst())) else { return isValid = false }
        value = read
    }

    mutating func field<Value: LosslessStringConvertible>(_ value: inout Value?) {
        var isThere = value != nil
        field(&isThere)
        guard isThere, isValid else { return }
        guard isReading else {
            field(&value!)
            return
        }
        guard !words.isEmpty, let read = Value(Self.unescaped(words.removeFirst())) else { return isValid = false }
        value = read
    }

    mutating func field<Value: LosslessStringConvertible>(_ values: inout [Value]) {
        var count = values.count
        field(&count)
        guard isReading else {
            for var value in values { field(&value) }
            return
        }
        values = []
        for _ in 0..<count where !words.isEmpty && isValid {
            guard let read = Value(Self.unescaped(words.removeFirst())) else { return isValid = false }
            values.append(read)
        }
        if values.count != count { isValid = false }
    }

    /// An address or a path can contain any character.
    private static func escaped(_ text: String) -> String {
        text.split(separator: "%", omittingEmptySubsequences: false).joined(separator: "%25")
            .split(separator: " ", omittingEmptySubsequences: false).joined(separator: "%20")
    }

    private static func unescaped(_ word: String) -> String {
        word.split(separator: "%", omittingEmptySubsequences: false).enumerated().map { index, part in
            guard index > 0 else { return String(part) }
            return (part.hasPrefix("20") ? " " : "%") + part.dropFirst(2)
        }.joined()
    }
}
