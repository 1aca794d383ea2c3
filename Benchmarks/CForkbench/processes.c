// SPDX-License-Identifier: Apache-2.0
//
// Starting servers so that none outlives forkbench, and what Swift's Glibc module does not show.

#define _GNU_SOURCE

#include "forkbench_serve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t remembered;

static void remember(int signal) { remembered = signal; }

int forkbench_signal(void) { return remembered; }

int forkbench_remember_signals(void)
{
    // Without SA_RESTART: what waits comes back with EINTR.
    struct sigaction action = {.sa_handler = remember};
    const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction before;
        if (sigaction(signals[i], NULL, &before) != 0)
            return errno;
        // Who started us with nohup, or in the background of a script, wants it ignored.
        if (before.sa_handler != SIG_IGN && sigaction(signals[i], &action, NULL) != 0)
            return errno;
    }
    return 0;
}

_Noreturn void forkbench_die_by(int signal)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(signal, &action, NULL);
    raise(signal);
    _exit(128 + signal);
}

int forkbench_adopt_orphans(void) { return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0 ? 0 : errno; }

int forkbench_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC) == 0 ? 0 : errno; }

int forkbench_memory_file(int *descriptor)
{
    *descriptor = memfd_create("stderr", MFD_CLOEXEC);
    return *descriptor < 0 ? errno : 0;
}

// Child. The parent's handlers end with exec; what it ignores would not.
static int become(char *const arguments[], int output, int errors, pid_t parent)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0 || setpgid(0, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return errno;
    if (getppid() != parent)
        _exit(1); // it died before it could be told
    if (dup2(null, 0) < 0 || dup2(output, 1) < 0 || dup2(errors, 2) < 0)
        return errno;
    execvp(arguments[0], arguments);
    return errno;
}

int forkbench_spawn(char *const arguments[], int output, int errors, pid_t *pid)
{
    int failure[2], code = 0;
    if (pipe2(failure, O_CLOEXEC) != 0)
        return errno;
    pid_t parent = getpid();
    *pid = fork();
    if (*pid == 0) {
        code = become(arguments, output, errors, parent);
        _exit(write(failure[1], &code, sizeof code) == sizeof code ? 127 : 126);
    }
    if (*pid < 0)
        code = errno;
    close(failure[1]);
    // Nothing comes if exec closed the pipe: it has worked.
    while (*pid > 0 && read(failure[0], &code, sizeof code) < 0 && errno == EINTR)
        ;
    close(failure[0]);
    if (*pid > 0 && code != 0)
        waitpid(*pid, NULL, 0);
    return code;
}

size_t forkbench_processors(void)
{
    cpu_set_t set; // 1024 processors; with more the call fails
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (size_t)CPU_COUNT(&set) : 1;
}

static int loopback_socket(uint16_t port, struct sockaddr_in *address)
{
    *address = (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

int forkbench_free_port(uint16_t *port)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int code = 0, descriptor = loopback_socket(0, &address);
    if (descriptor < 0)
        return errno;
    if (bind(descriptor, (struct sockaddr *)&address, length) != 0
        || getsockname(descriptor, (struct sockaddr *)&address, &length) != 0)
        code = errno;
    close(descriptor);
    *port = ntohs(address.sin_port);
    return code;
}

bool forkbench_is_listening(uint16_t port)
{
    struct sockaddr_in address;
    int descriptor = loopback_socket(port, &address);
    if (descriptor < 0)
        return false;
    bool connected = connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0;
    close(descriptor);
    return connected;
}
