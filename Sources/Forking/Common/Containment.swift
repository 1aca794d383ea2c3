// SPDX-License-Identifier: Apache-2.0

/// How what a child starts is kept together, so that it can be ended with it.
#if hasAttribute(nonexhaustive)
    @nonexhaustive
#endif
public enum Containment: Comparable, Sendable {
    /// Not at all: the child is in this process's group, and a signal, a time limit or a stop reaches it alone.
    case none
    /// In a process group that the child leads. It still has this process's terminal. setpgid(2).
    ///
    /// What leaves the group, as a shell's jobs do on a terminal, is out of reach.
    case group
    /// In a session that the child leads, without a terminal. setsid(2).
    ///
    /// It takes the kernel some 15 µs more than a group, a tenth of a fork, which is why handlers' children have none
    /// by default; and the child's own setsid(2) fails, as under inetd. What makes a session of its own is out of
    /// reach.
    case session
    /// In a session, and whatever leaves it is known and ended all the same: nothing is out of reach.
    ///
    /// This process becomes a subreaper (PR_SET_CHILD_SUBREAPER in prctl(2)): a process whose parent has ended is its
    /// child then, and stands in the table as one that was left behind (`ChildInfo.isLeftover`). It takes a place of
    /// its own, so that it counts towards the limit; it may live for the time limit, from its own start on; and it is
    /// ended by `terminateAll()`, `killAll()` and a server's stop. A signal that is to end a child reaches all that
    /// descends from it. What a child that ended by itself leaves behind is sent nothing before that.
    ///
    /// With `ChildOptions.diesWithParent` a small process more sees to it that all of them end with this one, whatever
    /// user they run as. It is forked with the first such child, waits, and ends with the table's server.
    ///
    /// Not seen is what other parts of this process start in sessions of their own: that is taken for left behind as
    /// well. SIGCHLD is blocked, as with `ChildTable.Reaping.signal`. Needs /proc, and a kernel with
    /// CONFIG_PROC_CHILDREN.
    case descendants
}
