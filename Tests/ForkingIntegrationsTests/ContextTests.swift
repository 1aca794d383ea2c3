// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("Trace context and log metadata of a zygote's calls")
struct ContextTests {
    private func host(_ warmChildren: Int) throws -> Host {
        let host = try Host(["trace", "\(warmChildren)"])
        try host.expectEnd()
        _ = try host.place(of: "over")
        try expect(!host.lines.contains { $0.hasPrefix("failed") }, host.lines.joined(separator: "\n"))
        return host
    }

    /// The line of a span, of which there must be one.
    private func span(_ name: String, _ host: Host) throws -> String {
        let lines = host.lines.filter { $0.hasPrefix("span \(name) ") }
        try expect(lines.count == 1, "\(lines.count) spans '\(name)':\n\(host.lines.joined(separator: "\n"))")
        return lines[0]
    }

    private func log(_ call: String, _ host: Host) throws -> String {
        host.lines[try host.place(of: "info handled |", "call=\(call) ")]
    }

    @Test("a child's span has its caller's as parent, and its log lines have that trace", arguments: [0, 4])
    func spans(warmChildren: Int) throws {
        let host = try host(warmChildren)
        for (caller, child) in [
            ("sync", "sync"), ("async", "async"), ("waiting", "waited"), ("hand-off", "served"),
        ] + (0..<20).map({ ("\($0)", "\($0)") }) {
            let (parent, span) = (try span("host-\(caller)", host), try span("child-\(child)", host))
            #expect(try value("parent", in: span) == value("id", in: parent))
            #expect(try value("trace", in: span) == value("trace", in: parent))
            #expect(try pid(in: span) != pid(in: parent) && pid(in: parent) == host.running.pid)
            #expect(try value("trace", in: log("child-\(child)", host)) == value("trace", in: parent))
        }
        #expect(try value("parent", in: span("child-async-task", host)) == value("id", in: span("child-async", host)))
    }

    @Test("a call outside of a span carries none, though the zygote was started in one", arguments: [0, 4])
    func none(warmChildren: Int) throws {
        let host = try host(warmChildren)
        for name in ["child-alone", "child-logged"] {
            #expect(try value("parent", in: span(name, host)) == "none")
        }
        _ = try host.place(of: "alone: nothing is bound, something of its own")
        _ = try host.place(of: "logged: nothing is bound, something of its own")
    }

    @Test("the hooks that were there before surround each handler: one lets the tracer export its spans")
    func flushed() throws {
        let host = try host(0)
        #expect(try value("parent", in: span("later-child", host)) == value("id", in: span("host-later", host)))
    }

    @Test("the caller's log metadata is in the child's logger, and no other caller's", arguments: [0, 4])
    func metadata(warmChildren: Int) throws {
        let host = try host(warmChildren)
        for name in ["child-async", "child-logged"] {
            let line = try log(name, host)
            #expect(try value("request", in: line) == "42")
            #expect(line.contains("list=[\"a\", \"b\"]"))
            // What the child's log handler has itself stays.
            #expect(try value("pid", in: line) == value("pid", in: span(name, host)))
        }
        for number in 0..<20 { #expect(try value("request", in: log("child-\(number)", host)) == "\(number)") }
        for name in ["child-sync", "child-waited", "child-served", "child-alone"] {
            #expect(try !log(name, host).contains("request="))
        }
    }
}
