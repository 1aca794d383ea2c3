// SPDX-License-Identifier: Apache-2.0
//
// The watcher: a process that outlives its parent. The parent starts it and shares memory with it; a child lists itself
// (forkcore_watcher_enlist); the rest runs in the watcher.
//
// PR_SET_PDEATHSIG ends a child with its parent, unless the child has changed its user or group since: then the kernel
// resets it. And the signal reaches only the child, at once: processes that the child had put into a session of its own
// have no parent then, and no process can tell whose they were. So if nothing may be left, children do not use
// PR_SET_PDEATHSIG. Instead a small process waits for the parent's end, with a pidfd and no other descriptor. Then it
// ends the processes that are listed in memory that it shares with the parent, their sessions, and their descendants.
// It waits in poll(2), and makes no system call before that. A child lists itself before its body or its program runs,
// so that there is no moment in which it is not listed.

#include "internal.h"
#include "forkcore_containment.h"
#include "forkcore_lines.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct forkcore_watcher {
    int pidfd; // the watcher's
    pid_t pid;
    int is_ready; // the watcher watches
    size_t size, capacity;
    pid_t roster[];
};

static bool is_listed(const struct forkcore_watcher *watcher, pid_t pid)
{
    for (size_t i = 0; i < watcher->capacity; i++)
        if (watcher->roster[i] == pid)
            return true;
    return false;
}

static void end_with_descendants(pid_t pid)
{
    pid_t descendants[FORKCORE_DESCENDANTS];
    size_t count;
    kill(pid, SIGSTOP);
    forkcore_descendants(pid, SIGKILL, 0, descendants, FORKCORE_DESCENDANTS, &count);
    kill(pid, SIGKILL);
}

// Our parent's children now have the same parent as we have. A process with a listed pid, but another parent, is none
// of them.
static bool was_child(pid_t pid, pid_t heir)
{
    struct forkcore_process_info info;
    return forkcore_process_look(pid, &info) == 0 && info.parent == heir;
}

// A session keeps its number after its leader's end, and a process cannot enter a session from outside.
static void end_sessions(const struct forkcore_watcher *watcher)
{
    char entries[2048] __attribute__((aligned(8)));
    int directory = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    long got;
    while (directory >= 0 && (got = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0)
        for (long next = 0; next < got;) {
            const struct dirent64 *entry = (const void *)(entries + next);
            pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10), session = pid > 0 ? getsid(pid) : -1;
            if (session > 0 && session != getsid(0) && is_listed(watcher, session))
                end_with_descendants(pid);
            next += entry->d_reclen;
        }
    if (directory >= 0)
        forkcore_close(directory);
}

// Takes another name and command line, so that pkill(1) for the parent's name does not end the watcher.
static void take_a_name(void)
{
    static const char name[] = "forking-watch";
    int count;
    char **arguments = forkcore_arguments(&count);
    prctl(PR_SET_NAME, name);
    if (count == 0 || !arguments[0])
        return;
    char *end = arguments[0] + strlen(arguments[0]);
    for (int i = 1; i < count && arguments[i] == end + 1; i++) // the kernel put them one after the other
        end += 1 + strlen(arguments[i]);
    size_t size = (size_t)(end - arguments[0]);
    memset(arguments[0], 0, size);
    memcpy(arguments[0], name, size < sizeof name ? size : sizeof name);
}

static _Noreturn void watch(struct forkcore_watcher *watcher, pid_t parent)
{
    int ends;
    take_a_name();
    setpgid(0, 0); // ^C must not end us
    // Do not keep the parent's descriptors and directory in use: a process may wait for their end, or unmount a file
    // system.
    if (chdir("/") != 0 || forkcore_pidfd(parent, &ends) != 0 || dup2(ends, 0) != 0)
        _exit(1);
    syscall(SYS_close_range, 1U, ~0U, 0U);
    __atomic_store_n(&watcher->is_ready, 1, __ATOMIC_RELEASE);
    struct pollfd polled = {.fd = 0, .events = POLLIN};
    while (getppid() == parent && poll(&polled, 1, -1) < 1) {}
    pid_t heir = getppid();
    for (size_t i = 0; i < watcher->capacity; i++)
        if (watcher->roster[i] != 0 && was_child(watcher->roster[i], heir))
            end_with_descendants(watcher->roster[i]);
    end_sessions(watcher);
    _exit(0);
}

// Waits until the watcher watches, because no child may start before that. It may have failed for lack of a descriptor.
static int await_ready(const struct forkcore_watcher *watcher)
{
    struct pollfd polled = {.fd = watcher->pidfd, .events = POLLIN};
    while (!__atomic_load_n(&watcher->is_ready, __ATOMIC_ACQUIRE))
        if (poll(&polled, 1, 1) > 0)
            return EMFILE;
    return 0;
}

void forkcore_watcher_lend(struct forkcore_watcher *watcher, bool is_lent)
{
    madvise(watcher, watcher->size, is_lent ? MADV_DOFORK : MADV_DONTFORK);
}

void forkcore_watcher_enlist(struct forkcore_watcher *watcher, size_t place)
{
    __atomic_store_n(&watcher->roster[place], getpid(), __ATOMIC_SEQ_CST);
    munmap(watcher, watcher->size);
}

static int start(struct forkcore_watcher *watcher)
{
    pid_t parent = forkcore_process();
    sigset_t all, mask;

    watcher->is_ready = 0;
    forkcore_watcher_lend(watcher, true);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pid_t pid = fork();
    int error = pid < 0 ? errno : 0;
    if (pid == 0)
        watch(watcher, parent);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    forkcore_watcher_lend(watcher, false); // no other child may change it
    if (error == 0 && (error = forkcore_pidfd(pid, &watcher->pidfd)) != 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    watcher->pid = pid;
    return error;
}

int forkcore_watcher_open(size_t capacity, struct forkcore_watcher **opened)
{
    struct forkcore_watcher *watcher;
    size_t size = sizeof *watcher + capacity * sizeof(pid_t);

    watcher = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (watcher == MAP_FAILED)
        return errno;
    *watcher = (struct forkcore_watcher){.pidfd = -1, .size = size, .capacity = capacity};
    int error = start(watcher);
    if (error == 0)
        error = await_ready(watcher);
    if (error != 0)
        forkcore_watcher_close(watcher);
    *opened = error == 0 ? watcher : NULL;
    return error;
}

bool forkcore_watcher_renew(struct forkcore_watcher *watcher)
{
    struct pollfd polled = {.fd = watcher->pidfd, .events = POLLIN};
    if (watcher->pidfd >= 0) {
        if (poll(&polled, 1, 0) != 1)
            return false;
        waitpid(watcher->pid, NULL, WNOHANG);
        forkcore_close(watcher->pidfd);
        watcher->pidfd = -1;
    }
    return start(watcher) == 0; // does not wait until it is ready
}

pid_t *forkcore_watcher_roster(struct forkcore_watcher *watcher)
{
    return watcher->roster;
}

int forkcore_watcher_pidfd(const struct forkcore_watcher *watcher)
{
    return watcher->pidfd;
}

void forkcore_watcher_close(struct forkcore_watcher *watcher)
{
    if (watcher->pidfd >= 0) {
        bool is_there = syscall(SYS_pidfd_send_signal, watcher->pidfd, SIGKILL, NULL, 0) == 0; // not reaped yet
        while (is_there && waitpid(watcher->pid, NULL, 0) < 0 && errno == EINTR) {}
        forkcore_close(watcher->pidfd);
    }
    munmap(watcher, watcher->size);
}
