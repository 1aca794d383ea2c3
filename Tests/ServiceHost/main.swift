// SPDX-License-Identifier: Apache-2.0
//
// What ForkingIntegrationsTests start: `servicehost (zygote|prefork|forking) …`. Whatever is logged or measured, and
// what the modes themselves have to say, is a line on stdout.

import Forking
import Glibc

let arguments = CommandLine.arguments.dropFirst()
switch arguments.first {
case "zygote": try hostZygote(Array(arguments.dropFirst()))
case "trace": try traceCalls(warmChildren: arguments.dropFirst().first.flatMap { Int($0) } ?? 0)
case "prefork": try servePool()
case "forking": try serveClients()
default:
    say("usage: servicehost (zygote [--deadline MILLISECONDS] [[&]HANDLER[:BYTES]]… | trace WARM | prefork | forking)")
    exit(64)
}
