// swift-tools-version: 6.1
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

let package = Package(
    name: "swift-forking",
    products: [
        .library(name: "Forking", targets: ["Forking"]),
        .library(name: "ForkingNIO", targets: ["ForkingNIO"]),
        .executable(name: "forkserve", targets: ["forkserve"]),
        .executable(name: "forkbench", targets: ["forkbench"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    ],
    targets: [
        .target(name: "CForkCore", path: "CForkCore"),
        .target(
            name: "Forking",
            dependencies: [
                "CForkCore",
                .product(name: "SystemPackage", package: "swift-system"),
            ]
        ),
        .target(
            name: "ForkingNIO",
            dependencies: [
                "Forking",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ]
        ),
        .executableTarget(
            name: "forkserve",
            dependencies: [
                "Forking", "CForkCore",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "SystemPackage", package: "swift-system"),
            ]
        ),
        .target(name: "CForkbench", path: "Benchmarks/CForkbench"),
        .executableTarget(
            name: "forkbench",
            dependencies: [
                "Forking", "CForkbench",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            path: "Benchmarks/forkbench"
        ),
        .target(name: "TestSupport", path: "Tests/TestSupport"),
        .executableTarget(name: "scenarios", dependencies: ["Forking", "TestSupport"], path: "Tests/Scenarios"),
        .testTarget(name: "ForkingTests", dependencies: ["Forking", "TestSupport", "scenarios"]),
        .testTarget(name: "ForkserveTests", dependencies: ["TestSupport", "forkserve"]),
        .testTarget(name: "ForkbenchTests", dependencies: ["TestSupport", "CForkbench", "forkbench"]),
        .executableTarget(
            name: "nioserver",
            dependencies: [
                "Forking", "ForkingNIO",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            path: "Tests/NIOServer"
        ),
        .testTarget(name: "ForkingNIOTests", dependencies: ["TestSupport", "nioserver"]),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .c11
)
