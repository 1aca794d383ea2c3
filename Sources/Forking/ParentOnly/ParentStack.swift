// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// A stack for a parent's loop, of which children get no copy: what is written there from client to client would stay
/// with each child, as it was. `CForkCore/stack.c` explains it.
///
/// Parent, one thread. `close()` gives it back.
struct ParentStack: BitwiseCopyable {
    /// Nil where there is none to be had: then children are forked from the stack that their parent is on.
    private let stack: OpaquePointer?
    private let owner = forkcore_process()

    init() {
        var opened: OpaquePointer?
        stack = forkcore_stack_open(&opened) == 0 ? opened : nil
    }

    func close() {
        if let stack, owner == forkcore_process() { forkcore_stack_close(stack) }
    }

    /// Calls `body` on it. Not in a child, which does not have it.
    func run(_ body: () throws(ForkingError) -> Void) throws(ForkingError) {
        var failure: ForkingError?
        func call() {
            do throws(ForkingError) { try body() } catch { failure = error }
        }
        withoutActuallyEscaping(call) { call in
            withUnsafePointer(to: call) {
                let call = UnsafeMutableRawPointer(mutating: $0)
                forkcore_stack_run(stack, { $0!.assumingMemoryBound(to: (() -> Void).self).pointee() }, call)
            }
        }
        if let failure { throw failure }
    }

    /// From within `run`: forks a child that begins with `body`, where `run` was called from, with a copy of `start`.
    ///
    /// - Returns: an errno.
    func fork<Start: BitwiseCopyable>(
        _ plan: forkcore_child_plan, _ start: Start, _ body: @convention(c) (UnsafeRawPointer?) -> Int32,
        _ pid: inout ProcessID
    ) -> Int32 {
        withUnsafePointer(to: plan) { plan in
            withUnsafePointer(to: start) { forkcore_stack_fork(stack, plan, $0, MemoryLayout<Start>.size, body, &pid) }
        }
    }
}
