// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a server (LD_PRELOAD): whenever a client that was accepted is forked for, or is passed on, writes a line to
// the file that ALLOCATIONS names: how often memory was allocated in between, and then where. For glibc.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

enum { MOST = 16, DEPTH = 6 };

static int counting, count, file = -1;
static void *callers[MOST][DEPTH];

static void note(void)
{
    if (!counting)
        return;
    counting = 0; // should backtrace allocate itself
    if (count < MOST)
        backtrace(callers[count], DEPTH);
    count++;
    counting = 1;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("ALLOCATIONS");
    void *one[1];
    backtrace(one, 1); // loads what it needs
    if (path)
        file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

void *malloc(size_t size) { return note(), __libc_malloc(size); }
void *calloc(size_t number, size_t size) { return note(), __libc_calloc(number, size); }
void *realloc(void *old, size_t size) { return note(), __libc_realloc(old, size); }
void *memalign(size_t alignment, size_t size) { return note(), __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return note(), __libc_memalign(alignment, size); }

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    note();
    *memory = __libc_memalign(alignment, size);
    return *memory ? 0 : ENOMEM;
}

int accept4(int listener, struct sockaddr *address, socklen_t *length, int flags)
{
    int (*next)(int, struct sockaddr *, socklen_t *, int) = dlsym(RTLD_NEXT, "accept4");
    int descriptor = next(listener, address, length, flags);
    count = 0;
    counting = descriptor >= 0;
    return descriptor;
}

static void tell(void)
{
    if (!counting)
        return;
    counting = 0;
    dprintf(file, "%d\n", count);
    for (int i = 0; i < count && i < MOST; i++)
        backtrace_symbols_fd(callers[i], DEPTH, file);
}

pid_t fork(void)
{
    pid_t (*next)(void) = dlsym(RTLD_NEXT, "fork");
    tell();
    return next();
}

ssize_t sendmsg(int channel, const struct msghdr *message, int flags)
{
    ssize_t (*next)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    tell();
    return next(channel, message, flags);
}
