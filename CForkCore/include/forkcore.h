// SPDX-License-Identifier: Apache-2.0
//
// forkcore: fork, wait and _exit on Linux, and what belongs to them.
//
// Every function returns 0 or an errno value; the caller need not read errno. No function allocates or logs. None
// returns EINTR: a call that a signal interrupted is repeated. Every descriptor made here is close-on-exec.
//
// Each doc block, or the line above its section, says in which process the function runs, and whether it is
// async-signal-safe ("signal-safe"): only such functions may run between fork and the child's body.
//
// A set of signals is a uint64_t, in which bit n-1 stands for signal n, as in the kernel.

#ifndef FORKCORE_H
#define FORKCORE_H

#ifndef __linux__
#error "swift-forking needs Linux: it stands on signalfd, pidfd, epoll and PR_SET_PDEATHSIG"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "forkcore_confinement.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---------------------------------------------------------------------------------------------- fork and the child

struct forkcore_watcher;

/// What a child does before its body runs. The caller owns it; it is only read.
struct forkcore_child_plan {
    uint64_t defaults;   ///< signals whose disposition becomes SIG_DFL in the child
    uint64_t heedless;   ///< forkcore_fork: signals without effect in the child; programs that it executes have their
                         ///< defaults again, except SIGTTIN and SIGTTOU, which are ignored there too
    const int *closing;  ///< descriptors that belong to the parent alone, ascending; closed in the child
    size_t closing_count;
    void *mark;          ///< the child's death mark, from forkcore_marks_occupy, or NULL
    bool own_group;        ///< the child leads a process group of its own (its id is the child's pid)
    bool own_session;      ///< the child also leads a session of its own, without a terminal
    bool dies_with_parent; ///< SIGKILL reaches the child when the thread that forked it ends (PR_SET_PDEATHSIG)
    struct forkcore_watcher *watcher; ///< not NULL: it kills the child after the parent has ended; see watcher.c
    size_t watched_as;     ///< the child's index in the watcher's roster, where it writes its pid
    int target_descriptor; ///< forkcore_spawn: the number of the descriptor in the program; 0: both 0 and 1
    bool closes_aside;     ///< forkcore_spawn: the parent's copy of that descriptor is closed by forkcore_close_aside
    bool takes_errors;     ///< forkcore_spawn: the program gets it as descriptor 2 as well
    struct forkcore_confinement confinement; ///< if it fails, the child ends with status 126; for forkcore_spawn, with
                                             ///< `exec_error`
};

/// Forks, and returns twice, as fork(2) does: in the child with 0 in `*child`, after the steps of `plan`.
///
/// Parent: any thread; returns 0 and stores the pid in `*child`, or returns fork's errno (EAGAIN, ENOMEM). All signals
/// are blocked across the fork, so that no handler of the parent runs in the child. Stdio is flushed before it, so that
/// nothing that the parent had buffered appears twice. The caller's signal mask is restored. Child: takes the steps of
/// `plan`, and has an empty mask. It must end by forkcore_exit, and never return into the parent's code. Not
/// signal-safe in the parent (fflush). In the child all of it is, with one exception: libdispatch, if it is linked in,
/// is told of the fork, which stores a few words and waits for no lock.
int forkcore_fork(const struct forkcore_child_plan *plan, pid_t *child);

/// Ends a child: flushes stdio, then calls _exit(status). No atexit handler of the parent runs.
///
/// Child. Not signal-safe (fflush).
_Noreturn void forkcore_exit(int status);

/// State for children between clone(2) and execve(2). Forks do not copy it.
struct forkcore_spawner;

/// Maximum number of such children at a time. Each of them keeps a descriptor of the parent in use.
enum { FORKCORE_SPAWN_SLOTS = 8 };

/// Parent. Returns mmap(2)'s errno.
int forkcore_spawner_open(struct forkcore_spawner **spawner);

/// Waits until all children have called execve(2), but no longer than `timeout_ns`. That takes microseconds, or as long
/// as a file system blocks execve(2). Returns whether all have. Parent.
bool forkcore_spawner_await(struct forkcore_spawner *spawner, int64_t timeout_ns);

/// Waits in the same way, and then frees the memory. Memory that a child still uses is never freed, and its
/// `exec_error` is not written any more. Parent.
void forkcore_spawner_close(struct forkcore_spawner *spawner, int64_t timeout_ns);

/// Starts a child that executes a program with `descriptor` as its descriptors 0 and 1. It inherits descriptor 2; all
/// others are closed, and SIGPIPE has its default. The cost does not depend on the parent's memory, nor on its
/// descriptors above `descriptor`: clone(2) with CLONE_VM and CLONE_FILES, execve(2).
///
/// Parent, one thread at a time. It returns while the child still prepares itself; if the parent changes its descriptor
/// 2 meanwhile, the child sees that. Returns 0 and stores pid and pidfd, or returns the errno of the call that
/// forkcore_spawner_failed_call names. The caller closes the pidfd, which becomes readable when the child ends. EBUSY:
/// FORKCORE_SPAWN_SLOTS children have not called execve yet, or forkcore_close_aside has not closed everything yet; try
/// again in a moment.
///
/// If the program cannot be executed, the child ends with status 127 and stores execve's errno in `*exec_error`, which
/// is 0 otherwise, and must stay valid until the child is reaped. `plan` is as for forkcore_fork, except that all
/// descriptors from 3 on are closed, that there is no mark, that all of the parent's signal handlers are reset, and
/// that libc's fork handlers do not run. The program's signal mask is empty. Not signal-safe.
int forkcore_spawn(struct forkcore_spawner *spawner, const struct forkcore_child_plan *plan, int descriptor,
                   const char *path, char *const argv[], char *const envp[], int *exec_error, pid_t *child, int *pidfd);

/// The system call that failed in forkcore_spawn: mmap, fcntl or clone. Parent.
const char *forkcore_spawner_failed_call(const struct forkcore_spawner *spawner);

/// Closes the parent's copies of the connections whose programs have been executed. Call it within a millisecond or so,
/// because the client sees the end of the stream only when the last copy is closed, and whenever a child was reaped.
///
/// Parent. Returns whether no copy is left.
bool forkcore_spawner_close_descriptors(struct forkcore_spawner *spawner);

/// The pid of this process. getpid(2), but with a system call only for the first time in each process.
///
/// Any process, except a child of a raw clone(2), which libc does not know of. Signal-safe.
pid_t forkcore_process(void);

/// The number of threads of this process, or 0 if the kernel does not tell (no /proc).
///
/// Any process. Signal-safe. Makes no system call in a process that has never started a thread (glibc).
unsigned forkcore_thread_count(void);

/// The calling thread's number; that of the first thread is the pid. gettid(2).
///
/// Any process. Signal-safe.
pid_t forkcore_thread_id(void);

/// The number of cores that the calling thread may run on. sched_getaffinity(2).
///
/// Any process. Signal-safe.
int forkcore_affinity(unsigned *cores);

// ----------------------------------------------------------------------------------------------------------- waiting

enum forkcore_state {
    FORKCORE_RUNNING, ///< has not ended, and is still the caller's child
    FORKCORE_EXITED,  ///< ended by _exit; `code` is set
    FORKCORE_KILLED,  ///< ended by a signal; `signal` and `core` are set
    FORKCORE_LOST     ///< is no unreaped child of this process: other code has reaped it (ECHILD). Nothing else is set
};

/// How a child ended, and its getrusage(2) numbers, which include the children that it has waited for.
struct forkcore_ending {
    enum forkcore_state state;
    int code;
    int signal;
    bool core;
    int64_t user_us;   ///< CPU time in user mode, microseconds
    int64_t system_us; ///< CPU time in the kernel, microseconds
    int64_t max_rss_kib;
    int64_t minor_faults;
    int64_t major_faults;
};

/// Reaps `pid` if it has ended, without waiting. wait4(2).
///
/// A child ends only by _exit or by a signal. If a child made its parent trace it (ptrace(2), PTRACE_TRACEME) and is
/// stopped, it gets SIGKILL, because no process will continue it; it has not ended yet. If another process traces a
/// child that has ended, the child seems to run until the tracer lets it go: see forkcore_has_ended. With `end_group`
/// the process group that `pid` leads gets SIGKILL while `pid` is still a zombie, because until `pid` is reaped the
/// group's id cannot belong to another group. Returns 0 and fills in `*ending`. ECHILD is reported as FORKCORE_LOST;
/// any other errno is returned. Parent. Signal-safe.
int forkcore_reap(pid_t pid, bool end_group, struct forkcore_ending *ending);

/// Sends a signal to `pid` if it is an unreaped child of this process; until it is reaped, its pid cannot belong to
/// another process. With `group`, for a child with own_group, sends it to that group, and to the child itself if it has
/// left the group. ECHILD: it is no unreaped child. EPERM: the child has changed its credentials, as a set-user-ID
/// program can, even if others of its group got the signal. kill(2).
///
/// Parent. Signal-safe.
int forkcore_kill(pid_t pid, bool group, int number);

/// Stores the pid of a child that waits to be reaped in `*pid`, or 0 if there is none, and does not reap it. The child
/// has ended, or is stopped and traced by this process, or `*pid` is a thread of such a child. Other waiting children
/// are hidden behind it. waitid(2) with WNOWAIT.
///
/// Parent. Signal-safe.
int forkcore_peek(pid_t *pid);

/// Whether `pid`, an unreaped child, has ended, even if a tracer holds it so that it cannot be reaped. pidfd_open(2).
///
/// Parent. Signal-safe.
int forkcore_has_ended(pid_t pid, bool *ended);

/// The pid of the process that `thread` belongs to; 0 if there is no such thread, or no /proc.
///
/// Any process. Not signal-safe.
pid_t forkcore_process_of(pid_t thread);

/// A descriptor that becomes readable when `pid`, an unreaped child, ends. pidfd_open(2). The caller closes it.
///
/// Parent. Signal-safe.
int forkcore_pidfd(pid_t pid, int *descriptor);

/// Sends a signal to the process of a pidfd, which need not be a child. pidfd_send_signal(2). ESRCH if it has ended and
/// was reaped.
///
/// Any process. Signal-safe.
int forkcore_pidfd_signal(int pidfd, int number);

/// Sets whether orphans below this process become its children; returns whether they did before.
/// PR_SET_CHILD_SUBREAPER.
///
/// Any process. Signal-safe.
bool forkcore_set_subreaper(bool on);

// ------------------------------------------------------------------------------------------------------- death marks
// Which children may have ended, at the cost of reading one word of memory for each: see marks.c. Slots are numbered
// from 0. All functions except forkcore_mark_take run in the parent that opened the marks, one thread at a time, and
// are signal-safe.

struct forkcore_marks;

/// Makes `slots` vacant slots. A child can access only the marks themselves.
int forkcore_marks_open(size_t slots, struct forkcore_marks **marks);
void forkcore_marks_close(struct forkcore_marks *marks);

/// Gives the slot to a child that is about to be forked. Returns its mark, for the plan.
void *forkcore_marks_occupy(struct forkcore_marks *marks, size_t slot);

/// Frees the slot: its child was reaped, or never forked.
void forkcore_marks_vacate(struct forkcore_marks *marks, size_t slot);

/// The first slot in from..<end whose child may have ended, so that forkcore_reap should be called for it; `end` if
/// there is none.
size_t forkcore_marks_next(const struct forkcore_marks *marks, size_t from, size_t end);

/// Records that the slot's child was asked for, but lives. After several such calls forkcore_marks_next skips the slot.
void forkcore_marks_doubt(struct forkcore_marks *marks, size_t slot);

/// Undoes these calls.
void forkcore_marks_trust(struct forkcore_marks *marks, size_t slot);

/// Whether the slot's mark says that `pid` lives.
bool forkcore_marks_holds(const struct forkcore_marks *marks, size_t slot, pid_t pid);

/// The child's first step: from now on its end shows in the mark, whatever causes it.
///
/// Child of the thread that called forkcore_marks_occupy. Signal-safe (it locks a mutex of its own, without waiting).
void forkcore_mark_take(void *mark);

// ------------------------------------------------------------------------------------------------------------ memory

/// Maps memory that forks do not copy, so that it makes no fork slower. It is zeroed, and uses only the pages that are
/// touched. A child that touches it gets SIGSEGV. mmap(2), madvise(2) with MADV_DONTFORK. Any process. Signal-safe.
int forkcore_parent_memory_open(size_t size, void **memory);

/// The same for memory that two processes share, by a file of forkcore_memory_file. The owner gives it its size, and
/// writes; the other only reads. Neither's children get it.
int forkcore_shared_memory_open(int file, size_t size, bool owner, void **memory);

/// For either. Only in the process that opened it: in others these addresses may be something else by now.
void forkcore_parent_memory_close(void *memory, size_t size);

/// Makes forks cheaper: unmaps the unchanged pages of program and libraries, most of which only the start needed. The
/// kernel maps a page again when it is used. Only in a process with one thread (EBUSY). Not signal-safe.
/// /proc/pid/pagemap, madvise(2).
int forkcore_trim(void);

// ----------------------------------------------------------------------------------------------------------- signals

struct forkcore_signal {
    int number;
    pid_t sender; ///< for SIGCHLD: the child
};

/// Blocks `signals` in the calling thread and opens a signalfd(2) for them, non-blocking. `*blocked` says which of them
/// were not blocked before; pass it to forkcore_signals_close.
///
/// Any process. Signal-safe.
int forkcore_signals_open(uint64_t signals, int *descriptor, uint64_t *blocked);

/// Maximum number of signals per read. Each takes 128 bytes of stack, and so more of its pages. Two are rare, because
/// the kernel does not queue a pending signal twice.
enum { FORKCORE_SIGNALS_AT_ONCE = 4 };

/// Reads up to `capacity` pending signals, and no more than FORKCORE_SIGNALS_AT_ONCE. `*count` is 0 if none is pending.
///
/// The process that opened the descriptor. Signal-safe.
int forkcore_signals_read(int descriptor, struct forkcore_signal *signals, size_t capacity, size_t *count);

/// Discards pending signals, closes the descriptor, and unblocks `blocked`.
///
/// The process and thread that opened the descriptor. Signal-safe.
void forkcore_signals_close(int descriptor, uint64_t blocked);

/// Which of `signals` have a handler (neither SIG_DFL nor SIG_IGN).
///
/// Any process. Signal-safe.
uint64_t forkcore_signals_handled(uint64_t signals);

/// Which of `signals` are ignored: SIG_IGN.
///
/// Any process. Signal-safe.
uint64_t forkcore_signals_ignored(uint64_t signals);

/// Makes sure that ended children stay zombies until they are reaped: resets SIGCHLD to SIG_DFL if the process
/// inherited SIG_IGN or SA_NOCLDWAIT. EBUSY if SIGCHLD has a handler, which stays installed.
///
/// Parent. Signal-safe.
int forkcore_keep_zombies(void);

// ------------------------------------------------------------------------------------- descriptors that can be polled
// Any process. All signal-safe.

/// An eventfd(2), non-blocking. The caller closes it.
int forkcore_event_open(int *descriptor);

/// Adds `value` to an eventfd. Any thread. Preserves errno.
void forkcore_event_add(int descriptor, uint64_t value);

// The values that are added to a server's stop switch for each step, by forkcore_event_add or by a program's own
// write(2). They are part of the API (StopSwitch.word, docs/SIGNALS.md). An eventfd adds up its values, so each step
// has its own digits of the sum.
#define FORKCORE_STOP_DRAIN 1ULL
#define FORKCORE_STOP_TERMINATE (1ULL << 24)
#define FORKCORE_STOP_KILL (1ULL << 48)

/// Reads and resets the sum of the added values; 0 if there are none.
uint64_t forkcore_event_take(int descriptor);

/// A timerfd(2) on CLOCK_MONOTONIC, non-blocking. The caller closes it.
int forkcore_timer_open(int *descriptor);

/// Fires at `at` nanoseconds of CLOCK_MONOTONIC, at once if that is past; 0 disarms.
int forkcore_timer_set(int descriptor, int64_t at);

/// An epoll(7) instance. The caller closes it.
int forkcore_poll_open(int *descriptor);

/// Watches `watched` for input; forkcore_poll_ready returns `token` for it.
int forkcore_poll_add(int descriptor, int watched, uint64_t token);

/// Ends the watch. Closing `watched` is not enough while another process has a copy of it.
void forkcore_poll_remove(int descriptor, int watched);

/// The tokens of up to `capacity` descriptors that are readable now, without waiting.
int forkcore_poll_ready(int descriptor, uint64_t *tokens, size_t capacity, size_t *count);

/// Waits until one of `count` descriptors is readable, or `timeout_ns` have passed (-1: for ever). Bit i of `*ready`
/// stands for descriptors[i]; negative descriptors are skipped. A signal handler ends the wait with nothing ready, so
/// that the caller can check what the handler has done. ppoll(2); `count` is at most 8.
int forkcore_wait_readable(const int *descriptors, size_t count, int64_t timeout_ns, uint32_t *ready);

/// Closes a descriptor. On Linux it is closed even if close(2) returns EINTR.
void forkcore_close(int descriptor);

// Sockets: forkcore_sockets.h.

// ----------------------------------------------------------------------------------------------------------- workers
// In a worker, and signal-safe, unless a comment says otherwise.

/// Memory that a parent shares with its next child, zeroed. mmap(2) with MAP_SHARED. Any process.
int forkcore_shared_open(size_t size, void **memory);

/// Keeps the memory from later children, so that a worker can write only to its own. Parent, after the fork.
/// madvise(2) with MADV_DONTFORK.
int forkcore_shared_withhold(void *memory, size_t size);

/// Unmaps the memory in this process only. Any process.
void forkcore_shared_close(void *memory, size_t size);

/// As forkcore_poll_add, for a descriptor that several processes wait for: an event wakes only one of them.
/// EPOLLEXCLUSIVE. A process that was woken must check the descriptor before it stops, because no other process was
/// woken.
int forkcore_poll_add_exclusive(int descriptor, int watched, uint64_t token);

/// Waits until a watched descriptor is readable, a signal handler has run, or `timeout_ms` have passed (-1: for ever).
/// Stores its token, or UINT64_MAX. epoll_wait(2); waiting for the instance by poll(2) would wake all processes, even
/// for exclusive events.
int forkcore_poll_wait(int descriptor, int timeout_ms, uint64_t *token);

/// A pair of sockets: when the parent closes its end, the worker's end becomes readable, at end of file. The worker
/// cannot send on it. The caller closes both. socketpair(2), shutdown(2). Parent.
int forkcore_lifeline_open(int *parents, int *workers);

/// A pipe, for forkcore_tie. The caller closes both ends. pipe2(2). Parent.
int forkcore_tie_open(int *parents, int *workers);

/// From now on this process gets SIGKILL when the other end of `descriptor`, from forkcore_tie_open, is closed, as it
/// is when the parent ends. Unlike PR_SET_PDEATHSIG this survives a change of credentials, if they were root's or stay
/// the same user's. F_SETSIG, F_SETOWN and O_ASYNC in fcntl(2).
int forkcore_tie(int descriptor);

/// This process gets SIGKILL after this time, whatever it does meanwhile. timer_create(2). Not signal-safe.
int forkcore_end_after(int64_t time_ns);

/// Why a worker must drain.
enum {
    FORKCORE_DRAIN_ASKED = 1,     ///< its parent asked it
    FORKCORE_DRAIN_SIGNALLED = 2, ///< it got SIGTERM; the next one ends it
    FORKCORE_DRAIN_LAST = 4,      ///< the server stops: clients that wait at the listeners must still be accepted
};

/// From now on the first SIGTERM sets FORKCORE_DRAIN_SIGNALLED in `*word`, makes `descriptor`, a socket of a pair,
/// readable, and adds 1 to `event`. Once that flag is set, SIGTERM ends the process as by default. Call it once.
/// sigaction(2), shutdown(2).
int forkcore_drain_on_term(uint32_t *word, int descriptor, int event);

/// From now on SIGABRT prints the calling stack on stderr, in several lines, before it ends the process. backtrace(3)
/// is signal-safe, except while the process loads a library: then only SIGKILL ends it. Does nothing without glibc. Not
/// signal-safe.
void forkcore_tell_where_on_abort(void);

#ifdef __cplusplus
}
#endif

#include "forkcore_sockets.h"

#endif
