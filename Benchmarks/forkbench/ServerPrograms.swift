// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// Where ours and the peers' sources are found, for the commands that measure servers.
struct ServerPrograms: ParsableArguments {
    @Option(help: ArgumentHelp("Our server's program (default: beside this one).", valueName: "program"))
    var forkserve: String?
    @Option(
        help: ArgumentHelp(
            "The same, linked statically (default: .build-static/release/forkserve of the package).",
            valueName: "program"))
    var forkserveStatic: String?
    @Option(
        help: ArgumentHelp(
            "Where Benchmarks/Peers is (default: looked for above this program).", valueName: "directory"))
    var package: String?

    func workshop(hummingbird: String? = nil) throws -> Workshop {
        try prepareToStartPrograms()
        return try Workshop(package: package, (forkserve, forkserveStatic, hummingbird))
    }
}
