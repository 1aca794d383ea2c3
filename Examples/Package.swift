// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

let package = Package(
    name: "forking-examples",
    dependencies: [
        .package(name: "swift-forking", path: ".."),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
    ],
    targets: [
        .executableTarget(name: "EchoServer", dependencies: [.product(name: "Forking", package: "swift-forking")]),
        .executableTarget(name: "DaytimeUDP", dependencies: [.product(name: "Forking", package: "swift-forking")]),
        .executableTarget(name: "OwnLoop", dependencies: [.product(name: "Forking", package: "swift-forking")]),
        .target(name: "CStorm"),
        .executableTarget(
            name: "Storm", dependencies: ["CStorm", .product(name: "Forking", package: "swift-forking")]),
        .executableTarget(
            name: "PreforkNIO",
            dependencies: [
                .product(name: "Forking", package: "swift-forking"),
                .product(name: "ForkingNIO", package: "swift-forking"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ]
        ),
        .executableTarget(
            name: "PreforkHummingbird",
            dependencies: [
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Forking", package: "swift-forking"),
                .product(name: "ForkingAsync", package: "swift-forking"),
                .product(name: "ForkingNIO", package: "swift-forking"),
                .product(name: "Hummingbird", package: "hummingbird"),
            ]
        ),
        .executableTarget(
            name: "IsolatedHummingbird",
            dependencies: [
                .product(name: "Forking", package: "swift-forking"),
                .product(name: "ForkingAsync", package: "swift-forking"),
                .product(name: "ForkingDistributed", package: "swift-forking"),
                .product(name: "Hummingbird", package: "hummingbird"),
            ]
        ),
        .executableTarget(
            name: "CrashProofParser",
            dependencies: [
                .product(name: "Forking", package: "swift-forking"),
                .product(name: "ForkingAsync", package: "swift-forking"),
                .product(name: "ForkingDistributed", package: "swift-forking"),
            ]
        ),
        .executableTarget(
            name: "PlainHummingbird", dependencies: [.product(name: "Hummingbird", package: "hummingbird")]),
    ],
    swiftLanguageModes: [.v6]
)
