// A ChildTable in a loop of its user's own: each line on stdin is a sum, worked out in a child that may trap.
// Try: printf '6 7\n9223372036854775807 1\nsix 7\n1 2\n' | swift run OwnLoop

import Forking
import Glibc

let table = try ChildTable(maxChildren: 2) { exit in print(exit) }
var input = pollfd(fd: 0, events: Int16(POLLIN), revents: 0)
var waiting: [Substring] = []

while input.fd >= 0 || !waiting.isEmpty || table.count > 0 {
    var polled = [input, pollfd(fd: table.descriptor.rawValue, events: Int16(POLLIN), revents: 0)]
    poll(&polled, 2, waiting.isEmpty || table.isFull ? -1 : 0)
    if polled[1].revents != 0 { table.collect() }
    if polled[0].revents != 0 {
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = read(0, &bytes, bytes.count)
        waiting += String(decoding: bytes.prefix(max(0, count)), as: UTF8.self).split(separator: "\n")
        if count <= 0 { input.fd = -1 }
    }
    while !waiting.isEmpty, !table.isFull {
        let sum = waiting.removeFirst()
        try table.fork {
            print(sum, "=", sum.split(separator: " ").map { Int($0)! }.reduce(0, +))
            return 0
        }
    }
}
