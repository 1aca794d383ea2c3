// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@Suite("ChildTable: reaping")
struct ChildTableReapingTests {
    @Test("100 exits coalesced into one SIGCHLD")
    func coalesced() throws { try pass("coalesced-exits") }

    @Test("exit before the parent has recorded the pid")
    func beforeRecorded() throws { try pass("exit-before-recorded") }

    @Test("many fast exits in a table that is always full")
    func manyFast() throws { try pass("many-fast-exits") }

    @Test("exit code, signal and trap are told, with duration")
    func told() throws { try pass("told-as-it-was") }

    @Test("the core flag is told")
    func coreFlag() throws { try pass("core-flag") }

    @Test("CPU time and memory are told")
    func usage() throws { try pass("resource-usage") }

    @Test("a SIGSTOPped child is not reported as ended, and can be ended")
    func stopped() throws { try pass("stopped-child") }

    @Test("a table that goes away leaves its children alone")
    func goesAway() throws { try pass("table-goes-away") }

    @Test("10,000 forks leave memory and descriptors as they were")
    func noGrowth() throws { try pass("no-growth", deadline: 180) }

    @Test("2,000 forks with pidfds leave memory and descriptors as they were")
    func noGrowthWithPidfds() throws { try pass("no-growth-with-pidfds", deadline: 180) }
}

@Suite("ChildTable: children of others, others who wait")
struct ChildTableForeignTests {
    @Test("an unrelated child is still waitable afterwards")
    func unrelated() throws { try pass("foreign-child") }

    @Test("an unrelated child is still waitable afterwards, also at the limit")
    func unrelatedAtLimit() throws { try pass("foreign-child-at-limit") }

    @Test("an unrelated zombie hides none of our exits")
    func zombieInFront() throws { try pass("foreign-zombie-in-front") }

    @Test("our child reaped by somebody else is reported as unknown")
    func reapedByAnother() throws { try pass("reaped-by-another") }

    @Test("our child reaped by somebody else, its SIGCHLD merged away")
    func reapedUnannounced() throws { try pass("reaped-by-another-unannounced") }

    @Test("no signal goes to the pid, or the group, of a child that somebody else reaped")
    func noSignalToLost() throws { try pass("no-signal-to-lost-child") }
}

@Suite("ChildTable: limit")
struct ChildTableLimitTests {
    @Test("a limit of zero or less is rejected")
    func limitChecked() throws { try pass("limit-checked") }

    @Test("full at the limit, and a slot comes back after reaping")
    func full() throws { try pass("full-table") }

    @Test("fork refused (RLIMIT_NPROC), with recovery")
    func forkRefused() throws { try pass("fork-refused") }

    @Test("no descriptor left for a pidfd: an error, and no zombie")
    func pidfdRefused() throws { try pass("pidfd-refused") }

    @Test("options that cannot be are rejected before a slot is taken")
    func optionsChecked() throws { try pass("options-checked") }
}

@Suite("ChildTable: the process around it")
struct ChildTableHostTests {
    @Test("SIGCHLD ignored by whoever started us")
    func ignored() throws { try pass("sigchld-ignored") }

    @Test("SA_NOCLDWAIT set by whoever was here before")
    func noChildWait() throws { try pass("no-child-wait") }

    @Test("a handler for SIGCHLD: an error that names pidfd")
    func handled() throws { try pass("sigchld-handled") }

    @Test("SIGCHLD blocked by whoever started us stays blocked")
    func blocked() throws { try pass("sigchld-blocked") }

    @Test("two tables share SIGCHLD: collecting one reaps for both")
    func twoTables() throws { try pass("two-tables") }

    @Test("an observer lets go of another table")
    func oneDropped() throws { try pass("two-tables-one-dropped") }

    @Test("a table on another thread: an error that names pidfd")
    func offFirstThread() throws { try pass("table-off-first-thread") }

    @Test("a thread that lets SIGCHLD through: an error that names pidfd")
    func threadTakesSignal() throws { try pass("thread-takes-sigchld") }

    @Test("a process with threads: an error with their count")
    func threaded() throws { try pass("threaded-process") }

    @Test("pidfds serve a host with threads and a SIGCHLD handler, and leak nothing")
    func pidfdHost() throws { try pass("pidfd-in-threaded-host") }
}

@Suite("ChildTable: time")
struct ChildTableTimeTests {
    @Test("SIGTERM at the time limit")
    func timeLimit() throws { try pass("time-limit") }

    @Test("a stubborn child is killed after its deadline")
    func stubborn() throws { try pass("stubborn-child") }

    @Test("grandchildren end with a child at its time limit")
    func group() throws { try pass("time-limit-of-group") }

    @Test("grandchildren end at the time limit when their leader died first")
    func groupLeaderFirst() throws { try pass("time-limit-leader-first") }

    @Test("SIGTERM reaches grandchildren whose leader ignores it")
    func terminateReachesGroup() throws { try pass("terminate-reaches-group") }

    @Test("grandchildren end when their leader died first while stopping")
    func endsGroups() throws { try pass("ends-groups-leader-first") }

    @Test("in service a child's background process is left alone")
    func background() throws { try pass("background-left-alone") }

    @Test("several deadlines, each kept in its turn")
    func severalDeadlines() throws { try pass("each-its-deadline") }

    @Test("waiting with a deadline leaves the child alone")
    func waitWithDeadline() throws { try pass("wait-with-deadline") }
}

@Suite("ChildTable: in a loop")
struct ChildTableLoopTests {
    @Test("the descriptor is readable for an exit and a deadline, and not otherwise")
    func pollable() throws { try pass("pollable") }

    @Test("an idle table wakes nobody")
    func idle() throws { try pass("idle-is-quiet") }

    @Test("an observer forks again in the full table")
    func forksAgain() throws { try pass("reentrant-fork") }

    @Test("an observer collects and waits")
    func collectsAgain() throws { try pass("reentrant-collect") }

    @Test("an observer that an observer sets is told of the next end")
    func observerReplaced() throws { try pass("observer-replaced") }

    @Test("a signal storm while waiting")
    func storm() throws { try pass("signal-storm-while-waiting") }
}

@Suite("ChildTable: the child")
struct ChildTableChildTests {
    @Test("what the parent blocked is unblocked in the child")
    func signals() throws { try pass("child-signals") }

    @Test("crash signals have no handler in the child, unless asked for")
    func crashSignals() throws { try pass("crash-signals") }

    @Test("the parent's buffer is not doubled, the child's print is not lost")
    func output() throws { try pass("child-output") }

    @Test("the child has no listener, table or pidfd of its parent's")
    func descriptors() throws { try pass("child-descriptors") }

    @Test("a child makes a table of its own and forks")
    func nested() throws { try pass("nested-tables") }

    @Test("a child that uses its parent's table traps and says so")
    func parentsTable() throws { try pass("parents-table-in-child") }

    @Test("a child that lets go of its parent's table keeps its own descriptors")
    func parentsTableDropped() throws { try pass("parents-table-dropped-in-child") }

    @Test("a child that leaves its process group is still ended")
    func leftItsGroup() throws { try pass("left-its-group") }

    @Test("a child that the kernel reaped, without news of it, is found by who waits for all")
    func reapedByTheKernel() throws { try pass("reaped-by-the-kernel") }

    @Test("a pidfd that a foreign child inherited does not tell of an end twice")
    func pidfdInherited() throws { try pass("pidfd-inherited-by-foreign-child") }

    @Test("a child that puts its own table in the place of its parent's keeps it")
    func parentsTableReplaced() throws { try pass("parents-table-replaced-in-child") }

    @Test("children die with a parent that got SIGKILL, unless they are to stay")
    func parentKilled() throws { try pass("parent-killed") }

    @Test("a Task in a child of a parent that used Dispatch crashes and does not hang")
    func taskAfterDispatch() throws { try pass("task-after-dispatch") }

    @Test("a Task runs in a child of a parent that never had another thread")
    func taskInChild() throws { try pass("task-in-child") }
}

@Suite("ChildTable: death marks")
struct ChildTableMarkTests {
    @Test("a child that forges everybody's marks costs nobody an end, and delays none for long")
    func scribbler() throws { try pass("hostile-scribbler") }

    @Test("children that execute another program are reaped")
    func programs() throws { try pass("programs-are-reaped") }

    @Test("children killed before they took their mark are reaped")
    func killedAtBirth() throws { try pass("killed-at-birth") }

    @Test("a child's own robust mutexes work")
    func robustMutexes() throws { try pass("robust-mutexes-of-children") }

    @Test("2,000 children at once, 20,000 with FORKING_MANY set")
    func many() throws { try pass("many-children") }
}

@Suite("ChildTable: programs")
struct ChildTableProgramTests {
    @Test("spawned programs: statuses, peers, refusals")
    func spawned() throws { try pass("spawned-programs") }

    @Test("a table that reaps by signal traps when it is to spawn, and says why")
    func bySignal() throws { try pass("spawn-by-signal-traps") }
}

@Suite("ChildTable: what children leave behind")
struct ChildTableContainmentTests {
    @Test("it has a place, is ended with the table, and is not mistaken for children of others")
    func leftBehind() throws { try pass("left-behind") }

    @Test("it is found by itself, and has a time limit")
    func inTime() throws { try pass("left-behind-in-time") }

    @Test("who waits for all waits for it, and it is found once")
    func waitedFor() throws { try pass("left-behind-is-waited-for") }

    @Test("a signal that is to end a child reaches what has left its session")
    func told() throws { try pass("descendants-are-told") }

    @Test("what was to end with a child, and does not, is ended")
    func outlive() throws { try pass("descendants-outlive-their-child") }

    @Test("without a process to see to its end nothing is made", .needsRoot)
    func noWatcher() throws { try pass("no-process-for-the-watcher") }

    @Test("it ends with a parent that is killed")
    func killed() throws { try pass("left-behind-by-the-killed") }
}
