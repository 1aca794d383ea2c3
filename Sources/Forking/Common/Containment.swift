// SPDX-License-Identifier: Apache-2.0

/// How a child and the processes that it starts are kept together, so that they can be ended together.
#if hasAttribute(nonexhaustive)
    @nonexhaustive
#endif
public enum Containment: Comparable, Sendable {
    /// Not at all: the child stays in this process's group. A signal, a timeout or a stop reaches only the child.
    case none
    /// In a process group led by the child, which keeps this process's terminal. setpgid(2).
    ///
    /// Processes that leave the group, as a shell's jobs do on a terminal, are not reached.
    case group
    /// In a session led by the child, without a terminal. setsid(2).
    ///
    /// The kernel needs about 15 µs more than for a group, a tenth of a fork. Therefore children that run a handler
    /// have no session by default. The child's own setsid(2) fails, as under inetd. Processes that start another
    /// session are not reached.
    case session
    /// In a session, and processes that leave it are tracked and ended too: none escapes.
    ///
    /// This process becomes a subreaper (PR_SET_CHILD_SUBREAPER in prctl(2)): a process whose parent has ended becomes
    /// its child, and is in the table as a leftover (`ChildInfo.isLeftover`). It takes a slot of its own, so it counts
    /// towards the maximum. It has the same timeout, from its own start. `terminateAll()`, `killAll()` and a server's
    /// stop end it. A signal that should end a child is sent to all its descendants. If a child ends by itself, its
    /// leftovers are sent nothing until then.
    ///
    /// With `ChildOptions.diesWithParent`, a small additional process makes sure that they all end with this one,
    /// whatever user they run as. It is forked with the first such child, and ends with the table's server.
    ///
    /// Processes that other parts of this process start in sessions of their own are mistaken for leftovers. SIGCHLD is
    /// blocked, as with `ChildTable.Reaping.signal`. Requires /proc, and a kernel with CONFIG_PROC_CHILDREN.
    case descendants
}
