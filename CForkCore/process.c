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
    forkcore_default_sigpipe();
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

// Which of the children that `type` and `id` name has ended, or 0; it is left as it is.
static int look(idtype_t type, id_t id, pid_t *ended)
{
    siginfo_t info = {.si_pid = 0};
    *ended = 0;
    while (waitid(type, id, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
        if (errno != EINTR)
            return errno;
    *ended = info.si_pid;
    return 0;
}

int forkcore_peek(pid_t *pid)
{
    int error = look(P_ALL, 0, pid);
    return error == ECHILD ? 0 : error; // no children at all
}

int forkcore_kill(pid_t pid, bool group, int number)
{
    pid_t ended;
    int error = look(P_PID, (id_t)pid, &ended);
    if (error != 0)
        return error;
    bool done = group && kill(-pid, number) == 0;
    if (!done || getpgid(pid) != pid) // a child can leave its group, but not escape so
        done = kill(pid, number) == 0;
    return done ? 0 : errno;
}

static int reap_now(pid_t pid, int *status, struct rusage *usage, pid_t *ended)
{
    while ((*ended = wait4(pid, status, WNOHANG, usage)) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

static struct forkcore_ending ending_of(int status, const struct rusage *usage)
{
    bool killed = WIFSIGNALED(status);
    return (struct forkcore_ending){
        .state = killed ? FORKCORE_KILLED : FORKCORE_EXITED,
        .code = killed ? 0 : WEXITSTATUS(status),
        .signal = killed ? WTERMSIG(status) : 0,
        .core = killed && WCOREDUMP(status),
        .user_us = microseconds(usage->ru_utime),
        .system_us = microseconds(usage->ru_stime),
        .max_rss_kib = usage->ru_maxrss,
        .minor_faults = usage->ru_minflt,
        .major_faults = usage->ru_majflt,
    };
}

int forkcore_reap(pid_t pid, bool end_group, struct forkcore_ending *ending)
{
    int status, error = 0;
    struct rusage usage;
    pid_t ended = pid;

    *ending = (struct forkcore_ending){.state = FORKCORE_RUNNING};
    if (end_group && (error = look(P_PID, (id_t)pid, &ended)) == 0 && ended != 0)
        kill(-pid, SIGKILL);
    if (error == 0 && ended != 0)
        error = reap_now(pid, &status, &usage, &ended);
    if (error == 0 && ended != 0)
        *ending = ending_of(status, &usage);
    if (error != ECHILD)
        return error;
    ending->state = FORKCORE_LOST;
    return 0;
}

int forkcore_pidfd(pid_t pid, int *descriptor)
{
    *descriptor = (int)syscall(SYS_pidfd_open, pid, 0);
    return *descriptor < 0 ? errno : 0;
}
