// SPDX-License-Identifier: Apache-2.0
//
// Children that become another program.

#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int place(int descriptor, int target)
{
    if (descriptor == target) // dup2 would leave it close-on-exec
        return fcntl(target, F_SETFD, 0) < 0 ? errno : 0;
    while (dup2(descriptor, target) < 0)
        if (errno != EINTR && errno != EBUSY)
            return errno;
    return 0;
}

int forkcore_exec(int descriptor, const char *path, char *const argv[], char *const envp[])
{
    int error = place(descriptor, STDIN_FILENO);
    if (error == 0)
        error = place(descriptor, STDOUT_FILENO);
    if (error != 0)
        return error;
    // Marked, not closed: if execve fails, what its caller holds is still what it was. A kernel before 5.11 refuses,
    // and what the server itself opened is close-on-exec anyway.
    const unsigned cloexec = 1U << 2;
    syscall(SYS_close_range, 3U, ~0U, cloexec);
    forkcore_default_sigpipe();
    execve(path, argv, envp);
    return errno;
}

struct spawning {
    const struct forkcore_child_plan *plan;
    int descriptor;
    const char *path;
    char *const *argv, *const *envp;
    pid_t parent;
    sigset_t mask;
    volatile int error; // the child runs in our memory, and tells us here
};

// The child shares the parent's table of descriptors: it gets one of its own, with a copy only of those up to its own
// connection. In a server that is a dozen, as a connection has the lowest number that is free.
static int unshare_descriptors(int descriptor)
{
    const unsigned unshare_first = 1U << 1;
    if (syscall(SYS_close_range, (unsigned)descriptor + 1, ~0U, unshare_first) == 0)
        return 0;
    return unshare(CLONE_FILES) != 0 ? errno : 0; // a kernel before 5.9
}

static int become_program(void *context)
{
    struct spawning *spawning = context;
    forkcore_tie(spawning->plan, spawning->parent);
    spawning->error = unshare_descriptors(spawning->descriptor);
    if (spawning->error == 0) {
        forkcore_restore_signals(spawning->plan, spawning->mask);
        spawning->error = forkcore_exec(spawning->descriptor, spawning->path, spawning->argv, spawning->envp);
    }
    _exit(127);
}

int forkcore_spawn(const struct forkcore_child_plan *plan, int descriptor, const char *path, char *const argv[],
                   char *const envp[], pid_t *child, int *pidfd)
{
    _Alignas(64) char stack[16384]; // the child's; ours would do, but that clone wants to be told of another
    struct spawning spawning = {plan, descriptor, path, argv, envp, .parent = forkcore_process()};
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &spawning.mask);
    const int flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_PIDFD | SIGCHLD;
    *child = clone(become_program, stack + sizeof stack, flags, &spawning, pidfd);
    int error = *child < 0 ? errno : spawning.error;
    pthread_sigmask(SIG_SETMASK, &spawning.mask, NULL);
    if (*child > 0 && error != 0) {
        while (waitpid(*child, NULL, 0) < 0 && errno == EINTR) {}
        forkcore_close(*pidfd);
    }
    return error;
}
