// SPDX-License-Identifier: Apache-2.0
//
// forkcore_fork and its plan, forkcore_exit.

#include "test.h"

#include <sys/socket.h>

static void do_nothing(int number) { (void)number; }

static int look_around(void *context)
{
    const int *closed = context;
    struct sigaction action;
    sigaction(SIGTERM, NULL, &action);
    for (int number = 1; number <= 64; number++)
        if (is_blocked(number))
            return 1;
    if (action.sa_handler != SIG_DFL)
        return 2;
    if (fcntl(*closed, F_GETFD) >= 0)
        return 3;
    return getpgrp() == getpid() ? 0 : 6;
}

static void the_child_takes_its_first_steps(void)
{
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = do_nothing}, NULL);
    int secret = open("/dev/null", O_RDONLY);
    struct forkcore_child_plan plan = {
        .defaults = bit(SIGTERM), .closing = &secret, .closing_count = 1, .own_group = true};

    CHECK(await_end(start(&plan, look_around, &secret)).code == 0);

    struct sigaction action;
    sigaction(SIGTERM, NULL, &action);
    CHECK(action.sa_handler == do_nothing);
    CHECK(is_blocked(SIGUSR1) && is_blocked(SIGUSR2) && !is_blocked(SIGHUP));
    CHECK(close(secret) == 0);
}

static int lead_a_group(void *context)
{
    (void)context;
    return getpgrp() == getpid() ? 0 : 1;
}

static void the_group_is_there_for_who_signals_it(void)
{
    struct forkcore_child_plan plan = {.own_group = true};
    for (int i = 0; i < 300; i++) {
        struct gate gate = make_gate();
        CHECK(await_end(start(&plan, lead_a_group, NULL)).code == 0); // the parent may not have come that far
        pid_t pid = start(&plan, wait_for_gate, &gate);
        CHECK(forkcore_kill(pid, true, SIGCONT) == 0); // the child itself may not have come that far
        CHECK(getpgid(pid) == pid);
        close_gate(gate);
        await_end(pid);
    }
    struct gate gate = make_gate();
    pid_t pid = start(NULL, wait_for_gate, &gate);
    CHECK(getpgid(pid) == getpgrp());
    close_gate(gate);
    await_end(pid);
}

static pid_t parent;
static volatile int *handled_in_child;

static void note_where(int number)
{
    (void)number;
    if (getpid() != parent)
        *handled_in_child = 1;
}

static int bombard(void *context)
{
    (void)context;
    while (getppid() == parent)
        kill(0, SIGUSR1);
    return 0;
}

static int return_zero(void *context)
{
    (void)context;
    return 0;
}

static void no_handler_of_the_parent_runs_in_the_child(void)
{
    parent = getpid();
    handled_in_child = shared_memory();
    signal(SIGUSR1, SIG_IGN);
    pid_t sender = start(&(struct forkcore_child_plan){.dies_with_parent = true}, bombard, NULL);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = note_where}, NULL);
    for (int i = 0; i < 500; i++) {
        pid_t pid;
        int error; // glibc's fork is restarted by the kernel until no signal comes between
        do
            error = try_to_start(&(struct forkcore_child_plan){.defaults = bit(SIGUSR1)}, return_zero, NULL, &pid);
        while (error == EINTR);
        CHECK(error == 0);
        struct forkcore_ending ending = await_end(pid);
        CHECK(ending.state == FORKCORE_EXITED || ending.signal == SIGUSR1);
    }
    kill(sender, SIGKILL);
    await_end(sender);
    CHECK(*handled_in_child == 0);
}

static int print_more(void *context)
{
    fputs("child ", context);
    return 0;
}

static void stdio_is_neither_doubled_nor_lost(void)
{
    struct gate gate = make_gate();
    FILE *stream = fdopen(gate.ends[1], "w");
    char text[64] = "";
    fputs("parent ", stream);
    await_end(start(NULL, print_more, stream));
    fputs("after", stream);
    fclose(stream);
    ssize_t count = read(gate.ends[0], text, sizeof text - 1);
    close(gate.ends[0]);
    CHECK(count == 18 && strcmp(text, "parent child after") == 0);
}

static volatile int *ran_at_exit;

static void at_exit(void) { *ran_at_exit = 1; }

static void no_exit_handler_runs_in_the_child(void)
{
    ran_at_exit = shared_memory();
    CHECK(atexit(at_exit) == 0);
    await_end(start(NULL, return_zero, NULL));
    CHECK(*ran_at_exit == 0);
}

struct family {
    struct gate gate, ready;
    bool waits; ///< the parent ends only after its child runs
};

static int say_ready_and_wait(void *context)
{
    struct family *family = context;
    (void)!write(family->ready.ends[1], "x", 1);
    return wait_for_gate(&family->gate);
}

static int fork_and_leave(void *context)
{
    struct family *family = context;
    pid_t pid;
    char byte;
    try_to_start(&(struct forkcore_child_plan){.dies_with_parent = true}, say_ready_and_wait, family, &pid);
    return family->waits ? read(family->ready.ends[0], &byte, 1) != 1 : 0;
}

static void a_child_dies_with_its_parent(void)
{
    for (int i = 0; i < 40; i++) { // be the parent gone before the child has asked the kernel for that, or after
        struct family family = {make_gate(), make_gate(), i % 2 == 0};
        struct gate watched = make_gate(); // its writing end is open as long as the grandchild lives
        char byte;
        CHECK(await_end(start(NULL, fork_and_leave, &family)).code == 0);
        close(watched.ends[1]);
        CHECK(is_readable(watched.ends[0], 30000) && read(watched.ends[0], &byte, 1) == 0);
        close(watched.ends[0]);
        close_gate(family.gate);
        close_gate(family.ready);
    }
}

static void a_refused_fork_says_so(void)
{
    if (geteuid() == 0 && setresuid(54321, 54321, 54321) != 0) // root is exempt from the limit
        return;
    setrlimit(RLIMIT_NPROC, &(struct rlimit){0, 0});
    pid_t pid = 77;
    CHECK(try_to_start(&(struct forkcore_child_plan){0}, return_zero, NULL, &pid) == EAGAIN);
    CHECK(!is_blocked(SIGUSR1));
}

const struct test child_tests[] = {
    {"the child takes its first steps", the_child_takes_its_first_steps},
    {"the group is there for who signals it", the_group_is_there_for_who_signals_it},
    {"no handler of the parent runs in the child", no_handler_of_the_parent_runs_in_the_child},
    {"stdio is neither doubled nor lost", stdio_is_neither_doubled_nor_lost},
    {"no exit handler runs in the child", no_exit_handler_runs_in_the_child},
    {"a child dies with its parent", a_child_dies_with_its_parent},
    {"a refused fork says so", a_refused_fork_says_so},
    {0},
};
