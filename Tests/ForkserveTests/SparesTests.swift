// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve echo --spares")
struct SparesTests {
    private func served(_ spares: Int, _ options: [String] = []) throws -> (Running, address: String) {
        let (server, address) = try forkserve(["echo", "--spares", "\(spares)"] + options + ["127.0.0.1:0"])
        try eventually("not \(spares) spares") { children(of: server.pid).count == spares }
        return (server, address)
    }

    @Test("they are there before any client; a client gets the one that has waited longest, and others follow")
    func passedOn() throws {
        let (server, address) = try served(4)
        let spares = children(of: server.pid)
        server.send(SIGUSR1)
        try server.waitForError("children: 4 of 40\n")
        for spare in spares { try server.waitForError("\(spare)  spare  ") }
        let clients = try (0..<4).map { _ in try Client(address) }
        for (number, client) in clients.enumerated() { try client.echo("client \(number)") }
        // A refill begins when half are used up: there are three or four again, as the clients came.
        try eventually("no new spares") { (7...8).contains(children(of: server.pid).count) }
        server.send(SIGUSR1)
        // Nobody orders the numbers of processes, so not which has which, but that they have them all.
        for client in clients { try server.waitForError("  127.0.0.1:\(client.port)\n") }
        for spare in spares { try server.waitForError("\(spare)  serving  ") }
        for client in clients { client.finishSending() }
        try eventually("clients' children are left") { (3...4).contains(children(of: server.pid).count) }
        #expect(Set(children(of: server.pid)).isDisjoint(with: spares))
        try stop(server)
    }

    @Test("500 clients in a row are served, and leave as many spares and descriptors as there were", arguments: [1, 4])
    func many(spares: Int) throws {
        let (server, address) = try served(spares)
        let before = openDescriptors(of: server.pid).count
        for number in 0..<500 {
            let client = try Client(address)
            try client.echo("client \(number)")
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        // Between refills more than half are there.
        try eventually("clients' children are left") {
            (spares / 2 + 1...spares).contains(children(of: server.pid).count)
        }
        try eventually("descriptors are left") { openDescriptors(of: server.pid).count <= before }
        try stop(server)
    }

    @Test("60 clients at once, of whom 20 are served at a time, are all served")
    func burst() throws {
        let (server, address) = try served(8, ["--max-children", "20"])
        let clients = try (0..<60).map { try Client(address).sending("client \($0)\n") }
        try eventually("never 20 children") { children(of: server.pid).count == 20 }
        for (number, client) in clients.enumerated() {
            #expect(try client.receive() == "client \(number)\n")
            #expect(children(of: server.pid).count <= 20)
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        try eventually("not 8 spares") { (5...8).contains(children(of: server.pid).count) }
        try stop(server)
    }

    @Test("more spares than there can be descriptors for are refused in one line, as many as there can be are forked")
    func descriptorLimit() throws {
        let script = "\(closingInherited); ulimit -n 64; exec '\(forkserveProgram)' echo --max-children 60 --spares"
        let (status, output, errors) = try outcome(["-c", "\(script) 49 127.0.0.1:0"], program: "bash")
        #expect(status == 71 && output == "")
        for text in ["forkserve: --spares is 49, ", "the 64 allowed (ulimit -n)", "enough for 48"] {
            #expect(errors.contains(text), "\(errors)")
        }
        #expect(errors.filter { $0 == "\n" }.count == 1, "\(errors)")
        let (server, address) = try forkserve(shell: "exec bash -c \"$1\"", ["\(script) 48 127.0.0.1:0"])
        try eventually("not 48 spares") { children(of: server.pid).count == 48 }
        let clients = try (0..<60).map { try Client(address).sending("client \($0)\n") }
        for (number, client) in clients.enumerated() { #expect(try client.receive() == "client \(number)\n") }
        for client in clients { client.finishSending() }
        try stop(server)
        #expect(server.errors == "")
    }

    @Test("as many spares as children: each serves, and the next client waits")
    func noneBeside() throws {
        let (server, address) = try served(2, ["--max-children", "2"])
        let spares = children(of: server.pid)
        let clients = try (0..<3).map { try Client(address).sending("client \($0)\n") }
        #expect(try clients[0].receive() == "client 0\n")
        #expect(try clients[1].receive() == "client 1\n")
        #expect(children(of: server.pid) == spares && !clients[2].hasAnswer)
        clients[0].finishSending()
        #expect(try clients[2].receive() == "client 2\n")
        for client in clients { client.finishSending() }
        try stop(server)
    }
}

extension Client {
    fileprivate func sending(_ text: String) throws -> Client {
        try send(text)
        return self
    }
}
