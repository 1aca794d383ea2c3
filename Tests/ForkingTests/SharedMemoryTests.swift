// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import SystemPackage
import TestSupport
import Testing

@Suite("Memory that processes share")
struct SharedMemoryTests {
    @Test("between a host and its children", arguments: try Scenario.of("shared-memory"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }

    private func bytes(of memory: borrowing SharedMemory) -> [UInt8] {
        memory.withBytes { $0.withUnsafeBytes(Array.init) }
    }

    @Test("it is 0 until it is filled, and has what it was filled with")
    func filled() throws {
        let memory = try SharedMemory(byteCount: 10_000) { bytes in
            #expect(bytes.bytes.withUnsafeBytes { $0.allSatisfy { $0 == 0 } })
            bytes.storeBytes(of: 7, toByteOffset: 9_999, as: UInt8.self)
        }
        #expect(memory.byteCount == 10_000)
        #expect(bytes(of: memory) == [UInt8](repeating: 0, count: 9_999) + [7])
    }

    @Test("bytes are copied into it")
    func copied() throws {
        for count in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let wanted = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            let memory = try SharedMemory(copying: wanted.span.bytes)
            #expect(memory.byteCount == count && bytes(of: memory) == wanted)
        }
    }

    @Test("a writer appends")
    func appended() throws {
        var writer = try SharedMemory.Writer()
        var wanted: [UInt8] = []
        for count in [3, 0, 70_000, 1] {
            let piece = (0..<count).map { UInt8(truncatingIfNeeded: $0 &+ count) }
            try writer.append(piece.span.bytes)
            wanted += piece
        }
        #expect(writer.byteCount == wanted.count)
        let memory = try writer.finish()
        #expect(bytes(of: memory) == wanted)
        #expect(lseek(memory.descriptor.rawValue, 0, SEEK_CUR) == 0)
    }

    @Test("a handler is called with it, and replies with it, without a zygote")
    func calledDirectly() throws {
        let memory = try SharedMemory(copying: ([1, 2, 3] as [UInt8]).span.bytes)
        let request = Zygote.Request(descriptors: [memory.descriptor])
        let first = try request.sharedMemory(), second = try request.sharedMemory()
        #expect(bytes(of: first) == [1, 2, 3] && bytes(of: second) == [1, 2, 3])
        let reply = Zygote.Reply([9], sharing: first)
        #expect(try bytes(of: reply.takeSharedMemory()) == [1, 2, 3])
        #expect(bytes(of: memory) == [1, 2, 3])
    }

    @Test("what was sent cannot be sent again, nor its bytes be kept: it does not compile")
    func compiled() throws {
        let wrongs = [
            (
                "let twice = (Zygote.Reply(sharing: memory), Zygote.Reply(sharing: memory))",
                "'memory' consumed more than once"
            ),
            ("let copy = [memory]", "requires that 'SharedMemory' conform to 'Copyable'"),
            ("let kept: RawSpan = memory.withBytes { $0 }", "requires that 'RawSpan' conform to 'Escapable'"),
        ]
        let right = "let reply = Zygote.Reply(sharing: memory); memory = try SharedMemory(copying: bytes)"
        #expect(try errors(compiling: right) == "")
        for (statement, wanted) in wrongs {
            let errors = try errors(compiling: statement)
            #expect(errors.contains(wanted), "\(statement): \(errors)")
        }
    }

    /// What the compiler says of a function with memory, and a statement that uses it.
    private func errors(compiling statement: String, file: StaticString = #filePath) throws -> String {
        let package = "\(file)".split(separator: "/").dropLast(3).map { "/" + $0 }.joined()
        let modules = builtProgram("Modules"), map = builtProgram("CForkCore.build/module.modulemap")
        let directory = try TemporaryDirectory()
        let source = directory.path + "/source.swift"
        let text = """
            import Forking
            func use(_ memory: consuming SharedMemory, _ bytes: RawSpan) throws {
                \(statement)
            }
            """
        let written = try FileDescriptor.open(source, .writeOnly, options: .create, permissions: .ownerReadWrite)
        try written.closeAfter { _ = try written.writeAll(Array(text.utf8)) }
        let compiler = try Running(
            "swiftc",
            [
                "-emit-sil", "-o", "/dev/null", "-swift-version", "6", "-suppress-warnings", "-I", modules,
                "-I", package + "/.build/checkouts/swift-system/Sources/CSystem/include",
                "-Xcc", "-fmodule-map-file=" + map, source,
            ])
        let status = try compiler.wait()
        #expect((status == 0) == compiler.errors.isEmpty, "\(status): \(compiler.errors)")
        return compiler.errors
    }
}
