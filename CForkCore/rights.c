// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that a peer attached to what it sent (SCM_RIGHTS), and that no process here receives.
//
// The kernel closes them when the last copy of the socket in whose queue they are is closed, or when their message is
// received without them; the process that does so waits for it. A close can take as long as the descriptor's owner has
// arranged, for example by SO_LINGER. So we do not let peers attach any where we expect none (SO_PASSRIGHTS, Linux
// 6.16). If the kernel cannot do that, or a client had connected before we forbade it, a closer does the close: a
// process that shares our descriptors, as the child of program.c does until it has its own table, and that an alarm
// ends if it has to wait. The alarm interrupts the wait.

#include "internal.h"
#include "raw.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

enum {
    CLOSERS = 8,
    FUTEX_WAIT = 0,
    PATIENCE_US = 10000, // no close takes so long, unless its owner wants that
};

struct closer {
    pid_t in_use; // not 0: the process still runs in our memory
    pid_t pid;    // not 0: not reaped yet
    int descriptor;
    bool receives; // receives the next message from the descriptor, instead of closing it
    bool begun;    // false if the alarm came before the close
    _Alignas(64) char stack[4096];
};

static struct closer closers[CLOSERS];
static pid_t holder; // the process whose thread holds the lock; a forked child's copy does not count as its own
static pid_t owner;  // the process that `closers` belongs to

int forkcore_refuse_rights(int descriptor)
{
    return setsockopt(descriptor, SOL_SOCKET, SO_PASSRIGHTS, &(int){0}, sizeof(int)) != 0 ? errno : 0;
}

int forkcore_accept_rights(int descriptor)
{
    return setsockopt(descriptor, SOL_SOCKET, SO_PASSRIGHTS, &(int){1}, sizeof(int)) != 0 ? errno : 0;
}

bool forkcore_takes_rights(int descriptor)
{
    int takes = 1;
    if (getsockopt(descriptor, SOL_SOCKET, SO_PASSRIGHTS, &takes, &(socklen_t){sizeof takes}) == 0)
        return takes != 0;
    return errno == ENOPROTOOPT; // EOPNOTSUPP: no Unix socket
}

// ----------------------------------------------------------------------------------------------------------- the closer

// Runs in our memory: only raw system calls, on its own stack, with signals blocked.
static int run(void *context)
{
    struct closer *closer = context;
    const struct itimerval alarm = {.it_value = {.tv_usec = PATIENCE_US}};
    uint64_t mask = ~forkcore_bit(SIGALRM);
    forkcore_raw(SYS_rt_sigaction, SIGALRM, (long)(uint64_t[4]){0}, 0, sizeof(uint64_t));
    forkcore_raw(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, sizeof mask);
    forkcore_raw(SYS_setitimer, ITIMER_REAL, (long)&alarm, 0, 0);
    if (closer->receives) {
        char byte;
        struct iovec data = {.iov_base = &byte, .iov_len = 1};
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
        forkcore_raw(SYS_recvmsg, closer->descriptor, (long)&message, MSG_DONTWAIT, 0);
    } else {
        __atomic_store_n(&closer->begun, true, __ATOMIC_RELEASE);
        forkcore_raw(SYS_close, closer->descriptor, 0, 0, 0);
    }
    return 0;
}

// ----------------------------------------------------------------------------------------------- starting closers

static bool is_in_use(const struct closer *closer)
{
    return __atomic_load_n(&closer->in_use, __ATOMIC_ACQUIRE) != 0;
}

// Waits until the closer has left our memory. Its alarm bounds the time, which peers could choose otherwise.
static void await(struct closer *closer)
{
    const struct timespec patience = {.tv_nsec = PATIENCE_US * 1000L};
    for (int i = 0; i < 10 && is_in_use(closer); i++)
        forkcore_raw(SYS_futex, (long)&closer->in_use, FUTEX_WAIT, closer->in_use, (long)&patience);
}

// Returns whether the closer was started; if not, no process could be created.
static bool start(struct closer *closer)
{
    sigset_t all, mask;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    closer->begun = false;
    closer->in_use = 1;
    const int stand_still = FORKCORE_HAS_RAW ? 0 : CLONE_VFORK;
    const int flags = CLONE_VM | CLONE_FILES | CLONE_CHILD_CLEARTID | stand_still;
    closer->pid = clone(run, closer->stack + sizeof closer->stack, flags, closer, NULL, NULL, &closer->in_use);
    if (closer->pid < 0)
        closer->in_use = closer->pid = 0;
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    return closer->pid > 0;
}

// Whether the closer has ended and is reaped. Such a child raises no signal at its end, and waits of other code do not
// see it.
static bool clear(struct closer *closer)
{
    if (is_in_use(closer) || (closer->pid > 0 && forkcore_raw(SYS_wait4, closer->pid, 0, WNOHANG | __WALL, 0) == 0))
        return false;
    bool done = closer->pid == 0 || closer->receives || closer->begun;
    closer->pid = 0;
    if (done)
        return true;
    if (start(closer)) // on a busy machine its alarm came before it began
        return false;
    forkcore_close(closer->descriptor);
    return true;
}

static struct closer *free_closer(void)
{
    struct closer *free = NULL;
    for (int i = 0; i < CLOSERS; i++) // checks all of them, so that few zombies are left
        if (clear(&closers[i]) && !free)
            free = &closers[i];
    if (free)
        return free;
    await(&closers[0]);
    return clear(&closers[0]) ? &closers[0] : NULL;
}

static void enter(void)
{
    const pid_t me = forkcore_process();
    pid_t found;
    do {
        found = __atomic_load_n(&holder, __ATOMIC_RELAXED);
    } while (found == me || !__atomic_compare_exchange_n(&holder, &found, me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    if (owner == me)
        return;
    owner = me;
    for (int i = 0; i < CLOSERS; i++)
        closers[i].in_use = closers[i].pid = 0;
}

static void leave(void)
{
    __atomic_store_n(&holder, 0, __ATOMIC_RELEASE);
}

// Starts a closer for the descriptor; NULL if no process could be created.
static struct closer *dispatch(int descriptor, bool receives)
{
    struct closer *closer = free_closer();
    if (!closer)
        return NULL;
    closer->descriptor = descriptor;
    closer->receives = receives;
    return start(closer) ? closer : NULL;
}

bool forkcore_is_closing_aside(void)
{
    bool is_closing = false;
    enter();
    for (int i = 0; i < CLOSERS; i++)
        if (!clear(&closers[i]) && !closers[i].receives)
            is_closing |= !__atomic_load_n(&closers[i].begun, __ATOMIC_ACQUIRE);
    leave();
    return is_closing;
}

void forkcore_close_aside(int descriptor)
{
    if (!forkcore_takes_rights(descriptor)) {
        forkcore_close(descriptor);
        return;
    }
    enter();
    if (!dispatch(descriptor, false))
        forkcore_close(descriptor); // no process: close it here, however long that takes
    leave();
}

bool forkcore_drop_rights(int descriptor)
{
    char byte;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    // On other sockets MSG_CTRUNC can mean that there was no room for other control data.
    if (!forkcore_takes_rights(descriptor) || recvmsg(descriptor, &message, MSG_PEEK | MSG_DONTWAIT) < 0 || !(message.msg_flags & MSG_CTRUNC))
        return false;
    enter();
    struct closer *closer = dispatch(descriptor, true);
    if (closer)
        await(closer);
    leave();
    return true;
}
