// SPDX-License-Identifier: Apache-2.0

import Forking
import Testing

@testable import forkserve

@Suite("Errors of the configuration name options")
struct OptionNamesTests {
    /// What forkserve leaves as it is by default, or sets by itself.
    private let unset: Set = [
        "acceptsDescriptors", "admission", "allowsThreads", "child", "containment", "diesWithParent",
        "heartbeatTimeout", "heedless",
        "idleTimeout", "limits", "maxDatagramBytes", "maxSources", "reapsStrangers", "refusals", "requestUnit",
        "reusesAddress", "reusesPort",
        "stopSignals", "waitsForChildren",
    ]

    @Test("each property that the command line sets has an option's name")
    func all() {
        let all: [Any] = [
            ForkingServer.Configuration(), PreforkServer.Configuration(), ChildOptions(), Listener.Options(),
            AdmissionPolicy(),
        ]
        let names = all.flatMap { Mirror(reflecting: $0).children.compactMap(\.label) }
        for name in names where !unset.contains(name) {
            #expect(OptionNames.options[name] != nil, "\(name)")
        }
    }

    @Test(
        "the first word of what the library says is one, and what that is compared to",
        arguments: [
            ("maxChildren is 5, and each child", "--max-children is 5, and each child"),
            ("maxReplacedAtOnce is 0, and must be at least 1", "--max-replaced-at-once is 0, and must be at least 1"),
            (
                "maxWorkers is 3, and must be from workers, which is 4, to 1024",
                "--max-workers is 3, and must be from --workers, which is 4, to 1024"
            ),
            ("keepAlive is invalid: its idle is 0.0 seconds", "--keepalive is invalid: its idle is 0.0 seconds"),
            (
                "containment is .descendants, which",
                "without --leave-daemons forkserve tracks what programs start, which"
            ),
            ("control a, drain b", "control a, drain b"), ("", ""),
            ("'maxAge is 5' is no address", "'maxAge is 5' is no address"),
        ])
    func texts(said: String, told: String) { #expect(ForkingError.invalid(said).namingOptions == .invalid(told)) }

    @Test("what a configuration refuses is told so")
    func refused() throws {
        var configuration = PreforkServer.Configuration()
        configuration.maxRequests = 0
        do {
            _ = try PreforkServer(
                workers: Listener(SocketAddress(parsing: "127.0.0.1:0")), configuration: configuration, body: { _ in })
            Issue.record("it was taken")
        } catch {
            #expect(error.namingOptions == .invalid("--max-requests is 0, and must be at least 1, or nil for none"))
        }
    }
}
