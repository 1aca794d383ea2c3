// What PreforkHummingbird serves, in one process: a request that traps ends it, and all others with it. To compare.
// PlainHummingbird [ADDRESS]; curl http://127.0.0.1:8080/trap

import Hummingbird

let router = Router()
router.get("/") { _, _ in "hello\n" }
router.get("/trap") { request, _ in "\([1, 2, 3][request.uri.path.count])\n" }

let place = (CommandLine.arguments.dropFirst().first ?? "127.0.0.1:8080").split(separator: ":")
let address = BindAddress.hostname(String(place[0]), port: place.count > 1 ? Int(place[1]) ?? 8080 : 8080)
try await Application(router: router, configuration: .init(address: address)).runService()
