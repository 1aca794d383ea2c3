// SPDX-License-Identifier: Apache-2.0
//
// Finds the processes that children start, even those that leave the children's sessions. Any process; in use in a
// parent and in its watcher.
//
// If a process has left a child's session, and its parent ends, it becomes a child of process 1 by default, and nothing
// connects it with us any more. A subreaper becomes its parent instead. Then every process that the subreaper's
// children have started is either below one of them, or its own child. So nothing needs to be remembered about any
// process: the kernel's process tree has it all.

#include "internal.h"
#include "forkcore_containment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int forkcore_take_orphans(void)
{
    return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 ? errno : 0;
}

int forkcore_poll_add_edge(int descriptor, int watched, uint64_t token)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.u64 = token}};
    return epoll_ctl(descriptor, EPOLL_CTL_ADD, watched, &event) != 0 ? errno : 0;
}

// ------------------------------------------------------------------------------------------------------ lists of children

static int open_list(pid_t process, pid_t thread, int *descriptor)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", process, thread);
    while ((*descriptor = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

int forkcore_children_open(int *descriptor)
{
    // Orphans become children of the process's first thread.
    return open_list(forkcore_process(), forkcore_process(), descriptor);
}

int forkcore_children_read(int descriptor, int64_t *offset, pid_t *pids, size_t capacity, size_t *count)
{
    char text[4096];
    ssize_t got;

    *count = 0;
    while ((got = pread(descriptor, text, sizeof text, *offset)) < 0)
        if (errno != EINTR)
            return errno;
    // Each number ends in a space; one that is cut off is read again.
    const char *start = text, *end;
    while (*count < capacity && (end = memchr(start, ' ', (size_t)(text + got - start)))) {
        pids[(*count)++] = (pid_t)strtol(start, NULL, 10);
        start = end + 1;
    }
    *offset += start - text;
    return 0;
}

// Reads the numbers in a directory of /proc, piece by piece, because opendir(3) allocates.
struct numbers {
    int directory;
    long got, next;
    _Alignas(8) char entries[2048];
};

static bool next_number(struct numbers *numbers, pid_t *number)
{
    while (true) {
        if (numbers->next >= numbers->got) {
            numbers->got = syscall(SYS_getdents64, numbers->directory, numbers->entries, sizeof numbers->entries);
            numbers->next = 0;
            if (numbers->got <= 0)
                return false;
        }
        const struct dirent64 *entry = (const void *)(numbers->entries + numbers->next);
        numbers->next += entry->d_reclen;
        *number = (pid_t)strtol(entry->d_name, NULL, 10);
        if (*number > 0)
            return true;
    }
}

// ---------------------------------------------------------------------------------------------------------- one process

int forkcore_read_text(const char *path, char *text, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno;
    ssize_t got = read(file, text, size - 1);
    int error = got < 0 ? errno : 0;
    forkcore_close(file);
    text[got < 0 ? 0 : got] = 0;
    return error;
}

static const char *field(const char *text, int number)
{
    for (; text && number > 1; number--)
        if ((text = strchr(text, ' ')))
            text++;
    return text;
}

static const unsigned long exiting = 4; // PF_EXITING, of the flags that proc_pid_stat(5) tells of

int forkcore_process_look(pid_t pid, struct forkcore_process_info *info)
{
    char path[32], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int error = forkcore_read_text(path, text, sizeof text);
    if (error != 0)
        return error == ENOENT ? ESRCH : error;
    const char *state = strrchr(text, ')'); // the name before it can contain any character
    const char *parent = field(state, 3), *group = field(state, 4), *session = field(state, 5);
    const char *flags = field(state, 8), *start = field(state, 21);
    if (!start)
        return ESRCH;
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    int64_t started = strtoll(start, NULL, 10) * (1000000000 / sysconf(_SC_CLK_TCK));
    int64_t age = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - started;
    *info = (struct forkcore_process_info){
        .parent = (pid_t)strtol(parent, NULL, 10),
        .group = (pid_t)strtol(group, NULL, 10),
        .session = (pid_t)strtol(session, NULL, 10),
        .age_ns = age > 0 ? age : 0,
        .is_zombie = state[2] == 'Z',
        .is_ending = state[2] == 'Z' || (strtoul(flags, NULL, 10) & exiting) != 0,
    };
    return 0;
}

// ---------------------------------------------------------------------------------------------------------- descendants

// Checks the parent while a pidfd is open, so that the pid cannot belong to another process when the signal is sent.
static void signal_child(pid_t pid, pid_t parent, pid_t spared, int number)
{
    int descriptor;
    struct forkcore_process_info info;
    if (forkcore_pidfd(pid, &descriptor) != 0)
        return;
    // Its parent may have ended: then it is our child now, because we are a subreaper.
    if (forkcore_process_look(pid, &info) == 0 && (info.parent == parent || info.parent == forkcore_process())
        && (spared == 0 || info.group != spared))
        syscall(SYS_pidfd_send_signal, descriptor, number, NULL, 0);
    forkcore_close(descriptor);
}

static size_t append_children(pid_t process, pid_t thread, pid_t *pids, size_t room)
{
    int list;
    int64_t offset = 0;
    size_t count = 0, more;
    if (open_list(process, thread, &list) != 0)
        return 0;
    while (count < room && forkcore_children_read(list, &offset, pids + count, room - count, &more) == 0 && more > 0)
        count += more;
    forkcore_close(list);
    return count;
}

static size_t append_all_children(pid_t process, pid_t *pids, size_t room)
{
    char path[32];
    struct numbers threads = {0};
    pid_t thread;
    size_t count = 0;
    snprintf(path, sizeof path, "/proc/%d/task", process);
    if ((threads.directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return 0;
    while (count < room && next_number(&threads, &thread))
        count += append_children(process, thread, pids + count, room - count);
    forkcore_close(threads.directory);
    return count;
}

int forkcore_descendants(pid_t pid, int number, pid_t spared, pid_t *pids, size_t capacity, size_t *count)
{
    pid_t parents[FORKCORE_DESCENDANTS];
    if (capacity > FORKCORE_DESCENDANTS)
        capacity = FORKCORE_DESCENDANTS;
    *count = 0;
    for (size_t looked = 0; looked <= *count && *count < capacity; looked++) {
        pid_t parent = looked == 0 ? pid : pids[looked - 1];
        size_t more = append_all_children(parent, pids + *count, capacity - *count);
        for (size_t i = *count; i < *count + more; i++) {
            parents[i] = parent;
            if (number == SIGKILL)
                signal_child(pids[i], parent, 0, SIGSTOP);
        }
        *count += more;
    }
    // The deepest first: once its parent has ended, a process is not recognised.
    for (size_t i = *count; number != 0 && i > 0; i--)
        signal_child(pids[i - 1], parents[i - 1], spared, number);
    return 0;
}
