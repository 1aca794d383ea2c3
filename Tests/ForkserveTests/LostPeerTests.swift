// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve and clients that do nothing, or have gone without a word")
struct LostPeerTests {
    @Test(
        "--io-timeout: a client that is silent is left, without a line of trouble",
        arguments: [["echo"], ["prefork", "--workers", "1"]])
    func ioTimeout(_ command: [String]) throws {
        let (server, address) = try forkserve(command + ["--io-timeout", "0.3", "127.0.0.1:0"])
        let idle = try Client(address)
        let next = try Client(address)
        try next.echo("served")
        #expect(try idle.receiveAll() == "")
        #expect(try next.receiveAll() == "")
        try stop(server)
        #expect(server.errors == "")
    }

    /// Two network namespaces with a cable between them; the client's end is pulled out, once the server has heard that
    /// its answer has arrived. Before that it would not ask whether the client is there, but send the answer again.
    private static let vanish = """
        set -e
        ip link set lo up
        unshare -n sleep 1000 & far=$!
        until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
        ip link add near type veth peer name far netns $far
        ip address add 10.77.0.1/24 dev near && ip link set near up
        nsenter -t $far -n sh -c 'ip address add 10.77.0.2/24 dev far && ip link set far up'
        "$0" echo --verbose --keepalive 1 10.77.0.1:7777 & server=$!
        exec 4< <(exec nsenter -t $far -n bash -c '
            until exec 3<>/dev/tcp/10.77.0.1/7777; do sleep 0.05; done 2>/dev/null
            echo hello >&3; read line <&3; echo "client: $line"; exec sleep 1000')
        read line <&4; echo "$line"
        until awk '$2 ~ /:1E61$/ && $4 == "01" && $5 ~ /^00000000:/ {n++} END {exit n != 1}' /proc/net/tcp; do
            sleep 0.01
        done
        nsenter -t $far -n ip link set far down
        wait $server
        """

    @Test(
        "--keepalive: a client whose cable was cut is found to have gone", .needs("ip", package: "iproute2"),
        .needs("nsenter", package: "util-linux"), .enabled(if: getuid() == 0, "needs root, for network namespaces"))
    func vanished() throws {
        let server = try Running("unshare", ["-n", "bash", "-c", Self.vanish, forkserveProgram], deadline: 120)
        #expect(try listeningAddress(of: server) == "10.77.0.1:7777")
        #expect(try server.line() == "client: hello")
        try server.waitForError("exited with status 1 after ")
        #expect(server.errors.contains("Connection timed out"), "\(server.errors)")
    }

    @Test(
        "who has gone is known of after twice as long as was asked for",
        arguments: [(1, [1, 1, 1]), (3, [3, 1, 3]), (60, [60, 10, 6]), (100, [100, 16, 6])] as [(Int, [Int32])])
    func times(seconds: Int, expected: [Int32]) throws {
        let socket = try boundSocket("127.0.0.1:0")
        defer { close(socket) }
        let (server, _) = try forkserve(["echo", "--keepalive", "\(seconds)", "fd:9"], inherited: [9: socket])
        let times = [TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT].map { option in
            var (value, length): (Int32, socklen_t) = (-1, 4)
            getsockopt(socket, Int32(IPPROTO_TCP), option, &value, &length)
            return value
        }
        #expect(times == expected)
        try stop(server)
    }

    @Test("a socket that was handed over is set as asked, and else left as it was", arguments: [true, false])
    func handedOver(isAsked: Bool) throws {
        let socket = try boundSocket("127.0.0.1:0")
        defer { close(socket) }
        let options = isAsked ? ["--keepalive", "77", "--user-timeout", "9"] : []
        let (server, _) = try forkserve(["echo"] + options + ["fd:9"], inherited: [9: socket])
        func value(_ level: Int32, _ option: Int32) -> Int32 {
            var (value, length): (Int32, socklen_t) = (-1, 4)
            getsockopt(socket, level, option, &value, &length)
            return value
        }
        let tcp = Int32(IPPROTO_TCP)
        #expect(value(SOL_SOCKET, SO_KEEPALIVE) == (isAsked ? 1 : 0))
        #expect((value(tcp, TCP_KEEPIDLE) == 77) == isAsked)
        #expect(value(tcp, TCP_USER_TIMEOUT) == (isAsked ? 9000 : 0))
        try stop(server)
    }

    @Test("what cannot be is refused")
    func refusals() throws {
        for (options, text) in [
            (["--keepalive", "0.5"], "--keepalive is 0.5, and must be a number of seconds from 1.0 to 32767, or 0"),
            (["--user-timeout", "0"], "--user-timeout is 0.0, and must be a number of seconds from 0.001 to 2000000"),
            (["--io-timeout", "0"], "--io-timeout is 0.0, and must be a number of seconds above 0"),
            (["--udp", "--io-timeout", "1"], "--io-timeout is for connections, but --udp serves datagrams"),
        ] {
            let (status, _, errors) = try outcome(["echo"] + options)
            #expect(status == 64 && errors.contains(text), "\(errors)")
        }
    }
}
