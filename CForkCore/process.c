// SPDX-License-Identifier: Apache-2.0
//
// fork, the child's first steps, its ending, and reaping.

#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <sys/single_threaded.h>
#endif

// Where libdispatch is linked in: makes a child that uses workers which it did not inherit crash at once, instead of
// waiting for them for ever.
__attribute__((weak)) void dispatch_atfork_child(void);

// Where the program is built for coverage: without these the lines that a child runs are counted nowhere.
__attribute__((weak)) void __llvm_profile_reset_counters(void);
__attribute__((weak)) void __llvm_profile_initialize_file(void);
__attribute__((weak)) int __llvm_profile_write_file(void);

static void take_first_steps(const struct forkcore_child_plan *plan, pid_t parent, const sigset_t *parents_mask)
{
    if (plan->own_group)
        setpgid(0, 0);
    if (plan->dies_with_parent) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) // it died before prctl: nobody will tell us any more
            _exit(0);
    }
    for (size_t i = 0; i < plan->closing_count; i++)
        close(plan->closing[i]);
    for (int number = 1; number <= FORKCORE_SIGNALS; number++)
        if (plan->defaults & forkcore_bit(number))
            sigaction(number, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    if (dispatch_atfork_child)
        dispatch_atfork_child();
    if (__llvm_profile_reset_counters && __llvm_profile_initialize_file) {
        __llvm_profile_reset_counters();
        __llvm_profile_initialize_file();
    }
    sigset_t mask = *parents_mask;
    for (int number = 1; number <= FORKCORE_SIGNALS; number++)
        if (plan->unblock & forkcore_bit(number))
            sigdelset(&mask, number);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

int forkcore_fork(const struct forkcore_child_plan *plan, int (*body)(void *context), void *context, pid_t *child)
{
    sigset_t all, before;
    pid_t parent = getpid();

    fflush(NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    int error = pid < 0 ? errno : 0;
    if (pid == 0) {
        take_first_steps(plan, parent, &before);
        forkcore_exit(body(context));
    }
    // Both sides make the group, so that neither can be surprised by its absence. Here it fails harmlessly if the child
    // has already executed a program or ended.
    if (pid > 0 && plan->own_group)
        setpgid(pid, pid);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    *child = pid;
    return error;
}

_Noreturn void forkcore_exit(int status)
{
    if (__llvm_profile_write_file)
        __llvm_profile_write_file();
    fflush(NULL);
    _exit(status);
}

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
    bool was_ignored;
    forkcore_ignore_sigpipe(false, &was_ignored);
    execve(path, argv, envp);
    return errno;
}

unsigned forkcore_thread_count(void)
{
#ifdef __GLIBC__
    if (__libc_single_threaded)
        return 1;
#endif
    struct stat tasks; // a directory a thread, besides . and ..
    if (stat("/proc/self/task", &tasks) != 0 || tasks.st_nlink < 3)
        return 0;
    return (unsigned)tasks.st_nlink - 2;
}

pid_t forkcore_thread_id(void)
{
    return (pid_t)syscall(SYS_gettid);
}

static int64_t microseconds(struct timeval time)
{
    return (int64_t)time.tv_sec * 1000000 + time.tv_usec;
}

int forkcore_reap(pid_t pid, bool end_group, struct forkcore_ending *ending)
{
    *ending = (struct forkcore_ending){.state = FORKCORE_RUNNING};
    if (end_group) {
        siginfo_t info = {.si_pid = 0};
        while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
            if (errno != EINTR)
                goto refused;
        if (info.si_pid == 0)
            return 0;
        kill(-pid, SIGKILL);
    }

    int status;
    struct rusage usage;
    pid_t got;
    while ((got = wait4(pid, &status, WNOHANG, &usage)) < 0)
        if (errno != EINTR)
            goto refused;
    if (got == 0)
        return 0;
    if (WIFSIGNALED(status)) {
        ending->state = FORKCORE_KILLED;
        ending->signal = WTERMSIG(status);
        ending->core = WCOREDUMP(status);
    } else {
        ending->state = FORKCORE_EXITED;
        ending->code = WEXITSTATUS(status);
    }
    ending->user_us = microseconds(usage.ru_utime);
    ending->system_us = microseconds(usage.ru_stime);
    ending->max_rss_kib = usage.ru_maxrss;
    ending->minor_faults = usage.ru_minflt;
    ending->major_faults = usage.ru_majflt;
    return 0;

refused:
    if (errno != ECHILD)
        return errno;
    ending->state = FORKCORE_LOST;
    return 0;
}

int forkcore_peek(pid_t *pid)
{
    siginfo_t info = {.si_pid = 0};
    *pid = 0;
    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0) {
        if (errno == ECHILD) // no children at all
            return 0;
        if (errno != EINTR)
            return errno;
    }
    *pid = info.si_pid;
    return 0;
}

int forkcore_pidfd(pid_t pid, int *descriptor)
{
    *descriptor = (int)syscall(SYS_pidfd_open, pid, 0);
    return *descriptor < 0 ? errno : 0;
}
