// SPDX-License-Identifier: Apache-2.0
//
// Children that wait(2) does not tell of as one would think, as ptrace(2) has a hand in it.
//
// A zombie that another process traces is visible to that one alone: its parent is told that it runs, though its pidfd
// is readable, until the tracer waits for it or ends. And a thread that had its process's parent trace it
// (PTRACE_TRACEME) is that one's to wait for, by a number that is no child's; until then its process cannot be reaped.

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
    const char *line = strstr(text, "\nTgid:"); // a name's newline is spelled out there
    return line ? (pid_t)strtol(line + strlen("\nTgid:"), NULL, 10) : 0;
}
