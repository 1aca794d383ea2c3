// SPDX-License-Identifier: Apache-2.0
//
// Who is measured, and how each is started: with all its limits lifted, a backlog of 1024 where it can be set, and
// without look-ups of names.

import ArgumentParser
import Glibc

/// A server that `forkbench serve` measures.
enum Peer: String, CaseIterable {
    case forkserveDynamic = "forkserve-dynamic"
    case forkserveStatic = "forkserve-static"
    case cDynamic = "c-dynamic"
    case cStatic = "c-static"
    case python
    case perl
    case forkserveExec = "forkserve-exec"
    case tcpserver
    case tcpsvd
    case xinetd
    case socat
    case ceiling

    /// Ready within milliseconds, with no idle children to wait for.
    static let quick: [Peer] = [.forkserveDynamic, .forkserveStatic, .cDynamic, .cStatic, .ceiling]

    static func named(_ list: String) throws -> [Peer] {
        try unique(words(list)).map { word in
            guard let peer = Peer(rawValue: word) else {
                let names = allCases.map(\.rawValue).joined(separator: ", ")
                throw ValidationError("'\(word)' is no peer; the peers are \(names)")
            }
            return peer
        }
    }

    /// Not a forking server: it has no children that could be looked at.
    var forks: Bool { self != .ceiling }

    /// Whether the server itself has a descriptor open for each of its children.
    var hasDescriptorForEach: Bool { self == .forkserveExec || self == .ceiling }

    /// Memory that one more idle child takes, in KiB, the kernel's share included: a guess on the safe side, to tell
    /// before whether the machine has it.
    var childKiB: Int {
        switch self {
        case .python: 4000
        case .perl: 3000
        case .ceiling: 20
        default: 800
        }
    }
}

/// How a peer is started.
struct ServerCommand {
    struct Place {
        /// How many clients it must be able to serve at once.
        let limit: Int
        /// The port that was chosen for it.
        let port: UInt16
    }

    /// It lets the kernel choose a port, and says on stdout which.
    let announcesPort: Bool
    let arguments: (Place) throws -> [String]
}

extension Peer {
    /// - Throws: `Missing`, which says what would have to be installed or built.
    func prepared(in workshop: Workshop) throws -> ServerCommand {
        switch self {
        case .forkserveDynamic: try .forkserveEcho(workshop.forkserve())
        case .forkserveStatic: try .forkserveEcho(workshop.staticForkserve())
        case .cDynamic: try .alone(workshop.compiled("forking.c", as: "c-dynamic"))
        case .cStatic: try .alone(workshop.compiled("forking.c", as: "c-static", ["-static"]))
        case .ceiling: try .alone(workshop.compiled("ceiling.c", as: "ceiling"))
        case .python:
            try .script(workshop.installed(["/usr/bin/python3", "python3"], by: "python3"), "forking.py")(workshop)
        case .perl: try .script(workshop.perlWithNetServer(), "forking.pl")(workshop)
        case .forkserveExec: try .forkserveExec(workshop.staticForkserve(), workshop.echo())
        case .tcpserver: try .tcpserver(workshop.installed(["tcpserver"], by: "ucspi-tcp"), workshop.echo())
        case .tcpsvd: try .tcpsvd(workshop.installed(["tcpsvd"], by: "ipsvd"), workshop.echo())
        case .xinetd: try .xinetd(workshop.installed(["/usr/sbin/xinetd", "xinetd"], by: "xinetd"), workshop)
        case .socat: try .socat(workshop.installed(["socat"], by: "socat"), workshop.echo())
        }
    }
}

extension ServerCommand {
    private static let backlog = "1024"

    fileprivate static func forkserveEcho(_ program: String) -> ServerCommand {
        ServerCommand(announcesPort: true) { place in
            [program, "echo", "--max-children", "\(place.limit)", "--backlog", backlog, "127.0.0.1:0"]
        }
    }

    fileprivate static func forkserveExec(_ program: String, _ echo: String) -> ServerCommand {
        ServerCommand(announcesPort: true) { place in
            [program, "exec", "--max-children", "\(place.limit)", "--backlog", backlog, "127.0.0.1:0", "--", echo]
        }
    }

    fileprivate static func alone(_ program: String) -> ServerCommand {
        ServerCommand(announcesPort: true) { _ in [program] }
    }

    fileprivate static func script(_ interpreter: String, _ name: String) -> (Workshop) -> ServerCommand {
        { workshop in
            ServerCommand(announcesPort: true) { [interpreter, workshop.source(name), "\($0.limit)"] }
        }
    }

    fileprivate static func tcpserver(_ program: String, _ echo: String) -> ServerCommand {
        // -H -R -l0: no DNS, no ident. -1: says its port.
        ServerCommand(announcesPort: true) { place in
            [program, "-1qHRl0", "-c", "\(place.limit)", "-b", backlog, "127.0.0.1", "0", echo]
        }
    }

    fileprivate static func tcpsvd(_ program: String, _ echo: String) -> ServerCommand {
        // There is no limit per host unless one is asked for.
        ServerCommand(announcesPort: false) { place in
            [program, "-l0", "-c", "\(place.limit)", "-b", backlog, "127.0.0.1", "\(place.port)", echo]
        }
    }

    fileprivate static func socat(_ program: String, _ echo: String) -> ServerCommand {
        // nofork: the child that socat forks for a client becomes the program; without, it would stand between and
        // copy.
        ServerCommand(announcesPort: false) { place in
            let options = "bind=127.0.0.1,reuseaddr,fork,max-children=\(place.limit),backlog=\(backlog)"
            return [program, "TCP4-LISTEN:\(place.port),\(options)", "EXEC:\(echo),nofork"]
        }
    }

    fileprivate static func xinetd(_ program: String, _ workshop: Workshop) throws -> ServerCommand {
        let echo = try workshop.echo()
        return ServerCommand(announcesPort: false) { place in
            let file = try workshop.write(
                "xinetd.conf",
                """
                service forkbench
                {
                    type = UNLISTED
                    socket_type = stream
                    protocol = tcp
                    wait = no
                    user = \(userName())
                    bind = 127.0.0.1
                    port = \(place.port)
                    server = \(echo)
                    instances = UNLIMITED
                    per_source = UNLIMITED
                    cps = 1000000 1
                }

                """)
            return [program, "-dontfork", "-f", file, "-pidfile", workshop.path("xinetd.pid"), "-filelog", "/dev/null"]
        }
    }

    private static func userName() -> String {
        guard let user = getpwuid(geteuid()) else { return "root" }
        return String(cString: user.pointee.pw_name)
    }
}
