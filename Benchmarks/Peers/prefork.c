// SPDX-License-Identifier: Apache-2.0
//
// The practical limit: a preforking server as one writes it by hand in C. The parent binds, forks its workers, and
// replaces those that end; each worker takes one connection at a time from a blocking accept, and serves it to its end.
// It bounds nothing, times nothing and tells nothing, but how many connections each worker has served, at the end.
//     prefork [-w WORKERS] [-r | -k] echo | http
// By default all workers share one listener. -r: each opens one of its own (SO_REUSEPORT), which ends with it, and with
// it the connections in its queue. -k: there is one for each too, but the parent keeps them open: a worker that replaces
// another finds the queue as that left it.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS_MAX = 1024 };

static enum { SHARED, OWN, KEPT } listeners = SHARED;
static bool is_http;
static struct sockaddr_in address = {.sin_family = AF_INET};

static struct seat {
    pid_t pid;
    int listener;
} seats[WORKERS_MAX];

static int ready = -1; // where the first workers say that they listen

// Shared with the workers, a cache line for each.
static struct count {
    _Alignas(64) unsigned long connections;
} *counts;

_Noreturn static void fail(const char *call)
{
    perror(call);
    exit(71);
}

// ------------------------------------------------------------------------------------------------------------ worker

static bool send_all(int client, const char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t sent = send(client, bytes, count, MSG_NOSIGNAL);
        if (sent < 0)
            return false;
        bytes += sent;
        count -= (size_t)sent;
    }
    return true;
}

static void echo(int client)
{
    char bytes[16384];
    ssize_t count;
    while ((count = recv(client, bytes, sizeof bytes, 0)) > 0)
        if (!send_all(client, bytes, (size_t)count))
            return;
}

// Whether the request, which ends with an empty line, is the connection's last.
static bool is_last(const char *request)
{
    const char *end = strstr(request, "\r\n");
    if (end - request >= 8 && memcmp(end - 8, "HTTP/1.0", 8) == 0)
        return true;
    const char *field = strcasestr(request, "\r\nConnection:");
    if (field == NULL)
        return false;
    field += sizeof "\r\nConnection:" - 1;
    field += strspn(field, " \t");
    return strncasecmp(field, "close", 5) == 0;
}

static bool answer(int client, bool closes)
{
    static const char kept[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";
    static const char last[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
    return closes ? send_all(client, last, sizeof last - 1) : send_all(client, kept, sizeof kept - 1);
}

// Requests without a body, one after the other.
static void serve_http(int client)
{
    char bytes[8192 + 1];
    size_t count = 0;
    for (;;) {
        bytes[count] = 0;
        char *end = strstr(bytes, "\r\n\r\n");
        if (end == NULL) {
            ssize_t more = recv(client, bytes + count, sizeof bytes - 1 - count, 0);
            if (more <= 0) // also when there is no room
                return;
            count += (size_t)more;
            continue;
        }
        char *next = end + 4, kept = *next;
        *next = 0;
        bool closes = is_last(bytes);
        *next = kept;
        if (!answer(client, closes) || closes)
            return;
        count -= (size_t)(next - bytes);
        memmove(bytes, next, count);
    }
}

static int bound_socket(void)
{
    const int yes = 1, option = listeners == SHARED ? SO_REUSEADDR : SO_REUSEPORT;
    int bound = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bound < 0 || setsockopt(bound, SOL_SOCKET, option, &yes, sizeof yes) != 0
        || bind(bound, (struct sockaddr *)&address, sizeof address) != 0)
        fail("bind");
    return bound;
}

static int listening_socket(void)
{
    int listener = bound_socket();
    if (listen(listener, 1024) != 0)
        fail("listen");
    return listener;
}

_Noreturn static void work(int number, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(0);
    int listener = listeners == OWN ? listening_socket() : seats[listeners == SHARED ? 0 : number].listener;
    if (ready >= 0 && write(ready, "", 1) != 1)
        _exit(1);
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0)
            continue; // it was gone before it was taken
        counts[number].connections++;
        if (is_http)
            serve_http(client);
        else
            echo(client);
        close(client);
    }
}

// ------------------------------------------------------------------------------------------------------------ parent

static void hire(int number, const sigset_t *signals)
{
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid == 0) {
        sigprocmask(SIG_UNBLOCK, signals, NULL);
        work(number, parent);
    }
    seats[number].pid = pid;
}

static void replace_ended(int workers, const sigset_t *signals)
{
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
        for (int number = 0; number < workers; number++)
            if (seats[number].pid == pid)
                hire(number, signals);
}

static void end(int workers)
{
    for (int number = 0; number < workers; number++)
        kill(seats[number].pid, SIGTERM);
    while (wait(NULL) > 0)
        ;
    fprintf(stderr, "connections:");
    for (int number = 0; number < workers; number++)
        fprintf(stderr, " %lu", counts[number].connections);
    fprintf(stderr, "\n");
}

static int read_arguments(int count, char **arguments)
{
    int workers = 2;
    for (int option; (option = getopt(count, arguments, "w:rk")) != -1;) {
        if (option == 'w')
            workers = atoi(optarg);
        else if (option == 'r' || option == 'k')
            listeners = option == 'r' ? OWN : KEPT;
        else
            exit(64);
    }
    const char *mode = optind == count - 1 ? arguments[optind] : "";
    is_http = strcmp(mode, "http") == 0;
    if (workers < 1 || workers > WORKERS_MAX || (!is_http && strcmp(mode, "echo") != 0)) {
        fprintf(stderr, "usage: prefork [-w WORKERS] [-r | -k] echo | http\n");
        exit(64);
    }
    return workers;
}

// The first one chooses the port; with -r it does not listen, and only keeps the port for the workers.
static void open_listeners(int workers)
{
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    seats[0].listener = listeners == OWN ? bound_socket() : listening_socket();
    if (getsockname(seats[0].listener, (struct sockaddr *)&address, &length) != 0)
        fail("getsockname");
    for (int number = 1; listeners == KEPT && number < workers; number++)
        seats[number].listener = listening_socket();
}

static void hire_all(int workers, const sigset_t *signals)
{
    int ends[2];
    char byte;
    if (pipe2(ends, O_CLOEXEC) != 0)
        fail("pipe2");
    ready = ends[1];
    for (int number = 0; number < workers; number++)
        hire(number, signals);
    ready = -1;
    close(ends[1]);
    for (int number = 0; number < workers; number++)
        if (read(ends[0], &byte, 1) != 1)
            fail("a worker");
    close(ends[0]);
}

int main(int count, char **arguments)
{
    int workers = read_arguments(count, arguments);
    counts = mmap(NULL, WORKERS_MAX * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counts == MAP_FAILED)
        fail("mmap");
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    open_listeners(workers);
    hire_all(workers, &signals);
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int signal = sigwaitinfo(&signals, NULL);
        if (signal == SIGCHLD) {
            replace_ended(workers, &signals);
        } else if (signal > 0) {
            end(workers);
            return 0;
        }
    }
}
