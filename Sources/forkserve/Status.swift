// SPDX-License-Identifier: Apache-2.0
//
// The process of `forkserve status`, which asks a server over its control socket.

import ArgumentParser
import CForkCore
import Forking
import SystemPackage

struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows what the processes of a server are doing. Start the server with --control.",
        discussion: """
            Prints one line per worker or child, with these columns. STATE: what it does. FOR: how long it has been \
            in that state. AGE: the time since it was started. MEMORY: its memory (PSS, which counts its share of \
            shared pages), or - if you may not read it. PEER: the client that it serves, or has served last. STARTED: \
            how many processes it has started that still live; only shown if there are any. For workers also NUMBER, \
            which a later worker may reuse, and REQUESTS: how many requests it has begun.

            With --per-source, --rate or --penalty follow the worst sources of clients, at most 20: how many children \
            each has, how long its penalties last, and whether it is refused now.
            """)

    @Flag(help: "Print one JSON object instead of a table.") var json = false
    @Argument(help: ArgumentHelp("The server's control socket.", valueName: "path")) var path: String

    func validate() throws {
        do throws(ForkingError) {
            _ = try ControlPath.address(path)
        } catch {
            throw ValidationError(error.description)
        }
    }

    func run() throws {
        let status = reportingErrors(show)
        guard status == 0 else { throw ExitCode(status) }
    }

    private func show() throws(ForkingError) {
        let status = try ControlPath.read(try ControlPath.address(path))
        let memory = status.processes.map { WorkerMemory.proportionalSize(of: $0.pid) }
        let started = status.processes.map { Self.descendants(of: $0.pid) }
        let text =
            json
            ? StatusJSON.text(status, memory: memory, started: started)
            : StatusTable.text(status, memory: memory, started: started)
        // Unlike log lines this is the output of the command, so it waits for its reader.
        do { try FileDescriptor.standardOutput.writeAll(Array((text + "\n").utf8)) } catch {
            throw .system(call: "write", error as? Errno ?? .ioError)
        }
    }

    /// The descendants of a process. This process looks them up, because the server must not spend time on that.
    private static func descendants(of pid: ProcessID) -> [ProcessID] {
        withUnsafeTemporaryAllocation(of: ProcessID.self, capacity: Int(FORKCORE_DESCENDANTS)) { pids in
            var count = 0
            _ = forkcore_descendants(pid, 0, 0, pids.baseAddress, pids.count, &count)
            return Array(pids.prefix(count))
        }
    }
}

/// A server's control socket: a path, or the address of a Unix socket.
enum ControlPath {
    static func address(_ text: String) throws(ForkingError) -> SocketAddress {
        text.hasPrefix("unix:")
            ? try SocketAddress(argument: text) : try SocketAddress(unix: Arguments.bytes(of: text))
    }

    static func read(_ address: SocketAddress) throws(ForkingError) -> ServerStatus {
        do throws(ForkingError) {
            return try ServerStatus.read(from: address)
        } catch let error where error.errno == .noSuchFileOrDirectory {
            throw .invalid("there is no socket \(address): check the path in the server's --control")
        } catch let error where error.errno == .connectionRefused {
            throw .invalid("no process listens on \(address): the server has ended, or it is not a socket")
        } catch let error where error.code == .timedOut {
            throw .invalid("no answer on \(address): it is not a control socket, or the server is stuck")
        }
    }
}

/// Parent: prints the table on stderr, for SIGUSR1.
func printTable(_ status: ServerStatus) {
    for line in StatusTable.text(status).split(separator: "\n") { tell(String(line)) }
}
