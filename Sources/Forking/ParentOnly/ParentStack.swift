// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// A stack for a parent's loop that is not copied to children. On an ordinary stack, each child would keep a copy of
/// what the loop writes for each client. See `CForkCore/stack.c`.
///
/// Parent, one thread. `close()` unmaps it.
struct ParentStack: BitwiseCopyable {
    /// Nil if it could not be mapped: then children are forked from the parent's ordinary stack.
    private let stack: OpaquePointer?
    private let owner = forkcore_process()

    init() {
        var opened: OpaquePointer?
        stack = forkcore_stack_open(&opened) == 0 ? opened : nil
    }

    func close() {
        if let stack, owner == forkcore_process() { forkcore_stack_close(stack) }
    }

    /// Calls `body` on this stack. Not in a child, which does not have it.
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

    /// Called from within `run`: forks a child that begins with `body`, where `run` was called, with a copy of `start`.
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
