// SPDX-License-Identifier: Apache-2.0
//
// What a process has, and its children do not: memory, and a number.

#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

// MAP_STACK: most of it is never touched, so no huge pages. All is alike: what comes to lie side by side is one
// mapping, which each fork has to leave out once.
int forkcore_parent_memory_open(size_t size, void **memory)
{
    *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (*memory == MAP_FAILED)
        return errno;
    if (madvise(*memory, size, MADV_DONTFORK) == 0)
        return 0;
    int error = errno;
    munmap(*memory, size);
    return error;
}

void forkcore_parent_memory_close(void *memory, size_t size)
{
    munmap(memory, size);
}

// Thread-local not for the threads' sake: the kernel writes to the same page of every child, so that forgetting the
// number there costs a child no page of its own.
static _Thread_local pid_t known; // 0: to be asked for

static void forget(void)
{
    known = 0;
}

__attribute__((constructor)) static void begin(void)
{
    pthread_atfork(NULL, NULL, forget);
}

pid_t forkcore_process(void)
{
    if (known == 0)
        known = getpid();
    return known;
}
