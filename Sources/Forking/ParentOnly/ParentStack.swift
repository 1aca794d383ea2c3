// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// A stack for a parent's loop that is not copied to children. On an ordinary stack, each child would keep a copy of
/// what the loop writes for each client. See `CForkCore/stack.c`.
///
/// A parent or a zygote, one thread. `close()` unmaps it.
struct ParentStack: BitwiseCopyable {
    /// Nil if it could not be mapped: then children are forked from the parent's ordinary stack.
    let memory: OpaquePointer?
    private let owner = forkcore_process()

    init() {
        var opened: OpaquePointer?
        memory = forkcore_stack_open(&opened) == 0 ? opened : nil
    }

    func close() {
        if let memory, owner == forkcore_process() { forkcore_stack_close(memory) }
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
                forkcore_stack_run(memory, { $0!.assumingMemoryBound(to: (() -> Void).self).pointee() }, call)
            }
        }
        if let failure { throw failure }
    }
}
