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

#ifdef __cplusplus
extern "C" {
#endif

// ---------------------------------------------------------------------------------------------- fork and the child

/// What a child does before its body runs. Owned by the caller; only read.
struct forkcore_child_plan {
    uint64_t unblock;    ///< signals that the parent blocked for itself, and that the child gets unblocked
    uint64_t defaults;   ///< signals whose disposition becomes SIG_DFL in the child
    uint64_t heedless;   ///< by forkcore_fork: signals that do nothing to the child, but have their default in programs that it
                         ///< executes; SIGTTIN and SIGTTOU are ignored there too
    const int *closing;  ///< descriptors that belong to the parent alone, ascending; closed in the child
    size_t closing_count;
    const int *keeping;  ///< those of them that the child keeps all the same
    size_t keeping_count;
    void *mark;          ///< the child's death mark, from forkcore_marks_occupy, or NULL
    bool own_group;        ///< the child leads a process group of its own (its id is the child's pid)
    bool own_session;      ///< and a session of its own, without a terminal
    bool dies_with_parent; ///< SIGKILL reaches the child when the thread that forked it ends (PR_SET_PDEATHSIG)
    int place;             ///< forkcore_spawn: where the program has its descriptor, instead of on 0 and 1; 0: there
};

/// Forks, and returns twice, as fork(2) does: in the child with 0 in `*child`, after the steps of `plan`.
///
/// Parent: any thread; returns 0 and stores the pid in `*child`, or returns fork's errno (EAGAIN, ENOMEM). All signals
/// are blocked across the fork, so no handler of the parent's runs in the child, and stdio is flushed before it, so
/// nothing the parent had buffered appears twice. The caller's mask is restored.
/// Child: takes the steps of `plan`, and restores the mask. It must end by forkcore_exit, and never return into the
/// parent's code.
/// Not signal-safe in the parent (fflush). In the child all of it is, with one exception: libdispatch is told of the fork
/// where it is linked in; it stores a few words and waits for no lock.
int forkcore_fork(const struct forkcore_child_plan *plan, pid_t *child);

/// Ends a child: flushes stdio, then _exit(status). No atexit handler of the parent's runs.
///
/// Child. Not signal-safe (fflush).
_Noreturn void forkcore_exit(int status);

/// Where children make themselves ready to be other programs. It is not copied to children.
struct forkcore_spawner;

/// How many can be in there at once, each with a descriptor of the parent's.
enum { FORKCORE_BERTHS = 8 };

/// Parent. mmap(2)'s errno.
int forkcore_spawner_open(struct forkcore_spawner **spawner);

/// Waits for the children that are still in there, which is a matter of microseconds. Parent.
void forkcore_spawner_close(struct forkcore_spawner *spawner);

/// Makes a child that is another program on `descriptor`, which stands on its descriptors 0 and 1; 2 is inherited, all others
/// are closed, SIGPIPE has its default. It costs the same however large the parent is, and however many descriptors above
/// `descriptor` it has: clone(2) with CLONE_VM and CLONE_FILES, execve(2).
///
/// Parent, one thread at a time: goes on while the child makes itself ready, and what it does to descriptor 2 meanwhile, the
/// child sees. Returns 0 and stores pid and pidfd, or returns the errno of what forkcore_spawner_refused names. The caller
/// closes the pidfd, which polls readable when the child ends. If the program cannot be executed, the child ends with status
/// 127, and execve's errno is in `*refusal`, which is 0 otherwise and must stay where it is until the child was reaped.
/// `plan` as in forkcore_fork, but that all descriptors from 3 on are closed, that there is no mark, that no handler of the
/// parent's is left, and that libc's fork handlers do not run.
/// Not signal-safe.
int forkcore_spawn(struct forkcore_spawner *spawner, const struct forkcore_child_plan *plan, int descriptor,
                   const char *path, char *const argv[], char *const envp[], int *refusal, pid_t *child, int *pidfd);

/// The system call that refused, after forkcore_spawn has: mmap, fcntl or clone. Parent.
const char *forkcore_spawner_refused(const struct forkcore_spawner *spawner);

/// Until a program runs, its connection is also open here. Closes those that need it no more; to be called within
/// a millisecond or so, for the program's closing its end to reach the client, and whenever a child was reaped.
///
/// Parent. Returns whether none is left.
bool forkcore_spawner_settle(struct forkcore_spawner *spawner);

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
/// With `end_group` the process group that `pid` leads gets SIGKILL while `pid` is still a zombie, when its id cannot
/// have been given to anyone else; only then is it reaped.
/// Returns 0 with `*ending` filled in. ECHILD is no error but FORKCORE_LOST; any other errno is returned.
/// Parent. Signal-safe.
int forkcore_reap(pid_t pid, bool end_group, struct forkcore_ending *ending);

/// Sends a signal to `pid`, or with `group`, for a child that was given an own_group, to that and to the child itself should
/// it have left it, if it is a child of ours that nobody has reaped yet; until then its number cannot be another's. ECHILD if
/// it is not. kill(2).
///
/// Parent. Signal-safe.
int forkcore_kill(pid_t pid, bool group, int number);

/// Which child has ended and waits to be reaped, if any: `*pid`, or 0. It is left as it is. waitid(2) with WNOWAIT.
///
/// Parent. Signal-safe.
int forkcore_peek(pid_t *pid);

/// A descriptor that becomes readable when `pid`, an unreaped child, ends. pidfd_open(2). The caller closes it.
///
/// Parent. Signal-safe.
int forkcore_pidfd(pid_t pid, int *descriptor);

/// Sends a signal to the process that a pidfd stands for, be it a child or not. pidfd_send_signal(2). ESRCH if it has ended
/// and was reaped.
///
/// Any process. Signal-safe.
int forkcore_pidfd_signal(int pidfd, int number);

/// Whether orphans below this process become its children, from now on; returns whether they did. PR_SET_CHILD_SUBREAPER.
///
/// Any process. Signal-safe.
bool forkcore_set_subreaper(bool on);

// ------------------------------------------------------------------------------------------------------- death marks
// Which children may have ended, at the price of reading a word of memory for each: see marks.c. Slots are numbered from
// 0. All but forkcore_mark_take run in the parent that opened them, one thread at a time, and are signal-safe.

struct forkcore_marks;

/// Makes `slots` vacant ones. A child has no copy of them, but for the mark that it is given.
int forkcore_marks_open(size_t slots, struct forkcore_marks **marks);
void forkcore_marks_close(struct forkcore_marks *marks);

/// Before a fork: a child is about to have this slot. Returns its mark, for the plan.
void *forkcore_marks_occupy(struct forkcore_marks *marks, size_t slot);

/// The slot's child was reaped, or never forked.
void forkcore_marks_vacate(struct forkcore_marks *marks, size_t slot);

/// The first slot in from..<end whose child may have ended and is worth asking for by forkcore_reap; `end` if there is none.
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

/// Memory that children get no copy of, so that it makes no fork dearer: zeroed, and only what is touched is used. A child
/// that touches it gets SIGSEGV. mmap(2), madvise(2) with MADV_DONTFORK. Any process. Signal-safe.
int forkcore_parent_memory_open(size_t size, void **memory);

/// In the process that opened it: elsewhere something else may be there by now.
void forkcore_parent_memory_close(void *memory, size_t size);

/// Makes forks cheaper: of program and libraries, unmaps what is unchanged, most of which served only to start. What is
/// used comes back by itself. Only in a process with one thread (EBUSY). Not signal-safe. /proc/pid/pagemap, madvise(2).
int forkcore_trim(void);

// ----------------------------------------------------------------------------------------------------------- signals

struct forkcore_signal {
    int number;
    pid_t sender; ///< for SIGCHLD: the child
};

/// Blocks `signals` in the calling thread and opens a signalfd(2) for them, non-blocking. `*blocked` says which of them
/// were not blocked before; give it to forkcore_signals_close, and to children as `unblock`.
///
/// Any process. Signal-safe.
int forkcore_signals_open(uint64_t signals, int *descriptor, uint64_t *blocked);

/// How many are taken at once. Each takes 128 bytes of stack, and more pages of that; two are seldom, as no signal waits
/// twice.
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

/// Adds `value` to an eventfd: asks the server that polls it to stop. From any thread, errno kept: this is the one to
/// call in a signal handler.
void forkcore_event_add(int descriptor, uint64_t value);

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

// ----------------------------------------------------------------------------------------------------------- sockets
// Any process. All signal-safe.

struct forkcore_listen_options {
    int backlog;
    bool datagram;      ///< SOCK_DGRAM: bound, not listening
    bool reuse_address; ///< SO_REUSEADDR (not for Unix sockets)
    bool reuse_port;    ///< SO_REUSEPORT (not for Unix sockets)
    bool v6_only;       ///< IPV6_V6ONLY
    int mode;           ///< permissions that a Unix socket's file is made with, less the umask; -1: those of the umask
};

/// Makes a bound socket; a stream's listens and is non-blocking, a datagram's blocks when children send on it. On failure
/// nothing is left open and `*call` names the system call that refused.
int forkcore_listen(const struct sockaddr *address, socklen_t length, const struct forkcore_listen_options *options,
                    int *descriptor, const char **call);

/// Makes an inherited descriptor like one from forkcore_listen. EBADF, ENOTSOCK, EPROTOTYPE (neither stream nor datagram)
/// or EINVAL (a stream's that does not listen) say what is wrong with it; it is then left as it was.
int forkcore_adopt(int descriptor, bool *datagram);

/// Whether somebody serves on a Unix socket's address: 0 yes; ECONNREFUSED nobody; else connect's errno.
int forkcore_probe_unix(const struct sockaddr *address, socklen_t length, bool datagram);

/// Connects to a Unix socket. `timeout_us` as in forkcore_set_timeout, for this and for all that follows; EAGAIN when it has
/// passed. The caller closes the descriptor. connect(2).
int forkcore_connect(const struct sockaddr *address, socklen_t length, int64_t timeout_us, int *descriptor);

/// Whether somebody who has a listening socket has called shutdown(2). Where that is a Unix socket it is readable for ever, and
/// accept4 says that there is no connection. poll(2).
bool forkcore_is_shut_down(int listener);

/// Makes sure that a listening socket listens, at `address`: somebody who has it may have called shutdown(2). `*again` says that
/// it had to be told so. ESHUTDOWN if it cannot be: a Unix socket stays shut down. poll(2), bind(2), listen(2).
int forkcore_listen_again(int listener, const struct sockaddr *address, socklen_t length, int backlog, bool *again);

/// The address that a socket is bound to. getsockname(2).
int forkcore_local_address(int descriptor, struct sockaddr_storage *address, socklen_t *length);

/// Takes a connection, blocking and close-on-exec; EAGAIN when there is none. accept4(2).
int forkcore_accept(int listener, struct sockaddr_storage *peer, socklen_t *length, int *descriptor);

/// How many connections wait to be accepted. TCP_INFO in tcp(7); for Unix sockets sock_diag(7), by a descriptor of its own
/// that is closed again. EINVAL if it does not listen, EOPNOTSUPP if it is neither TCP's nor a Unix socket; ENOENT where the
/// kernel cannot tell, as of a Unix socket from another network namespace; EMFILE and the like. `*queued` is 0 then.
int forkcore_queued(int listener, unsigned *queued);

/// recv(2): `*count` is 0 at the end of the stream. EAGAIN when SO_RCVTIMEO has passed.
int forkcore_receive(int descriptor, void *buffer, size_t size, size_t *count);

/// Waits until recv would not wait, but no longer than this, nor than SO_RCVTIMEO; then EAGAIN. poll(2).
int forkcore_await_input(int descriptor, int64_t timeout_ns);

/// send(2) until all is sent, without SIGPIPE. EAGAIN when SO_SNDTIMEO has passed.
int forkcore_send_all(int descriptor, const void *bytes, size_t count);

/// recvfrom(2), without waiting. `*truncated` says that the datagram was longer than `size`.
int forkcore_receive_datagram(int descriptor, void *buffer, size_t size, struct sockaddr_storage *peer,
                              socklen_t *length, size_t *count, bool *truncated);

/// sendto(2), waiting for room in the socket's buffer.
int forkcore_send_datagram(int descriptor, const void *bytes, size_t count, const struct sockaddr *peer,
                           socklen_t length);

/// Says that nothing more will be sent; what was sent still arrives. shutdown(2) with SHUT_WR.
void forkcore_finish_sending(int descriptor);

/// SO_RCVTIMEO and SO_SNDTIMEO, in microseconds; 0 is no time-out.
int forkcore_set_timeout(int descriptor, int64_t timeout_us);

/// TCP_NODELAY.
int forkcore_set_no_delay(int descriptor, bool on);

/// A pair of sockets by which one process hands descriptors over to another. socketpair(2). The caller closes both.
int forkcore_channel_open(int *one, int *other);

/// Sends a descriptor, and `count` bytes with it, without waiting; the caller's own stays open. EPIPE or ECONNRESET when
/// nobody will take it. SCM_RIGHTS in unix(7). On a stream of a Unix socket too, with one byte: more could come in pieces.
int forkcore_hand_over(int channel, int descriptor, const void *bytes, size_t count);

/// Waits for a descriptor and exactly `count` bytes. ESHUTDOWN when the other end was closed, EMFILE when this process had
/// no room for it, EBADMSG when bytes came without one, EMSGSIZE when other bytes came with it. The caller closes the
/// descriptor, which is close-on-exec.
int forkcore_take_over(int channel, int *descriptor, void *bytes, size_t count);

/// A file that is nowhere but in memory, to be written and handed over. memfd_create(2). The caller closes it.
int forkcore_memory_file(const char *name, int *descriptor);

/// Who is on the other side of a Unix stream socket. SO_PEERCRED.
int forkcore_peer_credentials(int descriptor, pid_t *pid, uid_t *uid, gid_t *gid);

#ifdef __cplusplus
}
#endif

#endif
