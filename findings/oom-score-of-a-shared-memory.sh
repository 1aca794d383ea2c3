#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# A process that shares its parent's memory gives its oom_score_adj to the parent too, unless the parent waits.
#
# Linux (seen on 6.18 with glibc 2.36). A launcher clones a child with CLONE_VM, as posix_spawn(3) does, but goes on meanwhile.
# The child, about to execute a program, writes a score of its own to /proc/self/oom_score_adj, as one does so that the program
# is ended before its launcher when memory is short. The kernel sets the score of all processes that use that memory, the
# launcher's too, and it stays so when the child has its own: a server that the administrator has protected is protected no more,
# or all that it starts later begins with the score of the first. proc(5) speaks of the process alone. With CLONE_VFORK besides
# the launcher keeps its own. So a launcher that must not wait cannot have its children set their scores before execve(2).
#
#     findings/oom-score-of-a-shared-memory.sh
#
# Needs a C compiler. Fails if the kernel behaves otherwise.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/launch.c" <<'C'
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char stack[65536] __attribute__((aligned(64)));
static char *const argv[] = {"cat", "/proc/self/oom_score_adj", NULL}, *const envp[] = {NULL};

static int become_cat(void *context)
{
    (void)context;
    int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, "321", 3) != 3)
        _exit(126);
    execve("/bin/cat", argv, envp);
    _exit(127);
}

int main(int count, char **arguments)
{
    char score[16] = "";
    int flags = CLONE_VM | SIGCHLD | (count > 1 && strcmp(arguments[1], "vfork") == 0 ? CLONE_VFORK : 0), status;
    pid_t child = clone(become_cat, stack + sizeof stack, flags, NULL);
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
        return 1;
    int file = open("/proc/self/oom_score_adj", O_RDONLY);
    if (file < 0 || read(file, score, sizeof score - 1) <= 0)
        return 1;
    printf("%s", score);
    return 0;
}
C
cc -O1 -o "$scratch/launch" "$scratch/launch.c"
own=$(cat /proc/self/oom_score_adj)
[ "$own" != 321 ] || { echo "this shell has the score 321 itself: start it with another" >&2; exit 1; }
uname -sr
status=0
check() {
    said=$("$scratch/launch" "$1" | tr '\n' ' ')
    echo "$1: the program has ${said% * }, its launcher ${said#* }"
    [ "$said" = "$2 " ] || { echo "expected: $2" >&2; status=1; }
}
check goes-on "321 321"
check vfork "321 $own"
exit $status
