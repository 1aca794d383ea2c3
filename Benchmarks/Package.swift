// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

// As in the package above.
let swiftSettings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
]
let cSettings: [CSetting] = [
    "all", "extra", "pedantic", "conversion", "shadow", "missing-prototypes", "strict-prototypes",
].map { .enableWarning($0) }

let package = Package(
    name: "forking-benchmarks",
    dependencies: [
        .package(name: "swift-forking", path: ".."),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        // Without Foundation.
        .package(url: "https://github.com/swiftlang/swift-subprocess", from: "1.0.2", traits: []),
    ],
    targets: [
        .target(name: "CForkbench", path: "CForkbench", cSettings: cSettings),
        .executableTarget(
            name: "forkbench",
            dependencies: [
                "CForkbench",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Forking", package: "swift-forking"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
                .product(name: "SystemPackage", package: "swift-system"),
                // Programs that it starts: who builds or runs it has them beside it.
                "forkbench-host", "forkbench-busy-host", .product(name: "forkserve", package: "swift-forking"),
            ],
            path: "forkbench"
        ),
        .target(
            name: "ForkbenchHost",
            dependencies: [
                "CForkbench",
                .product(name: "Forking", package: "swift-forking"),
                .product(name: "Subprocess", package: "swift-subprocess"),
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Host"
        ),
        .executableTarget(name: "forkbench-host", dependencies: ["ForkbenchHost"], path: "PlainHost"),
        .executableTarget(
            name: "forkbench-busy-host",
            dependencies: [
                "ForkbenchHost",
                .product(name: "Forking", package: "swift-forking"),
                .product(name: "ForkingAsync", package: "swift-forking"),
                .product(name: "ForkingDistributed", package: "swift-forking"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            path: "BusyHost"
        ),
        // Those of the package above, by a link: they are no product of it.
        .target(name: "TestSupport", dependencies: ["CTestSupport"], path: "Tests/TestSupport"),
        .target(name: "CTestSupport", path: "Tests/CTestSupport", cSettings: cSettings),
        .testTarget(name: "ForkbenchTests", dependencies: ["TestSupport", "CForkbench", "forkbench"]),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .c11
)

for target in package.targets {
    // The interface of what tests share has types of C's.
    let settings = target.name == "TestSupport" ? [.enableUpcomingFeature("ExistentialAny")] : swiftSettings
    target.swiftSettings = (target.swiftSettings ?? []) + settings
}
