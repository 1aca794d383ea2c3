// SPDX-License-Identifier: Apache-2.0
//
// Who is measured, and how each is started: with as many workers, a backlog of 1024, no log of requests, nothing that
// ends a worker or a connection after so many requests, and the same answer: 200, `hello\n` with its length.

import ArgumentParser
import CForkbench
import Glibc

/// A server that `forkbench prefork` measures.
enum PreforkPeer: String, CaseIterable {
    case forkserve = "forkserve-prefork"
    case forkserveStatic = "forkserve-prefork-static"
    case cDynamic = "c-dynamic"
    case cStatic = "c-static"
    case cReusePort = "c-reuseport"
    case nginx
    case apache
    case gunicorn
    case starman
    case hummingbird

    /// Ready at once, and built here.
    static let quick: [PreforkPeer] = [.forkserve, .forkserveStatic, .cDynamic, .cStatic]

    static func named(_ list: String) throws -> [PreforkPeer] {
        try unique(words(list)).map { word in
            guard let peer = PreforkPeer(rawValue: word) else {
                let names = allCases.map(\.rawValue).joined(separator: ", ")
                throw ValidationError("'\(word)' is no peer; the peers are \(names)")
            }
            return peer
        }
    }

    /// Whether this can be measured with so many workers. A worker that stays with one connection at a time leaves the
    /// rest in the queue for as long as that one is kept; more kept connections than workers would measure nothing.
    func serves(_ mode: PreforkMode, connections: Int, workers: Int) -> Bool {
        switch mode {
        case .http(.close): true
        // With a listener of its own, a worker may be given two connections while another has none.
        case .http(.keepAlive):
            !staysWithConnection || connections <= (self == .cReusePort ? 1 : workers)
        case .echo: [.forkserve, .forkserveStatic, .cDynamic, .cStatic, .cReusePort].contains(self)
        }
    }

    /// What is asked for: Apache's answer is a file.
    var path: String { self == .apache ? "/hello" : "/" }

    /// gunicorn's sync workers close after each answer, whatever is asked for.
    private var staysWithConnection: Bool { ![.nginx, .gunicorn, .hummingbird].contains(self) }
}

/// What a client does with a connection.
enum PreforkMode: Hashable {
    case http(HTTPMode)
    /// A line there and back, and the end of stream, as for `forkbench serve`.
    case echo

    static let all: [PreforkMode] = [.http(.close), .http(.keepAlive), .echo]

    var name: String {
        switch self {
        case .http(let mode): mode.rawValue
        case .echo: "echo"
        }
    }

    var isEcho: Bool { self == .echo }
}

extension PreforkPeer {
    /// - Throws: `Missing`, which says what would have to be installed or built.
    func prepared(in workshop: Workshop) throws -> PreforkPrograms {
        switch self {
        case .forkserve: try .forkserve(workshop.forkserve())
        case .forkserveStatic: try .forkserve(workshop.staticForkserve())
        case .cDynamic: try .byHand(workshop.compiled("prefork.c", as: "prefork-dynamic"), [])
        case .cStatic: try .byHand(workshop.compiled("prefork.c", as: "prefork-static", ["-static"]), [])
        case .cReusePort: try .byHand(workshop.compiled("prefork.c", as: "prefork-static", ["-static"]), ["-r"])
        case .nginx: try .nginx(workshop.installed(["/usr/sbin/nginx", "nginx"], by: "nginx-light"), workshop)
        case .apache: try .apache(workshop.installed(["/usr/sbin/apache2", "apache2"], by: "apache2-bin"), workshop)
        case .gunicorn: try .gunicorn(workshop.installed(["gunicorn"], by: "gunicorn"), workshop)
        case .starman: try .starman(workshop.installed(["starman"], by: "starman"), workshop)
        case .hummingbird: try .hummingbird(workshop.hummingbird().plain)
        }
    }
}

/// How a peer is started for HTTP, and for echo if it has that. A place's limit is the number of its workers.
struct PreforkPrograms {
    let http: ServerCommand
    var echo: ServerCommand?

    private static let backlog = "1024"
    private static let forEver = "1000000000"

    fileprivate static func forkserve(_ program: String) -> PreforkPrograms {
        func command(_ options: [String]) -> ServerCommand {
            ServerCommand(announcesPort: true) { place in
                [program, "prefork", "--workers", "\(place.limit)"] + options + ["127.0.0.1:0"]
            }
        }
        return PreforkPrograms(http: command(["--http"]), echo: command([]))
    }

    fileprivate static func byHand(_ program: String, _ options: [String]) -> PreforkPrograms {
        func command(_ mode: String) -> ServerCommand {
            ServerCommand(announcesPort: true) { [program, "-w", "\($0.limit)"] + options + [mode] }
        }
        return PreforkPrograms(http: command("http"), echo: command("echo"))
    }

    fileprivate static func gunicorn(_ program: String, _ workshop: Workshop) -> PreforkPrograms {
        let directory = workshop.source("")
        return PreforkPrograms(
            http: ServerCommand(announcesPort: false) { place in
                // env: Python would leave its compiled form beside the source.
                ["env", "PYTHONDONTWRITEBYTECODE=1", program, "--workers", "\(place.limit)", "--backlog", backlog]
                    + ["--bind", "127.0.0.1:\(place.port)", "--worker-class", "sync", "--log-level", "warning"]
                    + ["--pythonpath", directory, "prefork_app:application"]
            })
    }

    fileprivate static func starman(_ program: String, _ workshop: Workshop) -> PreforkPrograms {
        let app = workshop.source("prefork.psgi")
        return PreforkPrograms(
            http: ServerCommand(announcesPort: false) { place in
                [program, "--workers", "\(place.limit)", "--backlog", backlog, "--listen", "127.0.0.1:\(place.port)"]
                    + ["--max-requests", forEver, "--keepalive-timeout", "60", "--env", "deployment", app]
            })
    }

    fileprivate static func hummingbird(_ program: String) -> PreforkPrograms {
        PreforkPrograms(http: ServerCommand(announcesPort: false) { [program, "127.0.0.1:\($0.port)"] })
    }

    fileprivate static func nginx(_ program: String, _ workshop: Workshop) -> PreforkPrograms {
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map { "\($0)_temp_path \(workshop.path("nginx-" + $0));" }
        return PreforkPrograms(
            http: ServerCommand(announcesPort: false) { place in
                let file = try workshop.write(
                    "nginx.conf",
                    """
                    daemon off;
                    worker_processes \(place.limit);
                    pid \(workshop.path("nginx.pid"));
                    error_log stderr error;
                    \(geteuid() == 0 ? "user root;" : "")
                    events { worker_connections 4096; }
                    http {
                        access_log off;
                        keepalive_requests \(forEver);
                        keepalive_timeout 60;
                        \(temporary.joined(separator: " "))
                        server {
                            listen 127.0.0.1:\(place.port) backlog=\(backlog);
                            location / { return 200 "hello\\n"; }
                        }
                    }

                    """)
                return [program, "-c", file]
            })
    }

    fileprivate static func apache(_ program: String, _ workshop: Workshop) throws -> PreforkPrograms {
        let modules = "/usr/lib/apache2/modules"
        guard access(modules + "/mod_mpm_prefork.so", R_OK) == 0 else {
            throw Missing(reason: "there is no \(modules)/mod_mpm_prefork.so", remedy: "apt-get install apache2-bin")
        }
        return PreforkPrograms(
            http: ServerCommand(announcesPort: false) { place in
                try workshop.openToAll()
                _ = try workshop.write("hello", "hello\n", mode: 0o644)
                let file = try workshop.write(
                    "apache.conf",
                    """
                    ServerName 127.0.0.1
                    Listen 127.0.0.1:\(place.port)
                    ListenBacklog \(backlog)
                    DefaultRuntimeDir \(workshop.path(""))
                    PidFile \(workshop.path("apache.pid"))
                    ErrorLog /dev/stderr
                    LogLevel error
                    \(geteuid() == 0 ? "User nobody\nGroup nogroup" : "")
                    LoadModule mpm_prefork_module \(modules)/mod_mpm_prefork.so
                    LoadModule authz_core_module \(modules)/mod_authz_core.so
                    StartServers \(place.limit)
                    ServerLimit \(place.limit)
                    MaxRequestWorkers \(place.limit)
                    MinSpareServers \(place.limit)
                    MaxSpareServers \(place.limit)
                    MaxConnectionsPerChild 0
                    KeepAlive On
                    MaxKeepAliveRequests 0
                    KeepAliveTimeout 60
                    DocumentRoot \(workshop.path(""))
                    <Directory />
                        Require all denied
                    </Directory>
                    <Files "hello">
                        Require all granted
                    </Files>

                    """)
                return [program, "-D", "FOREGROUND", "-f", file]
            })
    }
}
