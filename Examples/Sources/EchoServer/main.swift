import Forking

let address = try SocketAddress(parsing: "127.0.0.1:7777")
let server = try ForkingServer(Listener(address)) { connection in
    // A child process of its own, for this client alone.
    while let line = try connection.readLine() {
        if line.starts(with: "crash".utf8) { fatalError("only this client's process ends") }
        try connection.write(line)
    }
}
server.hooks.onEvent = { _, event in print(event) }
try server.serve()
