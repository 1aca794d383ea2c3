// SPDX-License-Identifier: Apache-2.0
//
// Processes that hold idle connections. Each is told by a byte to count those that are lost, and ends with its channel.

#define _GNU_SOURCE

#include "client.h"
#include "forkbench_serve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct outcome {
    int code;
    size_t held;
};

static size_t count_lost(const int *descriptors, size_t count)
{
    size_t lost = 0;
    for (size_t i = 0; i < count; i++) {
        struct pollfd polled = {.fd = descriptors[i], .events = POLLIN | POLLRDHUP};
        if (poll(&polled, 1, 0) != 0)
            lost++;
    }
    return lost;
}

// Child.
_Noreturn static void hold(uint16_t port, size_t count, uint64_t limit_ns, int channel, pid_t parent)
{
    struct outcome outcome = {0};
    int *descriptors = calloc(count, sizeof *descriptors);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(1);
    setpgid(0, 0); // what a terminal sends is for the one that lets us go
    outcome.code = descriptors ? hold_connections(port, count, limit_ns, descriptors, &outcome.held) : ENOMEM;
    char byte;
    if (send(channel, &outcome, sizeof outcome, MSG_NOSIGNAL) == sizeof outcome)
        while (recv(channel, &byte, 1, 0) == 1) {
            size_t lost = count_lost(descriptors, outcome.held);
            send(channel, &lost, sizeof lost, MSG_NOSIGNAL);
        }
    _exit(0);
}

int forkbench_hold(uint16_t port, size_t count, uint64_t limit_ns, struct forkbench_holder *holder)
{
    int ends[2];
    pid_t parent = getpid();
    *holder = (struct forkbench_holder){.pid = -1, .channel = -1};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return errno;
    pid_t pid = fork();
    int error = errno;
    if (pid == 0) {
        close(ends[0]);
        hold(port, count, limit_ns, ends[1], parent);
    }
    close(ends[1]);
    holder->channel = ends[0];
    if (pid < 0)
        return error;
    holder->pid = pid;
    struct outcome outcome;
    ssize_t size;
    while ((size = recv(holder->channel, &outcome, sizeof outcome, 0)) < 0 && errno == EINTR)
        if (forkbench_signal() != 0)
            return EINTR;
    if (size != sizeof outcome)
        return ECHILD; // somebody has killed it
    holder->held = outcome.held;
    return outcome.code;
}

size_t forkbench_count_lost(const struct forkbench_holder *holder)
{
    size_t lost = holder->held;
    ssize_t size = -1;
    if (send(holder->channel, "", 1, MSG_NOSIGNAL) == 1)
        while ((size = recv(holder->channel, &lost, sizeof lost, 0)) < 0 && errno == EINTR)
            ;
    return size == sizeof lost ? lost : holder->held;
}

void forkbench_let_go(struct forkbench_holder *holder)
{
    if (holder->channel >= 0)
        close(holder->channel);
    if (holder->pid > 0) {
        kill(holder->pid, SIGKILL);
        while (waitpid(holder->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    *holder = (struct forkbench_holder){.pid = -1, .channel = -1};
}
