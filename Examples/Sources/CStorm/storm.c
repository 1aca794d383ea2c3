// SPDX-License-Identifier: Apache-2.0
//
// What a child can do that its parent would rather it did not. Child.

#define _GNU_SOURCE
#include "storm.h"

#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

void storm_be_traced(void)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
}

void storm_be_held(unsigned seconds)
{
    int ready[2];
    pid_t tracee = getpid();
    if (pipe(ready) != 0)
        return;
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    if (fork() == 0) {
        setsid();
        ptrace(PTRACE_SEIZE, tracee, NULL, NULL);
        if (write(ready[1], "", 1) < 0)
            _exit(1);
        close(0);
        close(1);
        sleep(seconds);
        _exit(0);
    }
    char byte;
    if (read(ready[0], &byte, 1) < 0)
        _exit(1);
}

void storm_give_sibling(void)
{
    if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0)
        _exit(0);
}

void storm_leave_daemon(unsigned seconds)
{
    if (fork() != 0)
        return;
    setsid();
    if (fork() == 0) {
        for (int descriptor = 0; descriptor < 64; descriptor++)
            close(descriptor);
        sleep(seconds);
    }
    _exit(0);
}

static void scribble_on(uintptr_t from, uintptr_t to)
{
    for (volatile uint32_t *word = (void *)from; (uintptr_t)word < to; word++)
        *word = (uint32_t)rand() ^ ((uint32_t)rand() << 16);
}

void storm_scribble(unsigned times)
{
    char line[512];
    srand((unsigned)getpid());
    while (times-- > 0) {
        FILE *maps = fopen("/proc/self/maps", "r");
        while (maps && fgets(line, sizeof line, maps)) {
            unsigned long from, to;
            if (strstr(line, " rw-s ") && strstr(line, "/dev/zero") && sscanf(line, "%lx-%lx", &from, &to) == 2)
                scribble_on(from, to);
        }
        if (maps)
            fclose(maps);
    }
}

void storm_flood(unsigned lines)
{
    while (lines-- > 0)
        dprintf(STDERR_FILENO, "a line that nobody asked for, of process %d, %u more to come\n", (int)getpid(), lines);
}
