// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve in the long run")
struct EnduranceTests {
    @Test("idle for five seconds with zero system calls", .needsTracing)
    func idle() throws {
        let directory = try TemporaryDirectory()
        let trace = directory.path + "/trace"
        let (server, address) = try forkserve(["echo", "127.0.0.1:0"])
        for number in 0..<5 { try Client(address).echo("\(number)") }
        try eventually("children are left") { children(of: server.pid).isEmpty }
        // One that idles too.
        let client = try Client(address)
        try client.echo("hello")
        sleep(2)  // what follows an exit has an end; it is silence after it that is wanted
        let strace = try Running("strace", ["-o", trace, "-p", "\(server.pid)"])
        try strace.waitForError("attached")
        sleep(5)
        let silence = contents(of: trace) ?? ""
        // To see that the tracer sees.
        try Client(address).echo("again")
        try eventually("the tracer saw nothing") { contents(of: trace)?.contains("accept") == true }
        strace.send(SIGINT)
        try strace.wait()
        // The call it was waiting in when the tracer came is not finished: no line has ended.
        #expect(!silence.contains("\n") && (silence.isEmpty || silence.contains("poll")), "\(silence)")
        try stop(server)
    }

    private struct State: Equatable, CustomStringConvertible {
        /// Of no file: what is mapped of those comes and goes, as the linker looks for a function that is called for
        /// the first time.
        let resident: Int
        let descriptors: Int
        var description: String { "\(resident) KiB resident, \(descriptors) descriptors" }

        init(_ pid: pid_t) throws {
            let line = contents(of: "/proc/\(pid)/status")?.split(separator: "\n").first { $0.hasPrefix("RssAnon:") }
            guard let number = line?.split(whereSeparator: { " \t".contains($0) }).dropFirst().first else {
                throw Failure("no RssAnon of \(pid)")
            }
            resident = Int(number)!
            descriptors = openDescriptors(of: pid).count
        }
    }

    /// FORKING_SOAK=100000 makes it as many connections.
    @Test("thousands of connections in a row leave nothing behind in the parent")
    func soak() throws {
        let count = getenv("FORKING_SOAK").flatMap { Int(String(cString: $0)) } ?? 5000
        let (server, address) = try forkserve(["echo", "127.0.0.1:0"], deadline: 60 + Double(count) / 100)
        func serve(_ clients: Int) throws {
            for number in 0..<clients {
                let client = try Client(address)
                try client.echo("client \(number)")
                client.finishSending()
                try expect(try client.receive() == "", "more than was sent")
            }
            try eventually("children are left") { children(of: server.pid).isEmpty }
        }
        try serve(500)
        let before = try State(server.pid)
        let started = now()
        try serve(count)
        let after = try State(server.pid)
        print("soak: \(count) connections in \(Int(now() - started)) s; before: \(before); after: \(after)")
        #expect(after.descriptors == before.descriptors)
        #expect(after.resident <= before.resident + 512)
        server.send(SIGUSR1)
        try server.waitForError("children: 0 of 40\n")
        try stop(server)
        #expect(server.errors.hasSuffix("children: 0 of 40\n") && server.errors.filter { $0 == "\n" }.count == 1)
    }
}
