// SPDX-License-Identifier: Apache-2.0
//
// forkcore_spawn.

#include "test.h"

#include <poll.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifdef __GLIBC__ // musl-gcc has no headers of the kernel's
#include <linux/filter.h>
#include <linux/seccomp.h>
#endif

static const int64_t PATIENCE = 30000000000; // more than any of these programs takes to be executed

struct connection {
    int theirs, ours;
};

static struct connection connect_pair(void)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    return (struct connection){ends[0], ends[1]};
}

// As forkcore_spawn, from a spawner of its own; returns what either refused.
static int spawn(const struct forkcore_child_plan *plan, int descriptor, const char *path, char *const argv[],
                 char *const envp[], pid_t *pid, int *pidfd)
{
    struct forkcore_spawner *spawner;
    int exec_error;
    CHECK(forkcore_spawner_open(&spawner) == 0);
    int error = forkcore_spawn(spawner, plan, descriptor, path, argv, envp, &exec_error, pid, pidfd);
    forkcore_spawner_close(spawner, PATIENCE); // waits until the child has left
    if (error == 0 && exec_error != 0) {
        CHECK(is_readable(*pidfd, 15000));
        CHECK(await_end(*pid).code == 127);
        close(*pidfd);
    }
    return error != 0 ? error : exec_error;
}

// Runs a program on a connection, and closes that; `text` is what it wrote there.
static void run_program(const struct forkcore_child_plan *plan, struct connection on, char *const argv[], char *text,
                        size_t size)
{
    int pidfd;
    pid_t pid;
    char *envp[] = {"PATH=/usr/bin:/bin", "A=b", NULL};
    CHECK(spawn(plan, on.theirs, argv[0], argv, envp, &pid, &pidfd) == 0 && pid > 0);
    CHECK(fcntl(pidfd, F_GETFD) == FD_CLOEXEC && fcntl(on.theirs, F_GETFD) == FD_CLOEXEC);
    close(on.theirs);
    size_t count = 0;
    ssize_t got;
    do {
        CHECK(is_readable(on.ours, 15000));
        CHECK((got = read(on.ours, text + count, size - count - 1)) >= 0);
        count += (size_t)got;
    } while (got > 0);
    text[count] = 0;
    close(on.ours);
    CHECK(is_readable(pidfd, 30000));
    CHECK(await_end(pid).code == 0);
    close(pidfd);
}

enum { OTHERS = 10 };

static void open_others(int others[OTHERS])
{
    for (int i = 0; i < OTHERS; i++)
        others[i] = open("/dev/null", O_RDONLY); // not close-on-exec
}

// As open_others left them: a program's preparations share our table of descriptors.
static void check_others(const int others[OTHERS])
{
    for (int i = 0; i < OTHERS; i++) {
        CHECK(fcntl(others[i], F_GETFD) == 0);
        close(others[i]);
    }
}

static bool is_same(const struct stat *one, const struct stat *other)
{
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino && one->st_mode == other->st_mode;
}

static void a_program_stands_on_its_connection_alone(void)
{
    char text[4096];
    int below[OTHERS], above[OTHERS];
    struct stat before[3], after[3];
    for (int i = 0; i < 3; i++)
        fstat(i, &before[i]);
    open_others(below);
    struct connection connection = connect_pair();
    open_others(above);
    struct forkcore_child_plan plan = {.own_group = true};
    char *argv[] = {"/bin/sh", "-c", "ls /proc/$$/fd; echo $A", NULL};
    run_program(&plan, connection, argv, text, sizeof text);
    CHECK(strcmp(text, "0\n1\n2\nb\n") == 0);
    check_others(below);
    check_others(above);
    for (int i = 0; i < 3; i++) {
        fstat(i, &after[i]);
        CHECK(is_same(&before[i], &after[i]));
    }
}

// On a number of its own, beside our 0 and 1.
static void a_program_has_its_connection_where_it_was_placed(void)
{
    char text[4096];
    int below[OTHERS], above[OTHERS];
    open_others(below);
    struct connection connection = connect_pair();
    open_others(above);
    struct forkcore_child_plan plan = {.target_descriptor = 5};
    char *argv[] = {"/bin/sh", "-c", "out=$(readlink /proc/$$/fd/1); exec >&5; ls /proc/$$/fd; echo $out", NULL};
    int out = dup(STDOUT_FILENO);
    dup2(below[0], STDOUT_FILENO);
    run_program(&plan, connection, argv, text, sizeof text);
    dup2(out, STDOUT_FILENO);
    close(out);
    CHECK(strcmp(text, "0\n1\n2\n5\n/dev/null\n") == 0);
    check_others(below);
    check_others(above);
}

#ifdef __GLIBC__

// From here on this process has a kernel before 5.9, or says so.
static void lose_close_range(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close_range, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    CHECK(syscall(SYS_close_range, 3U, ~0U, 0U) == -1 && errno == ENOSYS);
}

static void without_close_range_nothing_of_the_parents_changes(void)
{
    char text[4096];
    int others[OTHERS];
    struct stat before[3], after[3];
    for (int i = 0; i < 3; i++)
        fstat(i, &before[i]);
    lose_close_range();
    open_others(others);
    struct forkcore_child_plan plan = {.own_group = true};
    char *argv[] = {"/bin/echo", "here", NULL};
    run_program(&plan, connect_pair(), argv, text, sizeof text);
    CHECK(strcmp(text, "here\n") == 0);
    check_others(others);
    for (int i = 0; i < 3; i++) {
        fstat(i, &after[i]);
        CHECK(is_same(&before[i], &after[i]));
    }
}

#endif

static void a_program_has_mask_dispositions_and_group(void)
{
    char text[4096];
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    struct forkcore_child_plan plan = {
        .own_group = true, .defaults = bit(SIGTERM)};
    // Not by a shell, which has a mask of its own.
    char *argv[] = {"/bin/cat", "/proc/self/stat", "/proc/self/status", NULL};
    run_program(&plan, connect_pair(), argv, text, sizeof text);
    unsigned long mask, ignored;
    int group, pid;
    const char *signals = strstr(text, "SigBlk:");
    CHECK(sscanf(text, "%d %*s %*s %*d %d", &pid, &group) == 2 && group == pid);
    CHECK(signals && sscanf(signals, "SigBlk: %lx SigIgn: %lx", &mask, &ignored) == 2 && mask == 0);
    CHECK((ignored & (bit(SIGHUP) | bit(SIGPIPE) | bit(SIGTERM))) == bit(SIGHUP));
    CHECK(is_blocked(SIGUSR1) && is_blocked(SIGUSR2) && !is_blocked(SIGTERM));
    struct sigaction action;
    sigaction(SIGTERM, NULL, &action);
    CHECK(action.sa_handler == SIG_IGN); // dispositions are not shared
}

static void its_pidfd_tells_of_a_programs_end(void)
{
    struct connection connection = connect_pair();
    struct forkcore_child_plan plan = {0};
    char *argv[] = {"cat", NULL}, *envp[] = {NULL}, byte;
    int pidfd;
    pid_t pid;
    CHECK(spawn(&plan, connection.theirs, "/bin/cat", argv, envp, &pid, &pidfd) == 0);
    close(connection.theirs);
    CHECK(getpgid(pid) == getpgrp()); // no group of its own was asked for
    CHECK(write(connection.ours, "x", 1) == 1 && read(connection.ours, &byte, 1) == 1);
    CHECK(!is_readable(pidfd, 0));
    close(connection.ours);
    CHECK(is_readable(pidfd, 30000));
    CHECK(await_end(pid).code == 0);
    close(pidfd);
}

static volatile int handled;

static void note(int number)
{
    (void)number;
    handled++;
}

// It would be called in our memory. Most of these signals come before the program runs.
static void no_handler_of_the_parent_runs_on_the_way_to_a_program(void)
{
    struct forkcore_spawner *spawner;
    struct forkcore_child_plan plan = {0};
    char *argv[] = {"cat", NULL}, *envp[] = {NULL};
    int exec_error, pidfd, descriptor = open("/dev/zero", O_RDWR | O_CLOEXEC);
    pid_t pid;
    signal(SIGUSR1, note);
    CHECK(forkcore_spawner_open(&spawner) == 0);
    for (int i = 0; i < 50; i++) {
        CHECK(forkcore_spawn(spawner, &plan, descriptor, "/bin/cat", argv, envp, &exec_error, &pid, &pidfd) == 0);
        kill(pid, SIGUSR1);
        CHECK(await_end(pid).signal == SIGUSR1);
        close(pidfd);
    }
    forkcore_spawner_close(spawner, PATIENCE);
    close(descriptor);
    CHECK(handled == 0);
    raise(SIGUSR1);
    CHECK(handled == 1); // ours is still there
}

// More at once than there are places; each with strings of its own, which are gone when it has them.
static void many_programs_are_under_way_at_once(void)
{
    enum { MANY = 12 }; // a test has few descriptors
    struct forkcore_spawner *spawner;
    struct forkcore_child_plan plan = {.own_group = true, .dies_with_parent = true};
    pid_t pids[MANY];
    int pidfds[MANY], refusals[MANY], ours[MANY];
    CHECK(forkcore_spawner_open(&spawner) == 0);
    int before = dup(2);
    close(before);
    for (int i = 0; i < MANY; i++) {
        char number[8], padding[4096], *argv[] = {"sh", "-c", "echo $A $0", number, NULL}, *envp[] = {padding, NULL};
        struct connection connection = connect_pair();
        snprintf(number, sizeof number, "%d", i);
        memset(padding, 'x', sizeof padding);
        snprintf(padding, sizeof padding, "A=%d", i * 7);
        ours[i] = connection.ours;
        const char *path = i % 10 == 3 ? "/no/such/program" : "/bin/sh";
        int error;
        while ((error = forkcore_spawn(spawner, &plan, connection.theirs, path, argv, envp, &refusals[i], &pids[i],
                                       &pidfds[i])) == EBUSY)
            CHECK(i >= FORKCORE_SPAWN_SLOTS);
        CHECK(error == 0);
        close(connection.theirs); // at once: the number is taken by the next
        memset(number, 'z', sizeof number - 1);
        memset(padding, 'z', sizeof padding - 1);
    }
    for (int i = 0; i < MANY; i++) {
        char text[32] = "", wanted[32] = "";
        bool refused = i % 10 == 3;
        CHECK(is_readable(pidfds[i], 30000));
        CHECK(await_end(pids[i]).code == (refused ? 127 : 0));
        CHECK(refusals[i] == (refused ? ENOENT : 0));
        if (!refused)
            snprintf(wanted, sizeof wanted, "%d %d\n", i * 7, i);
        CHECK(forkcore_spawner_close_descriptors(spawner) || i + 1 < MANY);
        CHECK(read(ours[i], text, sizeof text - 1) == (ssize_t)strlen(wanted) && strcmp(text, wanted) == 0);
        close(ours[i]);
        close(pidfds[i]);
    }
    forkcore_spawner_close(spawner, PATIENCE);
    int after = dup(2);
    CHECK(after == before); // no descriptor is left behind
    close(after);
}

// What is open here of a connection is closed once the program has it.
static void a_programs_connection_is_closed_here_when_it_runs(void)
{
    struct forkcore_spawner *spawner;
    struct forkcore_child_plan plan = {0};
    struct connection connection = connect_pair();
    char *argv[] = {"sh", "-c", "exec <&- >&-; read line <&2", NULL}, *envp[] = {NULL}, byte;
    struct gate gate = make_gate();
    int pidfd, exec_error;
    pid_t pid;
    int kept = dup(2);
    dup2(gate.ends[0], 2); // where it waits
    CHECK(forkcore_spawner_open(&spawner) == 0);
    CHECK(forkcore_spawn(spawner, &plan, connection.theirs, "/bin/sh", argv, envp, &exec_error, &pid, &pidfd) == 0);
    close(connection.theirs);
    for (int i = 0; i < 15000 && !forkcore_spawner_close_descriptors(spawner); i++)
        poll(NULL, 0, 1);
    dup2(kept, 2);
    close(kept);
    CHECK(is_readable(connection.ours, 15000) && read(connection.ours, &byte, 1) == 0);
    CHECK(!is_readable(pidfd, 0)); // and it lives
    close(gate.ends[1]);
    CHECK(is_readable(pidfd, 15000));
    await_end(pid);
    close(pidfd);
    close(gate.ends[0]);
    close(connection.ours);
    forkcore_spawner_close(spawner, PATIENCE);
}

static void a_program_that_is_refused_leaves_nothing(void)
{
    char *argv[] = {"x", NULL}, *envp[] = {NULL};
    struct forkcore_child_plan plan = {0};
    int pidfd, descriptor = open("/dev/null", O_RDWR);
    pid_t pid;
    CHECK(spawn(&plan, descriptor, "/no/such/program", argv, envp, &pid, &pidfd) == ENOENT);
    CHECK(spawn(&plan, descriptor, "/etc/passwd", argv, envp, &pid, &pidfd) == EACCES);
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    CHECK(fcntl(descriptor, F_GETFD) == 0);
    CHECK(!is_blocked(SIGTERM));
    int taken[FEW], count = use_up(taken); // none is left for a pidfd
    CHECK(spawn(&plan, descriptor, "/bin/true", argv, envp, &pid, &pidfd) == EMFILE);
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    while (count > 0)
        close(taken[--count]);
    CHECK(fcntl(descriptor, F_GETFD) == 0);
    close(descriptor);
}

// The client is sent away then, and is to see that at once.
static void a_program_that_there_is_no_pidfd_for_keeps_no_connection(void)
{
    char *argv[] = {"true", NULL}, *envp[] = {NULL}, byte;
    struct forkcore_spawner *spawner;
    struct forkcore_child_plan plan = {0};
    struct connection connection = connect_pair();
    int exec_error, pidfd, taken[FEW];
    pid_t pid;
    CHECK(forkcore_spawner_open(&spawner) == 0);
    int count = use_up(taken);
    CHECK(forkcore_spawn(spawner, &plan, connection.theirs, "/bin/true", argv, envp, &exec_error, &pid, &pidfd) == EMFILE);
    CHECK(strcmp(forkcore_spawner_failed_call(spawner), "fcntl") == 0);
    close(taken[--count]); // for the spawner's copy of the connection
    CHECK(forkcore_spawn(spawner, &plan, connection.theirs, "/bin/true", argv, envp, &exec_error, &pid, &pidfd) == EMFILE);
    CHECK(strcmp(forkcore_spawner_failed_call(spawner), "clone") == 0);
    close(connection.theirs);
    CHECK(is_readable(connection.ours, 0) && read(connection.ours, &byte, 1) == 0);
    while (count > 0)
        close(taken[--count]);
    close(connection.ours);
    forkcore_spawner_close(spawner, PATIENCE);
}

struct program_family {
    int descriptor;
    struct gate gate;
};

static int spawn_and_wait_for_gate(void *context)
{
    struct program_family *family = context;
    char *argv[] = {"cat", NULL}, *envp[] = {NULL};
    struct forkcore_child_plan plan = {.dies_with_parent = true};
    int pidfd;
    pid_t pid;
    return spawn(&plan, family->descriptor, "/bin/cat", argv, envp, &pid, &pidfd)
        || wait_for_gate(&family->gate);
}

static void a_program_dies_with_its_parent(void)
{
    char byte;
    struct connection connection = connect_pair();
    struct program_family family = {connection.theirs, make_gate()};
    pid_t parent = start(NULL, spawn_and_wait_for_gate, &family);
    close(connection.theirs);
    CHECK(write(connection.ours, "x", 1) == 1);
    CHECK(is_readable(connection.ours, 15000) && read(connection.ours, &byte, 1) == 1); // it lives as long as that
    close_gate(family.gate);
    CHECK(await_end(parent).code == 0);
    CHECK(is_readable(connection.ours, 15000) && read(connection.ours, &byte, 1) == 0); // cat would wait for ever
    close(connection.ours);
}

const struct test program_tests[] = {
    {"a program stands on its connection alone", a_program_stands_on_its_connection_alone},
    {"a program has its connection where it was placed", a_program_has_its_connection_where_it_was_placed},
#ifdef __GLIBC__
    {"without close_range nothing of the parent's changes", without_close_range_nothing_of_the_parents_changes},
#endif
    {"a program has the mask, dispositions and group it was given", a_program_has_mask_dispositions_and_group},
    {"its pidfd tells of a program's end", its_pidfd_tells_of_a_programs_end},
    {"no handler of the parent runs on the way to a program", no_handler_of_the_parent_runs_on_the_way_to_a_program},
    {"many programs are under way at once", many_programs_are_under_way_at_once},
    {"a program's connection is closed here when it runs", a_programs_connection_is_closed_here_when_it_runs},
    {"a program that is refused leaves nothing", a_program_that_is_refused_leaves_nothing},
    {"a program that there is no pidfd for keeps no connection", a_program_that_there_is_no_pidfd_for_keeps_no_connection},
    {"a program dies with its parent", a_program_dies_with_its_parent},
    {0},
};
