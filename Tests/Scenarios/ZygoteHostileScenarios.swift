// SPDX-License-Identifier: Apache-2.0
//
// A child that was taken over by what it worked on, and has its channel in hand.

import CForkCore
import Forking
import Glibc
import SystemPackage
import TestSupport

let zygoteHostileScenarios: [String: @Sendable () throws -> Void] = [
    "zygote-hostile-child": hostileChild,
    "zygote-hostile-numbers": hostileNumbers,
]

/// What goes over a call's channel, as CallMessage.Head has it.
private struct Forged {
    static let (reply, threw, limitRefused, notForked, ended): (UInt8, UInt8, UInt8, UInt8, UInt8) = (1, 2, 3, 4, 5)

    var bytes: [UInt8]

    init(_ kind: UInt8, isInFile: Bool = false, count: UInt64 = 0, rest: UInt8 = 0) {
        bytes = [UInt8](repeating: rest, count: 112)
        bytes[0] = kind
        bytes[1] = isInFile ? 1 : 0
        withUnsafeBytes(of: count) { bytes.replaceSubrange(8..<16, with: $0) }
    }
}

private func isChannel(_ descriptor: Int32) -> Bool {
    var (type, length): (Int32, socklen_t) = (0, 4)
    return getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == Int32(SOCK_SEQPACKET.rawValue)
}

/// Child: sends something, and stays.
private func forge(_ bytes: [UInt8], _ text: String = "", _ descriptors: [Int32] = []) throws -> Never {
    let channel = entries(of: "/proc/self/fd").compactMap(Int32.init).first { isChannel($0) } ?? -1
    var (head, text, descriptors) = (bytes, Array(text.utf8), descriptors)
    let code = head.withUnsafeMutableBytes { head in
        text.withUnsafeMutableBytes { text in
            descriptors.withUnsafeMutableBufferPointer {
                var message = forkcore_message(
                    head: head.baseAddress, head_size: head.count, bytes: text.baseAddress, count: text.count,
                    descriptors: $0.baseAddress, descriptor_count: $0.count)
                return forkcore_message_send(channel, &message)
            }
        }
    }
    guard code == 0 else { throw Failure("not sent: \(Errno(rawValue: code))") }
    while true { pause() }
}

private let attacks: [(name: String, attack: @Sendable () throws -> Never)] = [
    ("garbage", { try forge([1, 2, 3, 4, 5]) }),
    ("nothing", { try forge([]) }),
    ("noise", { try forge([UInt8](repeating: 0xff, count: 20_000)) }),
    ("unknown kind", { try forge(Forged(99).bytes) }),
    ("request", { try forge(Forged(0).bytes) }),
    ("no file", { try forge(Forged(Forged.reply, isInFile: true, count: 5).bytes) }),
    ("huge", { try forge(Forged(Forged.reply, isInFile: true, count: .max).bytes, "", [memoryFile(5)]) }),
    ("huge file", { try forge(Forged(Forged.reply, isInFile: true, count: 1 << 40).bytes, "", [memoryFile(1 << 40)]) }),
    ("short file", { try forge(Forged(Forged.reply, isInFile: true, count: 6).bytes, "", [memoryFile(5)]) }),
    ("pipe", { try forge(Forged(Forged.reply, isInFile: true, count: 5).bytes, "", [try Channel().ends.read]) }),
    ("device", { try forge(Forged(Forged.reply, isInFile: true, count: 5).bytes, "", [open("/dev/zero", O_RDONLY)]) }),
    (
        "unreadable",
        {
            let file = open("/proc/self/fd/\(memoryFile(5))", O_WRONLY)
            try forge(Forged(Forged.reply, isInFile: true, count: 5).bytes, "", [file])
        }
    ),
    ("pipes with garbage", { try forge([1], "", Array(repeating: try Channel().ends.read, count: 5)) }),
    ("pipes with noise", { try forge(Forged(99).bytes, "", Array(repeating: try Channel().ends.read, count: 5)) }),
]

private func hostileChild() throws {
    let zygote = try startZygote(maxChildren: 1, maxReplyBytes: 1 << 30) { handlers in
        for (name, attack) in attacks { handlers.answer(name) { _ in try attack() } }
        handlers.answer("forged") { _ in try forge(Forged(Forged.reply).bytes, "like the zygote's own") }
        handlers.answer("many descriptors") { _ in
            try forge(Forged(Forged.reply).bytes, "", Array(repeating: 2, count: Int(FORKCORE_DESCRIPTORS)))
        }
    }
    let pid = zygote.processID!
    let before = openDescriptors()
    try expect(text(try zygote.runAndWait("forged")) == "like the zygote's own", "this test forges badly")
    for (name, _) in attacks {
        let error = try failure { _ = try zygote.runAndWait(name) }
        guard case .invalid = error else { throw Failure("\(name): \(error)") }
        try expect(openDescriptors() == before, "\(name): descriptors are left")
        try zygote.expectEcho()
    }
    // More than this process has room for.
    let many = try failure { _ = try zygote.runAndWait("many descriptors") }
    try expect(many == .system(call: "recvmsg", .tooManyOpenFiles), "\(many)")
    try expect(openDescriptors() == before, "descriptors are left")
    try zygote.expectEcho()
    try expect(zygote.processID == pid, "it is another zygote")
    try zygote.finish()
}

/// Numbers and texts that nobody counted or wrote: they are what they are, and nothing is computed from them that cannot be.
private func hostileNumbers() throws {
    let kinds = [Forged.reply, Forged.threw, Forged.limitRefused, Forged.notForked, Forged.ended]
    let events = Told()
    let zygote = try startZygote(told: events) { handlers in
        handlers.answer("numbers") { request in
            var forged = Forged(request.bytes[0], rest: request.bytes[1])
            forged.bytes[1] = 0
            try forge(forged.bytes, request.bytes[2] == 0 ? "" : "\u{0}\u{0}\n\u{1b}[2J")
        }
    }
    for kind in kinds {
        for (rest, texts) in [(0x7f, 0), (0x80, 1), (0xff, 0)] as [(UInt8, UInt8)] {
            do {
                _ = try zygote.runAndWait("numbers", [kind, rest, texts])
                try expect(kind == Forged.reply, "\(kind) was taken for an answer")
            } catch let error as ZygoteError {
                try expect(kind != Forged.reply && !"\(error)".isEmpty, "\(kind): \(error)")
            }
            _ = "\(zygote.statistics)"
        }
    }
    try zygote.expectEcho()
    try zygote.finish()
    try expect(events.all.map(\.description).contains { $0.contains("answered") }, "nothing was told")
}
