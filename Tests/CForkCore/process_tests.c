// SPDX-License-Identifier: Apache-2.0
//
// Waiting: forkcore_reap, forkcore_peek, forkcore_pidfd; threads.

#include "test.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

static int return_context(void *context) { return *(int *)context; }

static int kill_self(void *context)
{
    raise(*(int *)context);
    return 0;
}

static void the_exit_status_is_told(void)
{
    for (int code = 0; code < 256; code += 51) {
        struct forkcore_ending ending = await_end(start(NULL, return_context, &code));
        CHECK(ending.state == FORKCORE_EXITED && ending.code == code);
        CHECK(ending.max_rss_kib > 0 && ending.minor_faults > 0 && ending.user_us >= 0 && ending.system_us >= 0);
    }
}

static void the_signal_that_killed_is_told(void)
{
    int numbers[] = {SIGKILL, SIGTERM, SIGSEGV};
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    for (size_t i = 0; i < 3; i++) {
        struct forkcore_ending ending = await_end(start(NULL, kill_self, &numbers[i]));
        CHECK(ending.state == FORKCORE_KILLED && ending.signal == numbers[i] && !ending.core);
    }
}

static void a_child_that_lives_or_is_stopped_is_running(void)
{
    struct gate gate = make_gate();
    struct forkcore_ending ending;
    pid_t pid = start(NULL, wait_for_gate, &gate);
    CHECK(forkcore_reap(pid, false, &ending) == 0 && ending.state == FORKCORE_RUNNING);
    kill(pid, SIGSTOP);
    CHECK(waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WSTOPPED | WNOWAIT) == 0);
    CHECK(forkcore_reap(pid, false, &ending) == 0 && ending.state == FORKCORE_RUNNING);
    CHECK(forkcore_reap(pid, true, &ending) == 0 && ending.state == FORKCORE_RUNNING);
    kill(pid, SIGCONT);
    close_gate(gate);
    CHECK(await_end(pid).state == FORKCORE_EXITED);
}

static void a_child_reaped_by_somebody_else_is_lost(void)
{
    int code = 3;
    struct forkcore_ending ending;
    pid_t pid = start(NULL, return_context, &code);
    CHECK(waitpid(pid, NULL, 0) == pid);
    CHECK(forkcore_reap(pid, false, &ending) == 0 && ending.state == FORKCORE_LOST);
    CHECK(forkcore_reap(pid, true, &ending) == 0 && ending.state == FORKCORE_LOST);
}

static void peek_leaves_the_zombie(void)
{
    int code = 9;
    pid_t seen;
    CHECK(forkcore_peek(&seen) == 0 && seen == 0); // no child at all
    struct gate gate = make_gate();
    pid_t living = start(NULL, wait_for_gate, &gate);
    CHECK(forkcore_peek(&seen) == 0 && seen == 0);
    pid_t pid = start(NULL, return_context, &code);
    await_zombie(pid);
    for (int i = 0; i < 3; i++)
        CHECK(forkcore_peek(&seen) == 0 && seen == pid);
    CHECK(await_end(pid).code == 9);
    CHECK(forkcore_peek(&seen) == 0 && seen == 0);
    close_gate(gate);
    await_end(living);
}

static int leave_a_grandchild(void *context)
{
    (void)context;
    if (fork() == 0) {
        alarm(20); // should nobody end it
        pause();
    }
    return 0;
}

static void the_group_of_a_zombie_leader_is_killed(void)
{
    // We become the grandchild's parent when its own is reaped.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    struct forkcore_ending ending;
    pid_t leader = start(&(struct forkcore_child_plan){.own_group = true}, leave_a_grandchild, NULL);
    await_zombie(leader);
    CHECK(forkcore_reap(leader, true, &ending) == 0);
    CHECK(ending.state == FORKCORE_EXITED && ending.code == 0);
    int status;
    CHECK(waitpid(-1, &status, 0) > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void without_end_group_the_group_lives_on(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t leader = start(&(struct forkcore_child_plan){.own_group = true}, leave_a_grandchild, NULL);
    CHECK(await_end(leader).state == FORKCORE_EXITED);
    CHECK(kill(-leader, 0) == 0);
    CHECK(waitpid(-1, NULL, WNOHANG) == 0); // it is ours now, and alive
    kill(-leader, SIGTERM);
    int status;
    CHECK(waitpid(-1, &status, 0) > 0 && WTERMSIG(status) == SIGTERM);
}

static void the_group_of_a_zombie_leader_can_be_signalled(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t leader = start(&(struct forkcore_child_plan){.own_group = true}, leave_a_grandchild, NULL);
    await_zombie(leader);
    CHECK(forkcore_kill(leader, true, SIGTERM) == 0);
    CHECK(await_end(leader).state == FORKCORE_EXITED);
    int status;
    CHECK(waitpid(-1, &status, 0) > 0 && WTERMSIG(status) == SIGTERM);
}

static void the_group_of_a_running_leader_is_left_alone(void)
{
    struct gate gate = make_gate();
    struct forkcore_ending ending;
    pid_t pid = start(&(struct forkcore_child_plan){.own_group = true}, wait_for_gate, &gate);
    CHECK(forkcore_reap(pid, true, &ending) == 0 && ending.state == FORKCORE_RUNNING);
    close_gate(gate);
    CHECK(await_end(pid).state == FORKCORE_EXITED);
}

static void only_an_unreaped_child_is_signalled(void)
{
    struct gate gate = make_gate();
    pid_t pid = start(&(struct forkcore_child_plan){.own_group = true}, wait_for_gate, &gate);
    CHECK(forkcore_kill(pid, false, 0) == 0 && forkcore_kill(pid, true, 0) == 0);
    CHECK(forkcore_kill(pid, true, SIGTERM) == 0);
    await_zombie(pid);
    CHECK(forkcore_kill(pid, false, SIGTERM) == 0); // its number is still its own
    CHECK(await_end(pid).signal == SIGTERM);
    CHECK(forkcore_kill(pid, false, SIGTERM) == ECHILD && forkcore_kill(pid, true, SIGTERM) == ECHILD);
    CHECK(forkcore_kill(getppid(), false, 0) == ECHILD); // alive, and no child of ours
    pid = start(NULL, wait_for_gate, &gate);
    CHECK(forkcore_kill(pid, false, 0) == 0 && forkcore_kill(pid, true, 0) == 0); // it leads no group: it alone
    close_gate(gate);
    await_end(pid);
}

static void a_pidfd_is_readable_at_the_end(void)
{
    struct gate gate = make_gate();
    int descriptor;
    pid_t pid = start(NULL, wait_for_gate, &gate);
    CHECK(forkcore_pidfd(pid, &descriptor) == 0);
    CHECK(fcntl(descriptor, F_GETFD) & FD_CLOEXEC);
    CHECK(!is_readable(descriptor, 0));
    close_gate(gate);
    CHECK(is_readable(descriptor, 30000));
    forkcore_close(descriptor);
    await_end(pid);
    CHECK(forkcore_pidfd(pid, &descriptor) == ESRCH);
}

static void *be_a_thread(void *context)
{
    CHECK(forkcore_thread_id() != getpid() && forkcore_thread_id() > 0);
    wait_for_gate(context);
    return NULL;
}

static void threads_are_counted(void)
{
    CHECK(forkcore_thread_count() == 1 && forkcore_thread_id() == getpid());
    struct gate gate = make_gate(), unused = make_gate();
    struct gate reading = {{gate.ends[0], unused.ends[1]}};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, be_a_thread, &reading) == 0);
    CHECK(forkcore_thread_count() == 2);
    close(gate.ends[1]);
    pthread_join(thread, NULL);
    for (int i = 0; forkcore_thread_count() != 1; i++) { // it is still on its way out of the kernel
        CHECK(i < 10000);
        usleep(1000);
    }
    close(gate.ends[0]);
    close(unused.ends[0]);
}

static void cores_are_counted(void)
{
    cpu_set_t all, one;
    unsigned cores, bound = 0;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    CHECK(forkcore_affinity(&cores) == 0 && cores == (unsigned)CPU_COUNT(&all));
    for (int core = 0; core < CPU_SETSIZE; core++) {
        if (!CPU_ISSET(core, &all))
            continue;
        CPU_ZERO(&one);
        CPU_SET(core, &one);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
        CHECK(forkcore_affinity(&bound) == 0 && bound == 1);
    }
    CHECK(bound == 1);
}

const struct test process_tests[] = {
    {"the exit status is told", the_exit_status_is_told},
    {"the signal that killed is told", the_signal_that_killed_is_told},
    {"a child that lives or is stopped is running", a_child_that_lives_or_is_stopped_is_running},
    {"a child reaped by somebody else is lost", a_child_reaped_by_somebody_else_is_lost},
    {"peek leaves the zombie", peek_leaves_the_zombie},
    {"the group of a zombie leader is killed", the_group_of_a_zombie_leader_is_killed},
    {"without end_group the group lives on", without_end_group_the_group_lives_on},
    {"the group of a zombie leader can be signalled", the_group_of_a_zombie_leader_can_be_signalled},
    {"the group of a running leader is left alone", the_group_of_a_running_leader_is_left_alone},
    {"only an unreaped child is signalled", only_an_unreaped_child_is_signalled},
    {"a pidfd is readable at the end", a_pidfd_is_readable_at_the_end},
    {"threads are counted", threads_are_counted},
    {"cores are counted", cores_are_counted},
    {0},
};
