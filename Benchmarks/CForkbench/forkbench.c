// SPDX-License-Identifier: Apache-2.0

#define _GNU_SOURCE

#include "forkbench.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int forkbench_fork(pid_t *child)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    *child = pid;
    return pid < 0 ? errno : 0;
}

int forkbench_fork_idle(const struct forkbench_gate *gate, pid_t *child)
{
    pid_t pid = fork();
    if (pid == 0) {
        forkbench_idle(gate);
        _exit(0);
    }
    *child = pid;
    return pid < 0 ? errno : 0;
}

void forkbench_idle(const struct forkbench_gate *gate)
{
    char byte = 0;
    // A copy of the gate's other end would keep it shut after the parent's death.
    close(gate->gate_write);
    close(gate->ready_read);
    while (write(gate->ready_write, &byte, 1) < 0 && errno == EINTR) {
    }
    close(gate->ready_write);
    while (read(gate->gate_read, &byte, 1) < 0 && errno == EINTR) {
    }
}

int forkbench_let_kernel_reap(bool on)
{
    struct sigaction action = {.sa_handler = SIG_DFL, .sa_flags = on ? SA_NOCLDWAIT : 0};
    return sigaction(SIGCHLD, &action, NULL) < 0 ? errno : 0;
}

int forkbench_wait_until_gone(pid_t child)
{
    while (waitpid(child, NULL, 0) < 0)
        if (errno != EINTR)
            return errno == ECHILD ? 0 : errno;
    return 0;
}

int forkbench_reap_any(size_t *reaped)
{
    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid > 0)
            *reaped += 1;
        else if (pid == 0 || errno == ECHILD)
            return 0;
        else if (errno != EINTR)
            return errno;
    }
}

int forkbench_reap_by_name(pid_t *pids, size_t *count)
{
    size_t left = 0;
    for (size_t i = 0; i < *count; i++) {
        pid_t pid = waitpid(pids[i], NULL, WNOHANG);
        if (pid == 0)
            pids[left++] = pids[i];
        else if (pid < 0)
            return errno;
    }
    *count = left;
    return 0;
}

int forkbench_wait_for(size_t count)
{
    while (count > 0) {
        if (waitpid(-1, NULL, 0) > 0)
            count--;
        else if (errno != EINTR)
            return errno;
    }
    return 0;
}

int forkbench_pidfds_open(struct forkbench_pidfds *pidfds)
{
    pidfds->ready_count = 0;
    pidfds->epoll = epoll_create1(EPOLL_CLOEXEC);
    return pidfds->epoll < 0 ? errno : 0;
}

void forkbench_pidfds_close(struct forkbench_pidfds *pidfds)
{
    close(pidfds->epoll);
}

int forkbench_pidfds_watch(struct forkbench_pidfds *pidfds, pid_t child)
{
    int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    if (pidfd < 0)
        return errno;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)pidfd << 32 | (uint32_t)child};
    return epoll_ctl(pidfds->epoll, EPOLL_CTL_ADD, pidfd, &event) < 0 ? errno : 0;
}

int forkbench_pidfds_wait(struct forkbench_pidfds *pidfds)
{
    struct epoll_event events[FORKBENCH_READY_MAX];
    int count;
    do {
        count = epoll_wait(pidfds->epoll, events, FORKBENCH_READY_MAX, -1);
    } while (count < 0 && errno == EINTR);
    if (count < 0)
        return errno;
    for (int i = 0; i < count; i++)
        pidfds->ready[i] = events[i].data.u64;
    pidfds->ready_count = (size_t)count;
    return 0;
}

int forkbench_pidfds_reap(struct forkbench_pidfds *pidfds, size_t *reaped)
{
    for (size_t i = 0; i < pidfds->ready_count; i++) {
        int pidfd = (int)(pidfds->ready[i] >> 32);
        if (waitpid((pid_t)(uint32_t)pidfds->ready[i], NULL, WNOHANG) < 0)
            return errno;
        // Closing alone would not end the watch: children that were forked since have copies of the pidfd.
        epoll_ctl(pidfds->epoll, EPOLL_CTL_DEL, pidfd, NULL);
        close(pidfd);
        *reaped += 1;
    }
    pidfds->ready_count = 0;
    return 0;
}
