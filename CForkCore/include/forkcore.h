// SPDX-License-Identifier: Apache-2.0
//
// forkcore: fork, wait and _exit on Linux, with what stands around them.
//
// Every function returns 0 or an errno value; none sets a global for the caller to read. None allocates, none logs.
// EINTR never comes out: a call that a signal interrupted is made again. Every descriptor made here is close-on-exec.
//
// Each doc block says in which process the function runs, and whether it is async-signal-safe ("signal-safe"), which
// is what may run between fork and the child's body.
//
// A set of signals is a uint64_t, bit n-1 standing for signal n, as in the kernel.

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

/// What a child does before its body runs. Owned by the caller; only read.
struct forkcore_child_plan {
    uint64_t defaults;   ///< signals whose disposition becomes SIG_DFL in the child
    uint64_t heedless;   ///< by forkcore_fork: signals that do nothing to the child, but have their default in programs that it
                         ///< executes; SIGTTIN and SIGTTOU are ignored there too
    const int *closing;  ///< descriptors that belong to the parent alone, ascending; closed in the child
    size_t closing_count;
    void *mark;          ///< the child's death mark, from forkcore_marks_occupy, or NULL
    bool own_group;        ///< the child leads a process group of its own (its id is the child's pid)
    bool own_session;      ///< and a session of its own, without a terminal
    bool dies_with_parent; ///< SIGKILL reaches the child when the thread that forked it ends (PR_SET_PDEATHSIG)
    struct forkcore_watcher *watcher; ///< not NULL: this one sees to that instead, once the parent has ended; see watcher.c
    size_t watched_as;     ///< the child's place in the watcher's roster, where it writes its number
    int target_descriptor;             ///< forkcore_spawn: where the program has its descriptor, instead of on 0 and 1; 0: there
    bool closes_aside;     ///< forkcore_spawn: our copy of that descriptor is closed by forkcore_close_aside
    bool takes_errors;     ///< forkcore_spawn: the program has it as descriptor 2 as well
    struct forkcore_confinement confinement; ///< a child that cannot take it on ends with status 126, or is no program (see `exec_error`)
};

/// Forks, and returns twice, as fork(2) does: in the child with 0 in `*child`, after the steps of `plan`.
///
/// Parent: any thread; returns 0 and stores the pid in `*child`, or returns fork's errno (EAGAIN, ENOMEM). All signals
/// are blocked across the fork, so no handler of the parent's runs in the child, and stdio is flushed before it, so
/// nothing the parent had buffered appears twice. The caller's mask is restored. Child: takes the steps of `plan`, and
/// has an empty mask. It must end by forkcore_exit, and never return into the parent's code. Not signal-safe in the
/// parent (fflush). In the child all of it is, with one exception: libdispatch is told of the fork where it is linked
/// in; it stores a few words and waits for no lock.
int forkcore_fork(const struct forkcore_child_plan *plan, pid_t *child);

/// Ends a child: flushes stdio, then _exit(status). No atexit handler of the parent's runs.
///
/// Child. Not signal-safe (fflush).
_Noreturn void forkcore_exit(int status);

/// Where children make themselves ready to be other programs. It is not copied to children.
struct forkcore_spawner;

/// How many can be in there at once, each with a descriptor of the parent's.
enum { FORKCORE_SPAWN_SLOTS = 8 };

/// Parent. mmap(2)'s errno.
int forkcore_spawner_open(struct forkcore_spawner **spawner);

/// Waits until nobody is in there any more, but no longer than `timeout_ns`: a matter of microseconds, or of however
/// long a file system lets an execve(2) wait. Returns whether nobody is. Parent.
bool forkcore_spawner_await(struct forkcore_spawner *spawner, int64_t timeout_ns);

/// The same, and gives the memory back; but if somebody is in there still, what that one uses stays for ever, and where
/// its `exec_error` was is written to no more. Parent.
void forkcore_spawner_close(struct forkcore_spawner *spawner, int64_t timeout_ns);

/// Makes a child that is another program on `descriptor`, which stands on its descriptors 0 and 1; 2 is inherited, all
/// others are closed, SIGPIPE has its default. It costs the same however large the parent is, and however many
/// descriptors above `descriptor` it has: clone(2) with CLONE_VM and CLONE_FILES, execve(2).
///
/// Parent, one thread at a time: goes on while the child makes itself ready, and what it does to descriptor 2
/// meanwhile, the child sees. Returns 0 and stores pid and pidfd, or returns the errno of what
/// forkcore_spawner_failed_call names. The caller closes the pidfd, which polls readable when the child ends. EBUSY:
/// FORKCORE_SPAWN_SLOTS children are on their way already, or forkcore_close_aside has yet to close something: it is to
/// be tried again in a moment. If the program cannot be executed, the child ends with status 127, and execve's errno is
/// in `*exec_error`, which is 0 otherwise and must stay where it is until the child was reaped. `plan` as in
/// forkcore_fork, but that all descriptors from 3 on are closed, that there is no mark, that no handler of the parent's
/// is left, and that libc's fork handlers do not run. Its mask is empty. Not signal-safe.
int forkcore_spawn(struct forkcore_spawner *spawner, const struct forkcore_child_plan *plan, int descriptor,
                   const char *path, char *const argv[], char *const envp[], int *exec_error, pid_t *child, int *pidfd);

/// The system call that refused, after forkcore_spawn has: mmap, fcntl or clone. Parent.
const char *forkcore_spawner_failed_call(const struct forkcore_spawner *spawner);

/// Until a program runs, its connection is also open here. Closes those that need it no more; to be called within
/// a millisecond or so, for the program's closing its end to reach the client, and whenever a child was reaped.
///
/// Parent. Returns whether none is left.
bool forkcore_spawner_close_descriptors(struct forkcore_spawner *spawner);

/// This process's number: getpid(2), without a system call but for the first time in each process.
///
/// Any process, but not a child made by a raw clone(2), of which libc knows nothing. Signal-safe.
pid_t forkcore_process(void);

/// How many threads this process has: 0 when the kernel does not say (no /proc).
///
/// Any process. Signal-safe. Costs no system call in a process that never started a thread (glibc).
unsigned forkcore_thread_count(void);

/// The calling thread's number; the first thread's is the process's. gettid(2).
///
/// Any process. Signal-safe.
pid_t forkcore_thread_id(void);

/// How many cores the calling thread may run on. sched_getaffinity(2).
///
/// Any process. Signal-safe.
int forkcore_affinity(unsigned *cores);

// ----------------------------------------------------------------------------------------------------------- waiting

enum forkcore_state {
    FORKCORE_RUNNING, ///< has not ended; still the caller's to wait for
    FORKCORE_EXITED,  ///< ended by _exit; `code` is set
    FORKCORE_KILLED,  ///< ended by a signal; `signal` and `core` are set
    FORKCORE_LOST     ///< was not ours to wait for: somebody else reaped it (ECHILD). Nothing else is known.
};

/// How a child ended, and what it used: getrusage(2)'s numbers, its own waited-for children's included.
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
/// An end is by _exit or by a signal, and nothing else. A child that had us trace it (ptrace(2), PTRACE_TRACEME) and
/// stands still gets SIGKILL, as nobody will ever continue it; it has not ended yet. One that has ended while another
/// process traces it runs on, as it seems here, until that one lets go: see forkcore_has_ended. With `end_group` the
/// process group that `pid` leads gets SIGKILL while `pid` is still a zombie, when its id cannot have been given to
/// anyone else; only then is it reaped. Returns 0 with `*ending` filled in. ECHILD is no error but FORKCORE_LOST; any
/// other errno is returned. Parent. Signal-safe.
int forkcore_reap(pid_t pid, bool end_group, struct forkcore_ending *ending);

/// Sends a signal to `pid`, or with `group`, for a child that was given an own_group, to that and to the child itself
/// should it have left it, if it is a child of ours that nobody has reaped yet; until then its number cannot be
/// another's. ECHILD if it is not; EPERM if the child has taken other credentials than ours, as a set-user-ID program
/// can, even if others of its group were signalled. kill(2).
///
/// Parent. Signal-safe.
int forkcore_kill(pid_t pid, bool group, int number);

/// Who waits to be waited for, if anybody: `*pid`, or 0. That one has ended, or it is traced by us and stopped, or it
/// is a thread of such a child; whoever else waits is hidden behind it. It is left as it is. waitid(2) with WNOWAIT.
///
/// Parent. Signal-safe.
int forkcore_peek(pid_t *pid);

/// Whether `pid`, an unreaped child, has ended, be it that a tracer holds it, so that it cannot be reaped.
/// pidfd_open(2).
///
/// Parent. Signal-safe.
int forkcore_has_ended(pid_t pid, bool *ended);

/// Which process `thread` belongs to: itself if it is its first one; 0 if there is none such, or no /proc.
///
/// Any process. Not signal-safe.
pid_t forkcore_process_of(pid_t thread);

/// A descriptor that becomes readable when `pid`, an unreaped child, ends. pidfd_open(2). The caller closes it.
///
/// Parent. Signal-safe.
int forkcore_pidfd(pid_t pid, int *descriptor);

/// Sends a signal to the process that a pidfd stands for, be it a child or not. pidfd_send_signal(2). ESRCH if it has
/// ended and was reaped.
///
/// Any process. Signal-safe.
int forkcore_pidfd_signal(int pidfd, int number);

/// Whether orphans below this process become its children, from now on; returns whether they did.
/// PR_SET_CHILD_SUBREAPER.
///
/// Any process. Signal-safe.
bool forkcore_set_subreaper(bool on);

// ------------------------------------------------------------------------------------------------------- death marks
// Which children may have ended, at the price of reading a word of memory for each: see marks.c. Slots are numbered
// from
// 0. All but forkcore_mark_take run in the parent that opened them, one thread at a time, and are signal-safe.

struct forkcore_marks;

/// Makes `slots` vacant ones. A child has no copy of them, but for the mark that it is given.
int forkcore_marks_open(size_t slots, struct forkcore_marks **marks);
void forkcore_marks_close(struct forkcore_marks *marks);

/// Before a fork: a child is about to have this slot. Returns its mark, for the plan.
void *forkcore_marks_occupy(struct forkcore_marks *marks, size_t slot);

/// The slot's child was reaped, or never forked.
void forkcore_marks_vacate(struct forkcore_marks *marks, size_t slot);

/// The first slot in from..<end whose child may have ended and is worth asking for by forkcore_reap; `end` if there is
/// none.
size_t forkcore_marks_next(const struct forkcore_marks *marks, size_t from, size_t end);

/// The slot's child was asked for, and lives. Several times so, and forkcore_marks_next passes it over.
void forkcore_marks_doubt(struct forkcore_marks *marks, size_t slot);

/// Forgets such doubts.
void forkcore_marks_trust(struct forkcore_marks *marks, size_t slot);

/// Whether the slot's mark says that `pid` lives.
bool forkcore_marks_holds(const struct forkcore_marks *marks, size_t slot, pid_t pid);

/// The child's first act: from now on its end, whatever brings it about, shows in the mark.
///
/// Child of the thread that called forkcore_marks_occupy. Signal-safe (it tries a mutex of its own).
void forkcore_mark_take(void *mark);

// ------------------------------------------------------------------------------------------------------------ memory

/// Memory that children get no copy of, so that it makes no fork dearer: zeroed, and only what is touched is used. A
/// child that touches it gets SIGSEGV. mmap(2), madvise(2) with MADV_DONTFORK. Any process. Signal-safe.
int forkcore_parent_memory_open(size_t size, void **memory);

/// In the process that opened it: elsewhere something else may be there by now.
void forkcore_parent_memory_close(void *memory, size_t size);

/// Makes forks cheaper: of program and libraries, unmaps what is unchanged, most of which served only to start. What is
/// used comes back by itself. Only in a process with one thread (EBUSY). Not signal-safe. /proc/pid/pagemap,
/// madvise(2).
int forkcore_trim(void);

// ----------------------------------------------------------------------------------------------------------- signals

struct forkcore_signal {
    int number;
    pid_t sender; ///< for SIGCHLD: the child
};

/// Blocks `signals` in the calling thread and opens a signalfd(2) for them, non-blocking. `*blocked` says which of them
/// were not blocked before; give it to forkcore_signals_close.
///
/// Any process. Signal-safe.
int forkcore_signals_open(uint64_t signals, int *descriptor, uint64_t *blocked);

/// How many are taken at once. Each takes 128 bytes of stack, and more pages of that; two are seldom, as no signal
/// waits twice.
enum { FORKCORE_SIGNALS_AT_ONCE = 4 };

/// Takes up to `capacity` pending signals, and no more than FORKCORE_SIGNALS_AT_ONCE; `*count` is 0 when none is.
///
/// The process that opened the descriptor. Signal-safe.
int forkcore_signals_read(int descriptor, struct forkcore_signal *signals, size_t capacity, size_t *count);

/// Throws away what is pending, closes, and unblocks `blocked`.
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

/// Makes sure that ended children stay until they are reaped: a SIGCHLD ignored by whoever started us, or SA_NOCLDWAIT,
/// is reset to SIG_DFL. EBUSY when a handler for SIGCHLD is installed, which is left in place.
///
/// Parent. Signal-safe.
int forkcore_keep_zombies(void);

// ------------------------------------------------------------------------------------- descriptors that can be polled
// Any process. All signal-safe.

/// An eventfd(2), non-blocking. The caller closes it.
int forkcore_event_open(int *descriptor);

/// Adds `value` to an eventfd. From any thread, errno kept.
void forkcore_event_add(int descriptor, uint64_t value);

// What a server's stop switch is given for each step, by this or by a write(2) of a program's own: the numbers are part
// of the API (StopSwitch.word, docs/SIGNALS.md). An eventfd adds up what it is given, so each step has its own digits
// of the sum.
#define FORKCORE_STOP_DRAIN 1ULL
#define FORKCORE_STOP_TERMINATE (1ULL << 24)
#define FORKCORE_STOP_KILL (1ULL << 48)

/// Takes the sum of what was added, 0 when nothing was.
uint64_t forkcore_event_take(int descriptor);

/// A timerfd(2) on CLOCK_MONOTONIC, non-blocking. The caller closes it.
int forkcore_timer_open(int *descriptor);

/// Fires at `at` nanoseconds of CLOCK_MONOTONIC, at once if that is past; 0 disarms.
int forkcore_timer_set(int descriptor, int64_t at);

/// An epoll(7) instance. The caller closes it.
int forkcore_poll_open(int *descriptor);

/// Watches `watched` for input; `token` comes back from forkcore_poll_ready.
int forkcore_poll_add(int descriptor, int watched, uint64_t token);

/// Ends that watch. Closing `watched` alone does not, as long as a forked process has a copy of it.
void forkcore_poll_remove(int descriptor, int watched);

/// The tokens of up to `capacity` descriptors that are readable now, without waiting.
int forkcore_poll_ready(int descriptor, uint64_t *tokens, size_t capacity, size_t *count);

/// Waits until one of `count` descriptors is readable or `timeout_ns` have passed (-1: for ever). Bit i of `*ready`
/// stands for descriptors[i]; a negative descriptor is passed over. A signal handler that ran ends the wait with
/// nothing ready, so that its caller can look around. ppoll(2); `count` is at most 8.
int forkcore_wait_readable(const int *descriptors, size_t count, int64_t timeout_ns, uint32_t *ready);

/// Closes a descriptor. EINTR counts as closed, as on Linux it is.
void forkcore_close(int descriptor);

// Sockets: forkcore_sockets.h.

// ----------------------------------------------------------------------------------------------------------- workers
// In a worker, and signal-safe, unless said otherwise.

/// Memory that a parent and the next child have in common, zero at first. mmap(2) with MAP_SHARED. Any process.
int forkcore_shared_open(size_t size, void **memory);

/// Later children get no copy of it: a worker can then write to nobody's but its own. Parent, after the fork.
/// madvise(2) with MADV_DONTFORK.
int forkcore_shared_withhold(void *memory, size_t size);

/// Any process; the other's mapping stays.
void forkcore_shared_close(void *memory, size_t size);

/// As forkcore_poll_add, for a descriptor that several processes wait for: news of it wakes one of them.
/// EPOLLEXCLUSIVE. Whoever was woken is to look before it leaves: the others were not.
int forkcore_poll_add_exclusive(int descriptor, int watched, uint64_t token);

/// Waits until one of what is watched is readable, a signal handler has run, or `timeout_ms` have passed (-1: for
/// ever); its token, or UINT64_MAX. epoll_wait(2); to wait for the instance by poll(2) would wake all for whom news is
/// exclusive.
int forkcore_poll_wait(int descriptor, int timeout_ms, uint64_t *token);

/// A pair of sockets: when the parent closes its end, the worker's is readable, at its end. The worker can send nothing
/// that way. The caller closes both. socketpair(2), shutdown(2). Parent.
int forkcore_lifeline_open(int *parents, int *workers);

/// A pipe, for forkcore_tie. The caller closes both ends. pipe2(2). Parent.
int forkcore_tie_open(int *parents, int *workers);

/// From now on this process gets SIGKILL when the other end of `descriptor`, from forkcore_tie_open, is closed, as it
/// is when the parent ends. Unlike PR_SET_PDEATHSIG that outlasts a change of rights, if they were root's or stay the
/// same user's. F_SETSIG, F_SETOWN and O_ASYNC in fcntl(2).
int forkcore_tie(int descriptor);

/// This process gets SIGKILL after this time, whatever it does meanwhile. timer_create(2). Not signal-safe.
int forkcore_end_after(int64_t time_ns);

/// Why a worker is to drain.
enum {
    FORKCORE_DRAIN_ASKED = 1,     ///< its parent says so
    FORKCORE_DRAIN_SIGNALLED = 2, ///< SIGTERM has come; the next one ends it
    FORKCORE_DRAIN_LAST = 4,      ///< all stop: who waited at the listeners then is still to be taken
};

/// From now on the first SIGTERM sets FORKCORE_DRAIN_SIGNALLED in `*word`, makes `descriptor`, a socket of a pair,
/// readable, and adds 1 to `event`. When that is set already, SIGTERM ends the process as ever. Once. sigaction(2),
/// shutdown(2).
int forkcore_drain_on_term(uint32_t *word, int descriptor, int event);

/// From now on SIGABRT prints the calling stack on stderr, some lines of it, before it ends the process. backtrace(3),
/// which is signal-safe but where the process was just loading a library: then SIGKILL has to end it. Nothing but with
/// glibc. Not signal-safe.
void forkcore_tell_where_on_abort(void);

#ifdef __cplusplus
}
#endif

#include "forkcore_sockets.h"

#endif
