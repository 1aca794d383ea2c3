// SPDX-License-Identifier: Apache-2.0
//
// fork, the child's first steps, its end, and reaping. Parent, unless a comment says child.

#include "internal.h"
#include "raw.h"

#include <errno.h>
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

// Defined if libdispatch is linked in. A child that uses worker threads, which fork does not copy, then crashes at
// once, instead of waiting for them for ever. Only a process that has had another thread can have had worker threads.
__attribute__((weak)) void dispatch_atfork_child(void);

// Defined if the program is built for coverage: without these calls the lines that a child runs are not counted.
__attribute__((weak)) void __llvm_profile_reset_counters(void);
__attribute__((weak)) void __llvm_profile_initialize_file(void);
__attribute__((weak)) int __llvm_profile_write_file(void);

// Looked up once: a child would read these in the linker's table of addresses, which is one more page.
static bool is_for_coverage;

__attribute__((constructor)) static void look_for_coverage(void)
{
    is_for_coverage = __llvm_profile_reset_counters && __llvm_profile_initialize_file && __llvm_profile_write_file;
}

// Closes ranges, because the parent's descriptors usually have successive numbers: it opened them at its start.
static void close_range_of(int first, int last)
{
    if (forkcore_raw(SYS_close_range, first, last, 0, 0) < 0)
        for (int descriptor = first; descriptor <= last; descriptor++) // a kernel before 5.9
            close(descriptor);
}

static void close_parents(const struct forkcore_child_plan *plan)
{
    int first = -1, last = -1;
    for (size_t i = 0; i < plan->closing_count; i++) {
        int next = plan->closing[i];
        if (first >= 0 && next != last + 1) {
            close_range_of(first, last);
            first = -1;
        }
        if (first < 0)
            first = next;
        last = next;
    }
    if (first >= 0)
        close_range_of(first, last);
}

#if defined(__GLIBC__) && defined(__PIC__) && !defined(__PIE__)

extern FILE *_IO_list_all; // otherwise this could be a copy that glibc does not update

// Whether a stream has buffered output. fflush(NULL) checks the same, but takes locks, and so costs parent and child a
// page fault each.
static bool is_anything_buffered(void)
{
    if (!__libc_single_threaded)
        return true;
    for (const FILE *stream = _IO_list_all; stream != NULL; stream = stream->_chain)
        if (stream->_mode > 0 || stream->_IO_write_ptr > stream->_IO_write_base) // wide streams are not checked
            return true;
    return false;
}

#else

static bool is_anything_buffered(void)
{
    return true;
}

#endif

static void flush(void)
{
    if (is_anything_buffered())
        fflush(NULL);
}

struct parent {
    pid_t pid;
    bool had_threads;
    sigset_t mask;
};

// Raw system calls where the parent does not call libc's function: in a dynamically linked program each child would
// look it up, which takes about twenty page faults.
static _Noreturn void end_process(int status)
{
    for (;;)
        forkcore_raw(SYS_exit_group, status, 0, 0, 0);
}

static void tie(const struct forkcore_child_plan *plan, pid_t parent)
{
    const char *call;
    if (plan->own_session)
        forkcore_raw(SYS_setsid, 0, 0, 0, 0);
    else if (plan->own_group)
        forkcore_raw(SYS_setpgid, 0, 0, 0, 0);
    if (forkcore_confine(&plan->confinement, &call) != 0)
        end_process(126);
    if (plan->dies_with_parent) {
        if (plan->watcher)
            forkcore_watcher_enlist(plan->watcher, plan->watched_as);
        else
            forkcore_raw(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
        if (forkcore_raw(SYS_getppid, 0, 0, 0, 0) != parent) // the parent died before the prctl, so no signal will come
            end_process(0);
    }
}

static void heed_nothing(int number)
{
    (void)number;
}

// A handler, not SIG_IGN, so that programs that the worker executes get the default back. But with a handler for
// SIGTTIN or SIGTTOU a background process of a terminal would try to read or write again and again.
static void ignore(int number)
{
    bool of_terminals = number == SIGTTIN || number == SIGTTOU;
    struct sigaction action = {.sa_handler = of_terminals ? SIG_IGN : heed_nothing, .sa_flags = SA_RESTART};
    sigaction(number, &action, NULL);
}

// Unblocks all signals. The process that started us may have blocked some, and a child that blocks SIGTERM could only
// be killed.
static void let_signals_through(const struct forkcore_child_plan *plan)
{
    sigset_t none;
    for (uint64_t left = plan->defaults; left != 0; left &= left - 1)
        sigaction(forkcore_lowest(left), &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    for (uint64_t left = plan->heedless; left != 0; left &= left - 1)
        ignore(forkcore_lowest(left));
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
}

static void take_first_steps(const struct forkcore_child_plan *plan, const struct parent *parent)
{
    if (plan->mark)
        forkcore_mark_take(plan->mark);
    tie(plan, parent->pid);
    close_parents(plan);
    if (parent->had_threads && dispatch_atfork_child)
        dispatch_atfork_child();
    if (is_for_coverage) {
        __llvm_profile_reset_counters();
        __llvm_profile_initialize_file();
    }
    let_signals_through(plan);
}

int forkcore_fork(const struct forkcore_child_plan *plan, pid_t *child)
{
    struct parent parent = {.pid = forkcore_process(), .had_threads = forkcore_thread_count() != 1};
    sigset_t all;

    flush();
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &parent.mask);
    if (plan->watcher)
        forkcore_watcher_lend(plan->watcher, true);
    pid_t pid = fork();
    int error = pid < 0 ? errno : 0;
    *child = pid;
    if (plan->watcher && pid != 0)
        forkcore_watcher_lend(plan->watcher, false);
    if (pid == 0)
        take_first_steps(plan, &parent);
    else
        pthread_sigmask(SIG_SETMASK, &parent.mask, NULL);
    return error;
}

_Noreturn void forkcore_exit(int status)
{
    if (is_for_coverage)
        __llvm_profile_write_file();
    flush();
    end_process(status);
}

unsigned forkcore_thread_count(void)
{
#ifdef __GLIBC__
    if (__libc_single_threaded)
        return 1;
#endif
    struct stat tasks; // one directory per thread, besides . and ..
    if (stat("/proc/self/task", &tasks) != 0 || tasks.st_nlink < 3)
        return 0;
    return (unsigned)tasks.st_nlink - 2;
}

pid_t forkcore_thread_id(void)
{
    return (pid_t)syscall(SYS_gettid);
}

int forkcore_affinity(unsigned *cores)
{
    uint64_t set[8192 / 64] = {0}; // the maximum of any kernel, which refuses a set that is smaller than its own
    *cores = 0;
    if (syscall(SYS_sched_getaffinity, 0, sizeof set, set) < 0)
        return errno;
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++)
        *cores += (unsigned)__builtin_popcountll(set[i]);
    return 0;
}

static int64_t microseconds(struct timeval time)
{
    return (int64_t)time.tv_sec * 1000000 + time.tv_usec;
}

// Finds a child to reap among those that `type` and `id` name, and does not reap it; `info->si_pid` is 0 if there is
// none.
static int look(idtype_t type, id_t id, siginfo_t *info)
{
    *info = (siginfo_t){.si_pid = 0};
    while (waitid(type, id, info, WEXITED | WNOHANG | WNOWAIT) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

int forkcore_peek(pid_t *pid)
{
    siginfo_t info;
    int error = look(P_ALL, 0, &info);
    *pid = info.si_pid;
    return error == ECHILD ? 0 : error; // no children at all
}

int forkcore_kill(pid_t pid, bool group, int number)
{
    siginfo_t info;
    int error = look(P_PID, (id_t)pid, &info);
    if (error != 0)
        return error;
    bool done = group && kill(-pid, number) == 0;
    // A new child may not have made its group yet, so we make it. If the child has left its group, setpgid fails, which
    // does no harm. After it the child's own setsid fails: the child stays in our session, but leads the group, and the
    // signal is already pending.
    if (group && !done && errno == ESRCH && setpgid(pid, pid) == 0)
        done = kill(-pid, number) == 0;
    // A child that has left its group must not escape the signal. And kill succeeds for a group if one of its members
    // got the signal, so we check whether we may signal the child itself.
    if (!done || getpgid(pid) != pid)
        return kill(pid, number) == 0 ? 0 : errno;
    return kill(pid, 0) == 0 ? 0 : errno;
}

// wait4 also reports stops to a tracer, whatever its options, and PTRACE_TRACEME makes a parent the tracer of its
// child. No process will ever continue that child, so we kill it.
static int reap_now(pid_t pid, int *status, struct rusage *usage, bool *ended)
{
    pid_t found;
    while ((found = wait4(pid, status, WNOHANG, usage)) < 0)
        if (errno != EINTR)
            return errno;
    *ended = found != 0 && (WIFEXITED(*status) || WIFSIGNALED(*status));
    if (found != 0 && !*ended)
        kill(pid, SIGKILL);
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
    bool ended = false;
    siginfo_t info = {.si_pid = pid};

    *ending = (struct forkcore_ending){.state = FORKCORE_RUNNING};
    if (end_group && (error = look(P_PID, (id_t)pid, &info)) == 0 && info.si_pid != 0)
        kill(-pid, SIGKILL);
    if (error == 0 && info.si_pid != 0)
        error = reap_now(pid, &status, &usage, &ended);
    if (error == 0 && ended)
        *ending = ending_of(status, &usage);
    if (error != ECHILD)
        return error;
    ending->state = FORKCORE_LOST;
    return 0;
}

int forkcore_pidfd_signal(int pidfd, int number)
{
    return syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0U) != 0 ? errno : 0;
}

bool forkcore_set_subreaper(bool on)
{
    int before = 0;
    if (prctl(PR_GET_CHILD_SUBREAPER, &before) == 0 && (before != 0) != on)
        prctl(PR_SET_CHILD_SUBREAPER, on ? 1UL : 0UL);
    return before != 0;
}

int forkcore_pidfd(pid_t pid, int *descriptor)
{
    *descriptor = (int)syscall(SYS_pidfd_open, pid, 0);
    return *descriptor < 0 ? errno : 0;
}
