// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CForkCore
import Forking
import SystemPackage

struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows what the processes of a server do that was given --control.",
        discussion: """
            A line for each worker or child: what it does (STATE), for how long, how many requests it has begun, its age, \
            its memory (its share of it, PSS; - where that is not for you to see), and whom it serves, or served last; and, \
            where any has started others, how many there are of those (STARTED).
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
        // What was asked for, and so waits for whoever reads it.
        do { try FileDescriptor.standardOutput.writeAll(Array((text + "\n").utf8)) } catch {
            throw .system(call: "write", error as? Errno ?? .ioError)
        }
    }

    /// What a process has started, and that in turn. The asker looks: the server has other things to do.
    private static func descendants(of pid: ProcessID) -> [ProcessID] {
        withUnsafeTemporaryAllocation(of: ProcessID.self, capacity: Int(FORKCORE_DESCENDANTS)) { pids in
            var count = 0
            _ = forkcore_descendants(pid, 0, 0, pids.baseAddress, pids.count, &count)
            return Array(pids.prefix(count))
        }
    }
}

/// Where a server tells of itself: a path, as such or as the address of a Unix socket.
enum ControlPath {
    static func address(_ text: String) throws(ForkingError) -> SocketAddress {
        text.hasPrefix("unix:")
            ? try SocketAddress(argument: text) : try SocketAddress(unix: Arguments.bytes(of: text))
    }

    static func read(_ address: SocketAddress) throws(ForkingError) -> ServerStatus {
        do throws(ForkingError) {
            return try ServerStatus.read(from: address)
        } catch let error where error.errno == .noSuchFileOrDirectory {
            throw .invalid("there is no socket \(address): is it what the server's --control says?")
        } catch let error where error.errno == .connectionRefused {
            throw .invalid("nobody listens on \(address): its server has ended, or it is no socket")
        } catch let error where error.code == .timedOut {
            throw .invalid("no answer on \(address): it is no control socket, or its server is stuck")
        }
    }
}

/// SIGUSR1.
func printTable(_ status: ServerStatus) {
    for line in StatusTable.text(status).split(separator: "\n") { tell(String(line)) }
}
