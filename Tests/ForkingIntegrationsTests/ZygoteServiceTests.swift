// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("A zygote among services")
struct ZygoteServiceTests {
    @Test("SIGTERM to its host lets the call be answered that is in flight, and takes no other")
    func drains() throws {
        let directory = try TemporaryDirectory()
        let fifo = directory.path + "/fifo"
        #expect(mkfifo(fifo, 0o600) == 0)
        let host = try Host(["zygote", "&fifo:\(fifo)"])
        try host.expect("ready")
        host.running.send(SIGTERM)
        // The services are shut down in reverse order, and the zygote is waited for.
        try host.expect("calls shut down")
        try host.expect("no more calls")
        #expect(!host.lines.contains { $0.contains("zygote ended") })
        let end = open(fifo, O_WRONLY)  // which waits for the child that reads
        close(end)
        try host.expectEnd()
        _ = try host.place(of: "fifo:\(fifo) answered opened")
        #expect(try host.place(of: "debug call answered", "handler=fifo") < host.place(of: "info zygote ended"))
        _ = try host.place(of: "over")
    }

    @Test("what takes longer to drain than it may is killed")
    func drainDeadline() throws {
        let host = try Host(["zygote", "--deadline", "200", "&hang"])
        try host.expect("ready")
        let begun = now()
        host.running.send(SIGTERM)
        try host.expectEnd()
        #expect((0.2..<20).contains(now() - begun))
        _ = try host.place(of: "hang failed")
    }

    @Test("cancelled, it kills at once")
    func cancelled() throws {
        let host = try Host(["zygote", "&hang"])
        try host.expect("ready")
        let begun = now()
        host.running.send(SIGINT)
        try host.expectEnd()
        #expect(now() - begun < 20)
        _ = try host.place(of: "hang failed")
        #expect(!host.lines.contains { $0.hasPrefix("group threw") })
    }

    @Test("killed while idle it comes back without a call, be it at once or after a pause")
    func comesBack() throws {
        let host = try Host(["zygote"])
        var zygote = try pid(in: try host.expect("info zygote started"))
        try host.expect("ready")
        for _ in 0..<4 {
            kill(zygote, SIGKILL)
            let lost = try host.expect("", "zygote lost")
            #expect(try pid(in: lost) == zygote)
            #expect(lost.contains("signal=SIGKILL"))
            zygote = try pid(in: try host.expect("info zygote started"))
        }
        host.running.send(SIGTERM)
        try host.expectEnd()
        #expect(host.value("forking_zygote_starts_total{}") == 5)
        #expect(host.value("forking_zygote_losses_total{cause=SIGKILL}") == 4)
    }

    @Test("it still does after other threads' calls have found it ended first")
    func comesBackAfterCalls() throws {
        let host = try Host(["zygote", "until-lost"])
        var zygote = try pid(in: try host.expect("info zygote started"))
        for losses in 1...4 {
            kill(zygote, SIGKILL)
            try host.expect("", "zygote lost")
            if losses == 3 { try host.expect("ready") }  // from now on nobody calls
            zygote = try pid(in: try host.expect("info zygote started"))
        }
        host.running.send(SIGTERM)
        try host.expectEnd()
    }

    @Test("stopped in the pause before its next start, it ends at once")
    func stoppedInPause() throws {
        let host = try Host(["zygote"])
        var zygote = try pid(in: try host.expect("info zygote started"))
        try host.expect("ready")
        while true {
            kill(zygote, SIGKILL)
            let lost = try host.expect("", "zygote lost")
            if try Double(value("pause_ms", in: lost))! > 1000 { break }
            zygote = try pid(in: try host.expect("info zygote started"))
        }
        let begun = now()
        host.running.send(SIGTERM)
        try host.expectEnd()
        #expect(now() - begun < 20)
    }
}

@Suite("A zygote's events")
struct ZygoteEventTests {
    @Test("isolates are logged and counted, with their ends and their calls")
    func isolates() throws {
        let host = try Host(["zygote", "isolate"])
        try host.expect("ready")
        host.running.send(SIGTERM)
        try host.expectEnd()
        let lines = host.lines
        #expect(
            lines.filter { $0.hasPrefix("isolate answered") }
                == [1, nil, 1].map { (count: Int?) in
                    "isolate answered " + (count.map { "\($0)" } ?? "nothing")
                })
        let number = try value("isolate", in: lines[try host.place(of: "info isolate started", "handler=keep")])
        let crashed = lines[try host.place(of: "warning isolate ended, and is started again", "reason=ended")]
        #expect(try value("isolate", in: crashed) == number && value("calls", in: crashed) == "2")
        #expect(try ["SIGILL", "SIGTRAP"].contains(value("signal", in: crashed)))
        let closed = lines[try host.place(of: "info isolate ended", "reason=closed")]
        #expect(closed.contains("exit_status=0"))
        let call = lines[try host.place(of: "debug call answered", "handler=keep")]
        #expect(try value("isolate", in: call) == number && Double(value("waited_ms", in: call))! >= 0)
        #expect(host.value("forking_zygote_isolates{}") == 0 && host.value("forking_zygote_children{}") == 0)
        #expect(host.value("forking_zygote_isolate_starts_total{handler=keep}") == 2)
        #expect(host.value("forking_zygote_isolate_ends_total{handler=keep,reason=ended}") == 1)
        #expect(host.value("forking_zygote_isolate_ends_total{handler=keep,reason=closed}") == 1)
        #expect(host.value("forking_zygote_calls_total{handler=keep,outcome=answered}") == 2)
    }

    @Test("calls are logged with what became of them, at a level that fits")
    func logged() throws {
        let host = try Host(["zygote", "echo:hi", "throw", "trap"])
        try host.expect("ready")
        host.running.send(SIGTERM)
        try host.expectEnd()
        let lines = host.lines
        let answered = lines[try host.place(of: "debug call answered", "handler=echo")]
        for key in ["duration_ms", "waited_ms", "fork_us", "cpu_ms", "max_rss_kib"] {
            #expect(try Double(value(key, in: answered))! >= 0)
        }
        // The text is the child's, and cannot end the line.
        let threw = lines[try host.place(of: "debug call failed", "handler=throw")]
        #expect(threw.contains("failure=threw") && threw.contains("two\\x0alines"))
        let trapped = lines[try host.place(of: "warning call failed", "handler=trap")]
        #expect(["SIGILL", "SIGTRAP"].contains(try value("signal", in: trapped)))
        #expect(try value("failure", in: trapped) == value("signal", in: trapped))
        let started = lines[try host.place(of: "info zygote started")]
        #expect(try pid(in: started) == pid(in: lines[try host.place(of: "info zygote ended")]))
    }

    @Test("calls, children, forks and reaps are measured, by metrics that are made once")
    func measured() throws {
        let host = try Host(["zygote", "echo", "echo", "throw", "&hang", "&hang", "echo"])
        try host.expect("ready")
        #expect(host.value("forking_zygote_children{}") == 2)
        host.running.send(SIGINT)
        try host.expectEnd()
        func total(_ name: String, _ labels: String) -> Int? { host.value("forking_zygote_\(name)_total{\(labels)}") }
        #expect(total("calls", "handler=echo,outcome=answered") == 2)
        #expect(total("calls", "handler=throw,outcome=threw") == 1)
        #expect(total("refusals", "handler=echo") == 1)
        #expect(total("starts", "") == 1)
        #expect(host.value("forking_zygote_children{}") == 0)
        let forks = try #require(total("forks", "")), reaps = total("reaps", "") ?? 0
        #expect((3...5).contains(forks) && reaps <= forks)
        for timer in [
            "call_duration{handler=echo}", "call_duration{handler=throw}", "wait_duration{}", "fork_duration{}",
        ] {
            #expect(try #require(host.value("forking_zygote_\(timer)")) > 0)
        }
        #expect(host.madeTwice == [])
    }
}
