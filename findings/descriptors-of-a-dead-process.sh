#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# A process that ends closes its descriptors from the last to the first, whether it exits or is killed.
#
# Linux (seen on 6.18 with glibc 2.36). The kernel walks the descriptor table upwards, but only notes each file; the notes are a
# list whose newest entry is taken first. So of a worker with a control socket, opened at its start, and a socket for each client
# or job, opened later, peers see the later ones end first, and the control socket last. Each close can lose the processor in
# between: where both processors were busy, the control socket was still open 20 ms after the others had ended, and its owner took
# the worker for alive, and the end of the others for a fault of theirs. Whoever must know asks for PF_EXITING in the flags of
# /proc/PID/stat (proc_pid_stat(5)): that is set before the first close. A pidfd is no help, as it is readable only after the last.
#
#     findings/descriptors-of-a-dead-process.sh
#
# Needs a C compiler. Fails if the kernel behaves otherwise.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/ends.c" <<'C'
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 8 };

// A child holds one end of each pair. epoll(7) reports the other ends in the order in which they became ready.
int main(int count, char **arguments)
{
    int ours[COUNT], theirs[COUNT], poll = epoll_create1(EPOLL_CLOEXEC);
    int exits = count > 1 && strcmp(arguments[1], "exit") == 0;
    for (int i = 0; i < COUNT; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
            return 1;
        ours[i] = pair[0];
        theirs[i] = pair[1];
    }
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < COUNT; i++)
            close(ours[i]);
        char byte;
        ssize_t got = read(theirs[0], &byte, 1);
        if (exits)
            _exit(got == 1 ? 0 : 1);
        for (;;)
            pause();
    }
    for (int i = 0; i < COUNT; i++) {
        struct epoll_event event = {.events = EPOLLRDHUP, .data = {.u32 = (unsigned)i + 1}};
        close(theirs[i]);
        if (epoll_ctl(poll, EPOLL_CTL_ADD, ours[i], &event) != 0)
            return 1;
    }
    if (write(ours[0], "", 1) != 1 || (!exits && kill(child, SIGKILL) != 0) || waitpid(child, NULL, 0) != child)
        return 1;
    struct epoll_event events[COUNT];
    int ready = epoll_wait(poll, events, COUNT, 10000);
    for (int i = 0; i < ready; i++)
        printf("%u%s", events[i].data.u32, i + 1 < ready ? " " : "\n");
    return 0;
}
C
cc -O1 -o "$scratch/ends" "$scratch/ends.c"
uname -sr
for how in exit kill; do
    seen=$("$scratch/ends" $how)
    echo "opened 1 to 8, then $how: their ends show in the order $seen"
    [ "$seen" = "8 7 6 5 4 3 2 1" ] || exit 1
done
