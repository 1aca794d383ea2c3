// SPDX-License-Identifier: Apache-2.0
//
// What a child may do with Swift's Concurrency. Importing Dispatch starts nothing: only these scenarios start its
// threads.

import Dispatch
import Forking
import Glibc
import TestSupport

let tableDispatchScenarios = Group(
    "table-dispatch",
    Scenario(
        "task-after-dispatch", "a Task in a child of a parent that used Dispatch crashes and does not hang",
        taskAfterDispatch),
    Scenario("task-in-child", "a Task runs in a child of a parent that never had another thread", taskInChild)
)

private func runTask() -> Int32 {
    let done = DispatchSemaphore(value: 0)
    Task { done.signal() }
    done.wait()
    return 0
}

private func tenSeconds() -> ChildOptions {
    var options = ChildOptions()
    options.timeout = .seconds(10)
    options.killTimeout = .zero
    options.allowsThreads = true
    return options
}

/// The child has inherited the belief in threads that it does not have. Waiting for them would be for ever.
///
/// In a process of its own, which takes the descriptors with it that Dispatch never closes.
private func taskAfterDispatch() throws {
    let process = foreignChild {
        do {
            _ = runTask()
            try expectCrashOfTask()
            return 0
        } catch {
            fputs("\(error)\n", stderrStream())
            return 1
        }
    }
    try expectForeign(process, endsWith: 0)
}

private func expectCrashOfTask() throws {
    let recording = try RecordingTable(reaping: .pidfd)
    try recording.table.fork(options: tenSeconds(), runTask)
    let exit = try recording.finishOne()
    try expect(exit.status != .exited(code: 0), "a Task has run: what was it that the child was to be kept from?")
    guard exit.reason == .own, case .signaled = exit.status else { throw Failure("it hung: \(exit)") }
}

/// The parent never had another thread: its children may.
private func taskInChild() throws {
    let recording = try RecordingTable(limit: 10)
    for _ in 0..<10 { try recording.table.fork(options: tenSeconds(), runTask) }
    for exit in try recording.finish() { try expect(exit.isSuccess, "\(exit)") }
}
