// SPDX-License-Identifier: Apache-2.0

#define _GNU_SOURCE

#include "forkbench_call.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

int forkbench_fork_running(void (*body)(void *), void *context, pid_t *child)
{
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
            _exit(1); // it died before it could be told
        body(context);
        _exit(0);
    }
    *child = pid;
    return pid < 0 ? errno : 0;
}

int forkbench_occupy(size_t bytes)
{
    if (bytes == 0)
        return 0;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return errno;
    // What malloc gives has pages of 4 KiB, unless somebody asked for others: the same on every machine.
    if (madvise(memory, bytes, MADV_NOHUGEPAGE) != 0 && errno != EINVAL) // EINVAL: the kernel knows no others
        return errno;
    for (size_t at = 0; at < bytes; at += 4096)
        memory[at] = 1;
    return 0;
}
