// SPDX-License-Identifier: Apache-2.0
//
// Children that ptrace(2) has a hand in, and programs that are long on their way through execve.

#include "test.h"

#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#ifdef __GLIBC__ // musl-gcc has no headers of the kernel's
#include <linux/filter.h>
#include <linux/seccomp.h>
#endif

// As forkcore_reap tells it in the end.
static struct forkcore_ending await_reaped(pid_t pid)
{
    struct forkcore_ending ending;
    for (int i = 0; i < 30000; i++) {
        CHECK(forkcore_reap(pid, false, &ending) == 0);
        if (ending.state != FORKCORE_RUNNING)
            return ending;
        poll(NULL, 0, 1);
    }
    CHECK(!"it is never reaped");
    return ending;
}

static int be_traced_and_stop(void *context)
{
    (void)context;
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        return 1;
    raise(SIGSTOP);
    for (;;)
        pause();
}

static int first_exit_of(pid_t pid)
{
    siginfo_t info = {0};
    CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    return info.si_code;
}

enum manner { REAPED, REAPED_WITH_GROUP, SIGNALLED, MANNERS };

// Its parent is told of it as of an end, but for the code.
static void a_child_that_stops_under_its_parents_eyes_is_killed(void)
{
    for (enum manner manner = REAPED; manner < MANNERS; manner++) {
        struct forkcore_ending ending = {.state = FORKCORE_RUNNING};
        struct gate gate = make_gate();
        pid_t other = start(NULL, wait_for_gate, &gate), seen;
        pid_t pid = start(&(struct forkcore_child_plan){.own_group = true}, be_traced_and_stop, NULL);
        CHECK(first_exit_of(pid) == CLD_TRAPPED);
        CHECK(forkcore_peek(&seen) == 0 && seen == pid);
        if (manner == SIGNALLED) {
            CHECK(forkcore_kill(pid, true, 0) == 0);
        } else {
            CHECK(forkcore_reap(pid, manner == REAPED_WITH_GROUP, &ending) == 0);
            CHECK(manner == REAPED_WITH_GROUP || ending.state == FORKCORE_RUNNING); // its group was killed first
        }
        if (ending.state == FORKCORE_RUNNING)
            ending = await_reaped(pid);
        CHECK(ending.state == FORKCORE_KILLED && ending.signal == SIGKILL);
        CHECK(forkcore_peek(&seen) == 0 && seen == 0);
        close_gate(gate);
        await_end(other);
    }
}

struct family {
    struct gate begin, end;
    pid_t traced;
    int word;
};

static int wait_and_exit(void *context)
{
    struct family *family = context;
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); // for Yama, where that is
    CHECK(write(family->word, "x", 1) == 1);
    wait_for_gate(&family->begin);
    return 7;
}

static int trace(void *context)
{
    struct family *family = context;
    close(family->begin.ends[1]);
    if (ptrace(PTRACE_SEIZE, family->traced, NULL, NULL) != 0)
        return 1;
    CHECK(write(family->word, "x", 1) == 1);
    return wait_for_gate(&family->end); // and reaps nobody
}

static void a_zombie_that_another_process_traces_has_ended_but_runs_on(void)
{
    struct gate words = make_gate();
    struct family family = {make_gate(), make_gate(), 0, words.ends[1]};
    struct forkcore_ending ending;
    char byte;
    bool ended;
    pid_t seen;
    family.traced = start(NULL, wait_and_exit, &family);
    CHECK(read(words.ends[0], &byte, 1) == 1);
    pid_t tracer = start(NULL, trace, &family);
    CHECK(read(words.ends[0], &byte, 1) == 1);
    CHECK(forkcore_has_ended(family.traced, &ended) == 0 && !ended);
    int pidfd;
    CHECK(forkcore_pidfd(family.traced, &pidfd) == 0);
    close_gate(family.begin);
    CHECK(is_readable(pidfd, 30000));
    close(pidfd);
    CHECK(forkcore_has_ended(family.traced, &ended) == 0 && ended);
    CHECK(forkcore_reap(family.traced, false, &ending) == 0 && ending.state == FORKCORE_RUNNING);
    CHECK(forkcore_peek(&seen) == 0 && seen == 0);
    CHECK(forkcore_kill(family.traced, false, SIGKILL) == 0);
    CHECK(forkcore_reap(family.traced, true, &ending) == 0 && ending.state == FORKCORE_RUNNING);
    close_gate(family.end);
    ending = await_reaped(family.traced);
    CHECK(ending.state == FORKCORE_EXITED && ending.code == 7);
    await_reaped(tracer);
    close_gate(words);
    CHECK(forkcore_has_ended(getpid(), &ended) == 0 && !ended);
}

static void *be_traced(void *context)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    CHECK(write(*(int *)context, "x", 1) == 1);
    pause();
    return NULL;
}

static int end_with_a_traced_thread(void *context)
{
    struct family *family = context;
    pthread_t thread;
    if (pthread_create(&thread, NULL, be_traced, &family->word) != 0)
        return 1;
    wait_for_gate(&family->begin);
    return 9;
}

// The thread stays as a zombie, and its process with it, until we have waited for the thread.
static void a_thread_that_its_parent_traces_is_reaped_before_its_process(void)
{
    struct gate words = make_gate();
    struct family family = {make_gate(), make_gate(), 0, words.ends[1]};
    struct forkcore_ending ending;
    char byte;
    pid_t seen = 0;
    pid_t pid = start(NULL, end_with_a_traced_thread, &family);
    CHECK(read(words.ends[0], &byte, 1) == 1);
    close_gate(family.begin);
    for (int i = 0; i < 30000 && seen == 0; i++, poll(NULL, 0, 1))
        CHECK(forkcore_peek(&seen) == 0);
    CHECK(seen != 0 && seen != pid && forkcore_process_of(seen) == pid);
    CHECK(forkcore_process_of(pid) == pid);
    CHECK(forkcore_reap(pid, false, &ending) == 0 && ending.state == FORKCORE_RUNNING);
    await_reaped(seen);
    ending = await_reaped(pid);
    CHECK(ending.state == FORKCORE_EXITED && ending.code == 9);
    CHECK(forkcore_process_of(pid) == 0);
    close_gate(family.end);
    close_gate(words);
}

#ifdef __GLIBC__

// From here on each execve of this process's children waits until the descriptor is closed, and then fails with ENOSYS.
static int hold_execve(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    int descriptor = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    CHECK(descriptor >= 0);
    int higher = fcntl(descriptor, F_DUPFD_CLOEXEC, 50); // children have no copy of what is above their own connection
    CHECK(higher >= 0);
    close(descriptor);
    return higher;
}

static int64_t milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void nobody_waits_for_programs_that_are_slow_to_be_executed(void)
{
    enum { ALL = FORKCORE_SPAWN_SLOTS };
    struct forkcore_spawner *spawner;
    struct forkcore_child_plan plan = {0};
    char *argv[] = {"true", NULL}, *envp[] = {NULL};
    int refusals[ALL] = {0}, pidfds[ALL], exec_error, pidfd, null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t pids[ALL], pid;
    int held = hold_execve();
    CHECK(forkcore_spawner_open(&spawner) == 0);
    for (int i = 0; i < ALL; i++)
        CHECK(forkcore_spawn(spawner, &plan, null, "/bin/true", argv, envp, &refusals[i], &pids[i], &pidfds[i]) == 0);
    CHECK(forkcore_spawn(spawner, &plan, null, "/bin/true", argv, envp, &exec_error, &pid, &pidfd) == EBUSY);
    CHECK(!forkcore_spawner_close_descriptors(spawner));
    CHECK(!forkcore_spawner_await(spawner, 0));
    kill(pids[3], SIGKILL); // one place is free again
    await_end(pids[3]);
    close(pidfds[3]);
    int64_t begun = milliseconds();
    int error;
    while ((error = forkcore_spawn(spawner, &plan, null, "/bin/true", argv, envp, &refusals[3], &pids[3], &pidfds[3])) == EBUSY)
        CHECK(milliseconds() - begun < 30000);
    CHECK(error == 0);
    begun = milliseconds();
    forkcore_spawner_close(spawner, 100000000);
    CHECK(milliseconds() - begun >= 100 && milliseconds() - begun < 30000);
    close(held);
    for (int i = 0; i < ALL; i++) {
        CHECK(is_readable(pidfds[i], 30000));
        CHECK(await_end(pids[i]).code == 127); // it was still in memory that is there
        CHECK(refusals[i] == 0); // which could be another's by now
        close(pidfds[i]);
    }
    close(null);
}

#endif

const struct test held_tests[] = {
    {"a child that stops under its parent's eyes is killed", a_child_that_stops_under_its_parents_eyes_is_killed},
    {"a zombie that another process traces has ended, but runs on",
     a_zombie_that_another_process_traces_has_ended_but_runs_on},
    {"a thread that its parent traces is reaped before its process",
     a_thread_that_its_parent_traces_is_reaped_before_its_process},
#ifdef __GLIBC__
    {"nobody waits for programs that are slow to be executed", nobody_waits_for_programs_that_are_slow_to_be_executed},
#endif
    {0},
};
