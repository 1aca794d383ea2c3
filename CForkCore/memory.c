// SPDX-License-Identifier: Apache-2.0
//
// Memory that children do not get, and the process's own pid. Any process.

#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

// MAP_STACK: no huge pages, because most of the memory is never touched. All such memory has the same flags, so that
// adjacent pieces are one mapping, because each mapping that a fork leaves out costs time.
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

int forkcore_shared_memory_open(int file, size_t size, bool owner, void **memory)
{
    if (owner && ftruncate(file, (off_t)size) != 0)
        return errno;
    *memory = mmap(NULL, size, owner ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file, 0);
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

// Thread-local to save a page, not because of threads: the kernel writes to the page of thread-local variables in every
// child anyway, so that resetting the pid there costs a child no additional page.
static _Thread_local pid_t known; // 0: not known yet

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
