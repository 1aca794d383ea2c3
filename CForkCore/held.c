// SPDX-License-Identifier: Apache-2.0
//
// Children that wait(2) reports differently because of ptrace(2). Parent.
//
// If another process traces a zombie, only the tracer sees that it has ended: wait(2) tells its parent that it runs
// until the tracer waits for it or ends, but its pidfd is readable. And if a thread made its process's parent trace it
// (PTRACE_TRACEME), the parent must wait for that thread, by a number that is no child's pid, before it can reap the
// process.

#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int forkcore_has_ended(pid_t pid, bool *ended)
{
    int descriptor;
    uint32_t ready = 0;
    *ended = false;
    int error = forkcore_pidfd(pid, &descriptor);
    if (error != 0)
        return error;
    error = forkcore_wait_readable(&descriptor, 1, 0, &ready);
    forkcore_close(descriptor);
    *ended = ready != 0;
    return error;
}

pid_t forkcore_process_of(pid_t thread)
{
    char path[32], text[512];
    snprintf(path, sizeof path, "/proc/%d/status", thread);
    if (forkcore_read_text(path, text, sizeof text) != 0)
        return 0;
    const char *line = strstr(text, "\nTgid:"); // a newline in a process's name is escaped there
    return line ? (pid_t)strtol(line + strlen("\nTgid:"), NULL, 10) : 0;
}
