// SPDX-License-Identifier: Apache-2.0
//
// Whom children act as. Only root can give another identity; anybody else is refused, and that is tested then.

#include "test.h"

#include <sys/prctl.h>
#include <sys/socket.h>

static const uint32_t groups[] = {12, 34};
static const struct forkcore_credentials someone = {.user = 4321, .group = 1234, .groups = groups, .group_count = 2};
static const struct forkcore_confinement another = {.credentials = &someone, .sets_oom_score = true, .oom_score = 321};

static bool is_root(void) { return geteuid() == 0; }

static int oom_score(void)
{
    char text[16] = "";
    int file = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0 && read(file, text, sizeof text - 1) > 0);
    close(file);
    return atoi(text);
}

static int look_who(void *context)
{
    (void)context;
    uid_t users[3];
    gid_t its_groups[3], all[8];
    int death = 0;
    if (getresuid(&users[0], &users[1], &users[2]) != 0 || getresgid(&its_groups[0], &its_groups[1], &its_groups[2]) != 0)
        return 1;
    for (int i = 0; i < 3; i++)
        if (users[i] != 4321 || its_groups[i] != 1234)
            return 2;
    if (getgroups(8, all) != 2 || all[0] != 12 || all[1] != 34)
        return 3;
    if (prctl(PR_GET_PDEATHSIG, &death) != 0 || death != SIGKILL)
        return 4;
    return oom_score() == 321 ? 0 : 5;
}

static void a_child_is_another(void)
{
    struct forkcore_child_plan plan = {.dies_with_parent = true, .own_group = true, .confinement = another};
    int before = oom_score();
    CHECK(await_end(start(&plan, look_who, NULL)).code == (is_root() ? 0 : 126));
    CHECK(oom_score() == before);
}

static void a_program_is_another(void)
{
    struct forkcore_spawner *spawner;
    struct forkcore_child_plan plan = {.dies_with_parent = true, .takes_errors = true, .confinement = another};
    char *argv[] = {"sh", "-c", "exec >&2; id -u; id -g; id -G; cat /proc/self/oom_score_adj", NULL}, *envp[] = {"PATH=/usr/bin:/bin", NULL};
    char text[100] = "";
    int ends[2], exec_error, pidfd, before = oom_score();
    size_t count = 0;
    ssize_t got;
    pid_t pid;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    CHECK(forkcore_spawner_open(&spawner) == 0);
    CHECK(forkcore_spawn(spawner, &plan, ends[0], "/bin/sh", argv, envp, &exec_error, &pid, &pidfd) == 0);
    forkcore_spawner_close(spawner, 30000000000);
    close(ends[0]);
    while (count < sizeof text - 1 && (got = read(ends[1], text + count, sizeof text - 1 - count)) > 0)
        count += (size_t)got;
    CHECK(await_end(pid).code == (is_root() ? 0 : 127));
    CHECK(exec_error == (is_root() ? 0 : EPERM));
    CHECK(strcmp(text, is_root() ? "4321\n1234\n1234 12 34\n321\n" : "") == 0);
    CHECK(oom_score() == before);
    close(ends[1]);
    close(pidfd);
}

static void what_cannot_be_is_known_before(void)
{
    const char *call = NULL;
    struct forkcore_confinement impossible = {.sets_oom_score = true, .oom_score = 1001};
    CHECK(forkcore_try_confinement(&another, &call) == (is_root() ? 0 : EPERM));
    CHECK(is_root() || strcmp(call, "setgroups") == 0);
    CHECK(forkcore_try_confinement(&impossible, &call) == EINVAL && strcmp(call, "write oom_score_adj") == 0);
    CHECK(forkcore_try_confinement(&(struct forkcore_confinement){0}, &call) == 0);
    CHECK(waitpid(-1, NULL, __WALL | WNOHANG) < 0 && errno == ECHILD);
}

const struct test identity_tests[] = {
    {"a child is another", a_child_is_another},
    {"a program is another, and its parent is not", a_program_is_another},
    {"an identity that cannot be is known before", what_cannot_be_is_known_before},
    {0},
};
