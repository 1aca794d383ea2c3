// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

// For all targets: what a module's interface shows of another module stands in its imports. Not MemberImportVisibility:
// a struct of C's that Glibc and CForkCore both include belongs to whichever the compiler reads first, so that a file
// would build or not by the order of other files.
let swiftSettings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
]

// Not by unsafeFlags, with which no other package could depend on this one. SwiftPM leaves these out there.
let cSettings: [CSetting] = [
    "all", "extra", "pedantic", "conversion", "shadow", "missing-prototypes", "strict-prototypes",
].map { .enableWarning($0) }

let package = Package(
    name: "swift-forking",
    products: [
        .library(name: "Forking", targets: ["Forking"]),
        .library(name: "ForkingNIO", targets: ["ForkingNIO"]),
        .library(name: "ForkingAsync", targets: ["ForkingAsync"]),
        .library(name: "ForkingCodable", targets: ["ForkingCodable"]),
        .library(name: "ForkingDistributed", targets: ["ForkingDistributed"]),
        .library(name: "ForkingIntegrations", targets: ["ForkingIntegrations"]),
        .executable(name: "forkserve", targets: ["forkserve"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-distributed-tracing", from: "1.7.3"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ],
    targets: [
        .target(name: "CForkCore", path: "CForkCore", cSettings: cSettings),
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
                .product(name: "SystemPackage", package: "swift-system"),
            ]
        ),
        .target(
            name: "ForkingAsync",
            dependencies: [
                "Forking", "CForkCore",
                .product(name: "SystemPackage", package: "swift-system"),
            ]
        ),
        .target(name: "ForkingCodable", dependencies: ["Forking", "ForkingAsync"]),
        .target(
            name: "ForkingDistributed",
            dependencies: [
                "Forking", "ForkingAsync",
                .product(name: "SystemPackage", package: "swift-system"),
            ]
        ),
        .target(
            name: "ForkingIntegrations",
            dependencies: [
                "Forking", "ForkingAsync",
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "Instrumentation", package: "swift-distributed-tracing"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "SystemPackage", package: "swift-system"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
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
        .target(name: "TestSupport", dependencies: ["CTestSupport"], path: "Tests/TestSupport"),
        .executableTarget(
            name: "scenarios",
            dependencies: [
                "Forking", "CForkCore", "CTestSupport", "TestSupport",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Tests/Scenarios"),
        // What Swift cannot call: ptrace(2) and other functions of C with a variable number of arguments.
        .target(name: "CTestSupport", path: "Tests/CTestSupport", cSettings: cSettings),
        .testTarget(
            name: "ForkingTests",
            dependencies: [
                "Forking", "CForkCore", "TestSupport", "scenarios",
                .product(name: "SystemPackage", package: "swift-system"),
            ]
        ),
        .testTarget(name: "ForkserveTests", dependencies: ["TestSupport", "forkserve", "scenarios"]),
        .executableTarget(
            name: "nioserver",
            dependencies: [
                "Forking", "ForkingAsync", "ForkingNIO", "TestSupport",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Tests/NIOServer"
        ),
        .testTarget(name: "ForkingNIOTests", dependencies: ["TestSupport", "nioserver"]),
        .target(
            name: "HostSupport",
            dependencies: [
                "Forking",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            path: "Tests/HostSupport"
        ),
        .executableTarget(
            name: "zygotehost",
            dependencies: [
                "Forking", "ForkingAsync", "ForkingCodable", "HostSupport",
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Tests/ZygoteHost"
        ),
        .executableTarget(
            name: "actorhost",
            dependencies: [
                "Forking", "ForkingDistributed", "HostSupport",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Tests/ActorHost"
        ),
        .testTarget(name: "ForkingDistributedTests", dependencies: ["TestSupport", "actorhost"]),
        .testTarget(name: "ForkingAsyncTests", dependencies: ["TestSupport", "zygotehost"]),
        .executableTarget(
            name: "servicehost",
            dependencies: [
                "Forking", "ForkingAsync", "ForkingIntegrations", "ForkingNIO",
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "SystemPackage", package: "swift-system"),
                .product(name: "Tracing", package: "swift-distributed-tracing"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ],
            path: "Tests/ServiceHost"
        ),
        .testTarget(name: "ForkingIntegrationsTests", dependencies: ["TestSupport", "servicehost"]),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .c11
)

for target in package.targets {
    // The interface of what tests share has types of C's.
    let settings = target.name == "TestSupport" ? [.enableUpcomingFeature("ExistentialAny")] : swiftSettings
    target.swiftSettings = (target.swiftSettings ?? []) + settings
}
