// SPDX-License-Identifier: Apache-2.0

import CForkbench
import Glibc

/// A server could not be started, or did not do what is measured.
struct ServerFailure: Error, CustomStringConvertible {
    let description: String
}

/// A peer that runs.
final class Server {
    let pid: pid_t
    let port: UInt16
    private let errors: MemoryFile
    private let output: Int32

    private static let startLimit = 20.0  // seconds

    init(_ command: ServerCommand, limit: Int) throws {
        var port: UInt16 = 0
        if !command.announcesPort {
            let code = forkbench_free_port(&port)
            guard code == 0 else { throw Shortage("bind", code) }
        }
        let arguments = try command.arguments(.init(limit: limit, port: port))
        var ends: [Int32] = [-1, -1]
        let code = forkbench_pipe(&ends)
        guard code == 0 else { throw Shortage("pipe", code) }
        output = ends[0]
        let errors = try MemoryFile()
        self.errors = errors
        // The server alone has that end then, so that its end is seen.
        let spawned = Result { try spawn(arguments, output: ends[1], errors: errors.descriptor) }
        close(ends[1])
        pid = try spawned.get()
        do {
            if command.announcesPort {
                port = try Self.announcedPort(on: output)
            } else {
                try Self.waitUntilListening(pid, port)
            }
        } catch let failure as ServerFailure {
            endProgram(pid)
            close(output)
            throw ServerFailure(description: "\(failure)\(errors.quoted)")
        } catch {
            endProgram(pid)
            close(output)
            throw error
        }
        // Last: an initializer that throws when all is set runs deinit, which would end what has been ended.
        self.port = port
    }

    deinit {
        endProgram(pid)
        close(output)
    }

    /// What it has printed on stderr, to be put behind a message.
    var complaint: String { errors.quoted }

    // MARK: Start

    /// The number with which its first line ends.
    private static func announcedPort(on output: Int32) throws -> UInt16 {
        let line = try firstLine(
            on: output, within: startLimit, late: "it does not say its port", ended: "it ended before it listened")
        let digits = line.reversed().prefix { $0.isNumber }.reversed()
        guard let port = UInt16(String(digits)) else {
            throw ServerFailure(description: "it said '\(line)' in place of its port")
        }
        return port
    }

    private static func waitUntilListening(_ pid: pid_t, _ port: UInt16) throws {
        let begun = nanoseconds()
        while !forkbench_is_listening(port) {
            try Interruption.sleep(milliseconds: 20)
            let state = ProcessStatus(pid)?.state
            guard state != nil, state != "Z" else { throw ServerFailure(description: "it ended before it listened") }
            guard seconds(since: begun) < startLimit else { throw ServerFailure(description: "it does not listen") }
        }
    }
}
