// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("Real programs under forkserve exec")
struct ServiceTests {
    /// No configuration but this: the user's own must not matter.
    private static let git = [
        "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
    ]

    private func makeRepository(_ path: String, commits: Int) throws {
        try run("git", ["init", "-q", "-b", "main", path], environment: Self.git)
        var stream = ""
        for number in 1...commits {
            let text = "file \(number)\n" + String(repeating: "line \(number * 7919)\n", count: number % 50)
            stream += "commit refs/heads/main\ncommitter A <a@example.org> \(1_700_000_000 + number) +0000\n"
            stream += "data 2\nm\nM 100644 inline d\(number % 10)/f\(number)\ndata \(text.utf8.count)\n\(text)\n"
        }
        let file = path + "/.git/stream"
        try writeFile(file, Array(stream.utf8))
        try run("sh", ["-c", "git -C '\(path)' fast-import --quiet < '\(file)'"], environment: Self.git)
    }

    @Test("git daemon: 60 clones at once, never more than 40 children", .needs("git", package: "git"))
    func gitDaemon() throws {
        let directory = try TemporaryDirectory()
        let base = directory.path
        try makeRepository(base + "/repository", commits: 300)
        let daemon = ["git", "daemon", "--inetd", "--export-all", "--base-path=\(base)", base]
        let (server, address) = try forkserve(
            ["exec", "127.0.0.1:0", "--max-children", "40", "--"] + daemon, environment: Self.git, deadline: 240)
        // 45 that ask for nothing, so that the limit is reached for sure.
        var idlers = try (0..<45).map { _ in try Client(address) }
        try eventually("never 40 children") { children(of: server.pid).count >= 40 }
        let clones = try (0..<60).map { number in
            try Running(
                "git", ["clone", "-q", "git://\(address)/repository", "\(base)/clone\(number)"],
                environment: Self.git, deadline: 200)
        }
        var most = 0
        func sample() { most = max(most, children(of: server.pid).count) }
        for _ in 0..<20 { sample() }
        #expect(idlers.count == 45)
        idlers = []
        try eventually(within: 180, "clones hang") {
            sample()
            return clones.allSatisfy { Process($0.pid)?.isZombie ?? true }
        }
        for clone in clones { #expect(try clone.wait() == 0, "\(clone.errors)") }
        #expect(most == 40)
        try eventually("children are left: \(children(of: server.pid))") { children(of: server.pid).isEmpty }
        let head = try run("git", ["-C", base + "/repository", "rev-parse", "main"], environment: Self.git)
        for number in 0..<60 {
            let clone = "\(base)/clone\(number)"
            #expect(try run("git", ["-C", clone, "rev-parse", "HEAD"], environment: Self.git) == head)
            try run("git", ["-C", clone, "fsck", "--strict", "--no-progress"], environment: Self.git)
        }
        try stop(server)
    }

    /// Some megabytes of files, one of them empty.
    private func makeTree(_ path: String) throws {
        mkdir(path, 0o755)
        mkdir(path + "/deep", 0o755)
        try writeFile(path + "/empty", [])
        for number in 1...6 {
            let folder = number % 2 == 0 ? path : path + "/deep"
            try writeFile("\(folder)/file\(number).bin", someBytes(number * 150_001, seed: UInt64(number)))
        }
    }

    @Test("rsync --daemon: a tree, byte for byte, there and back", .needs("rsync", package: "rsync"))
    func rsync() throws {
        let directory = try TemporaryDirectory()
        let (tree, copy, back) = (directory.path + "/tree", directory.path + "/copy", directory.path + "/back")
        try makeTree(tree)
        mkdir(back, 0o755)
        let configuration = directory.path + "/rsyncd.conf"
        let text = """
            use chroot = no
            reverse lookup = no
            uid = \(getuid())
            gid = \(getgid())
            log file = /dev/null
            [tree]
            path = \(tree)
            [back]
            path = \(back)
            read only = no

            """
        try writeFile(configuration, Array(text.utf8))
        let (server, address) = try forkserve(
            ["exec", "127.0.0.1:0", "--", "rsync", "--daemon", "--config=\(configuration)"])
        try run("rsync", ["-a", "rsync://\(address)/tree/", copy])
        try run("diff", ["-r", tree, copy])
        try run("rsync", ["-a", copy + "/", "rsync://\(address)/back/"])
        try run("diff", ["-r", tree, back])
        try stop(server)
    }

    @Test(
        "micro-httpd: files by curl, byte for byte, several at once", .needs("micro-httpd", package: "micro-httpd"),
        .needs("curl", package: "curl"))
    func httpd() throws {
        let directory = try TemporaryDirectory()
        let (tree, copy) = (directory.path + "/tree", directory.path + "/copy")
        try makeTree(tree)
        mkdir(copy, 0o755)
        let program = fileExists("/usr/sbin/micro-httpd") ? "/usr/sbin/micro-httpd" : "micro-httpd"
        let (server, address) = try forkserve(["exec", "127.0.0.1:0", "--", program, tree])
        let names = (1...6).map { $0 % 2 == 0 ? "file\($0).bin" : "deep/file\($0).bin" }
        mkdir(copy + "/deep", 0o755)
        let downloads = try names.map {
            try Running("curl", ["-sSf", "--noproxy", "*", "-o", "\(copy)/\($0)", "http://\(address)/\($0)"])
        }
        for download in downloads { #expect(try download.wait() == 0, "\(download.errors)") }
        try writeFile(copy + "/empty", [])
        try run("diff", ["-r", tree, copy])
        try stop(server)
    }
}
