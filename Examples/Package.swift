// swift-tools-version: 6.1
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

let package = Package(
    name: "forking-examples",
    dependencies: [
        .package(name: "swift-forking", path: "..")
    ],
    targets: [
        .executableTarget(name: "EchoServer", dependencies: [.product(name: "Forking", package: "swift-forking")]),
        .executableTarget(name: "DaytimeUDP", dependencies: [.product(name: "Forking", package: "swift-forking")]),
        .executableTarget(name: "OwnLoop", dependencies: [.product(name: "Forking", package: "swift-forking")]),
    ],
    swiftLanguageModes: [.v6]
)
