// SPDX-License-Identifier: Apache-2.0

#ifndef STORM_H
#define STORM_H

/// Has the parent trace this process, and stops it: a tracer that never continues it.
void storm_be_traced(void);

/// Has a child of this process's own trace it, and returns once it does. When this process has ended, it is a zombie that only
/// the tracer could let go, which sleeps for `seconds`.
void storm_be_held(unsigned seconds);

/// Makes the parent another child, which ends at once.
void storm_give_sibling(void);

/// Leaves a process in a session of its own, whose parent has gone, and which sleeps for `seconds`.
void storm_leave_daemon(unsigned seconds);

/// Writes what comes to mind into each piece of memory that this process shares with its parent, so many times.
void storm_scribble(unsigned times);

/// Writes so many lines on stderr.
void storm_flood(unsigned lines);

#endif
