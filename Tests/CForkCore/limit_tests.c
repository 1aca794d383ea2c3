// SPDX-License-Identifier: Apache-2.0
//
// What a child can be limited to. Each test is a process of its own, and limits that.

#include "test.h"

#include "forkcore_zygote.h"

#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#endif

static void limit(struct forkcore_limits limits)
{
    const char *refused = "";
    int error = forkcore_limit(&limits, &refused);
    if (error != 0)
        fprintf(stderr, "%s: %s\n", refused, strerror(error));
    CHECK(error == 0);
}

static struct rlimit limit_of(int which)
{
    struct rlimit limit;
    CHECK(getrlimit(which, &limit) == 0);
    return limit;
}

static void none_changes_nothing(void)
{
    struct rlimit before[3] = {limit_of(RLIMIT_CPU), limit_of(RLIMIT_AS), limit_of(RLIMIT_NOFILE)};
    limit((struct forkcore_limits){0});
    struct rlimit after[3] = {limit_of(RLIMIT_CPU), limit_of(RLIMIT_AS), limit_of(RLIMIT_NOFILE)};
    CHECK(memcmp(before, after, sizeof before) == 0);
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
    CHECK(prctl(PR_GET_SECCOMP) == 0);
}

static int spin(void *context)
{
    (void)context;
    limit((struct forkcore_limits){.cpu_seconds = 1});
    for (volatile bool forever = true; forever;) {}
    return 0;
}

static int spin_on(void *context)
{
    signal(SIGXCPU, SIG_IGN);
    return spin(context);
}

static void time_ends_by_its_signal_and_then_by_force(void)
{
    pid_t heeding = start(NULL, spin, NULL), ignoring = start(NULL, spin_on, NULL);
    struct forkcore_ending ending = await_end(heeding);
    CHECK(ending.state == FORKCORE_KILLED && ending.signal == SIGXCPU);
    ending = await_end(ignoring);
    CHECK(ending.state == FORKCORE_KILLED && ending.signal == SIGKILL);
}

static void memory_is_what_comes_besides(void)
{
    const size_t large = 256 << 20;
    void *before = mmap(NULL, large, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); // it does not count
    CHECK(before != MAP_FAILED);
    limit((struct forkcore_limits){.memory = 32 << 20});
    void *within = mmap(NULL, 31 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(within != MAP_FAILED);
    CHECK(mmap(NULL, 2 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM);
    munmap(within, 31 << 20);
    munmap(before, large);
}

static void more_memory_than_there_are_numbers_is_no_limit(void)
{
    rlim_t before = limit_of(RLIMIT_AS).rlim_max;
    limit((struct forkcore_limits){.memory = UINT64_MAX});
    CHECK(limit_of(RLIMIT_AS).rlim_max == before);
}

static void a_limit_is_never_raised(void)
{
    limit((struct forkcore_limits){.open_files = 32});
    limit((struct forkcore_limits){.open_files = 60});
    struct rlimit files = limit_of(RLIMIT_NOFILE);
    CHECK(files.rlim_cur == 32 && files.rlim_max == 32);
}

// To know how much is mapped takes a descriptor, which there may be none for.
static void memory_can_be_limited_together_with_files(void)
{
    limit((struct forkcore_limits){.memory = 32 << 20, .open_files = 3});
    CHECK(limit_of(RLIMIT_AS).rlim_cur != RLIM_INFINITY);
    CHECK(dup(2) == -1 && errno == EMFILE);
}

static void without_a_descriptor_memory_is_refused(void)
{
    int taken[FEW], count = use_up(taken);
    const char *refused = "";
    CHECK(forkcore_limit(&(struct forkcore_limits){.memory = 1}, &refused) == EMFILE);
    CHECK(strcmp(refused, "setrlimit RLIMIT_AS") == 0);
    while (count > 0)
        close(taken[--count]);
}

static void privileges_stay_as_they_are(void)
{
    limit((struct forkcore_limits){.no_new_privileges = true});
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    CHECK(prctl(PR_GET_SECCOMP) == 0);
}

#ifdef __GLIBC__

static bool is_refused(int family)
{
    int made = socket(family, SOCK_STREAM, 0);
    if (made >= 0)
        close(made);
    return made < 0 && errno == EACCES;
}

static void without_network_there_are_unix_sockets_only(void)
{
    int pair[2];
    limit((struct forkcore_limits){.no_network = true});
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    CHECK(is_refused(AF_INET) && is_refused(AF_INET6) && is_refused(AF_NETLINK) && is_refused(AF_PACKET));
    CHECK(syscall(SYS_socket, AF_INET | 1LL << 32, SOCK_STREAM, 0) == -1 && errno == EACCES);
    CHECK(syscall(SYS_io_uring_setup, 1, NULL) == -1 && errno == EACCES);
#ifdef __x86_64__
    CHECK(syscall(SYS_getpid | 0x40000000) == -1 && errno == EACCES); // x86-64's other kind
#endif
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    close(pair[0]);
    close(pair[1]);
    CHECK((pair[0] = socket(AF_UNIX, SOCK_DGRAM, 0)) >= 0);
    close(pair[0]);
}

// A server's, and a connection to it.
static int connected(int *server, struct sockaddr_in *address)
{
    socklen_t length = sizeof *address;
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int client = socket(AF_INET, SOCK_STREAM, 0);
    *server = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(*server, (struct sockaddr *)address, sizeof *address) == 0 && listen(*server, 8) == 0);
    CHECK(getsockname(*server, (struct sockaddr *)address, &length) == 0);
    CHECK(connect(client, (struct sockaddr *)address, sizeof *address) == 0);
    return client;
}

static void without_network_a_connection_stays_what_it_is(void)
{
    int server, other;
    struct sockaddr_in address, others;
    int client = connected(&server, &address), unused = connected(&other, &others);
    limit((struct forkcore_limits){.no_network = true});
    CHECK(send(client, "x", 1, 0) == 1); // what was given works
    connect(client, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr));
    CHECK(connect(client, (struct sockaddr *)&others, sizeof others) == -1 && errno == EACCES);
    CHECK(sendto(client, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&others, sizeof others) == -1 && errno == EACCES);
    struct iovec data = {.iov_base = "x", .iov_len = 1};
    struct mmsghdr message = {.msg_hdr = {.msg_name = &others, .msg_namelen = sizeof others, .msg_iov = &data, .msg_iovlen = 1}};
    CHECK(sendmsg(client, &message.msg_hdr, MSG_FASTOPEN) == -1 && errno == EACCES);
    CHECK(sendmmsg(client, &message, 1, MSG_FASTOPEN) == -1 && errno == EACCES);
    CHECK(listen(client, 8) == -1 && errno == EACCES);
    close(client);
    close(unused);
    close(server);
    close(other);
}

static void without_network_unix_sockets_work_where_landlock_is(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    socklen_t length = sizeof address;
    CHECK(bind(server, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0 && listen(server, 8) == 0);
    CHECK(getsockname(server, (struct sockaddr *)&address, &length) == 0);
    bool has_landlock = syscall(444, NULL, 0, 1) >= 4; // its version: rules for TCP
    limit((struct forkcore_limits){.no_network = true});
    int result = connect(client, (struct sockaddr *)&address, length);
    CHECK(has_landlock ? result == 0 : result == -1 && errno == EACCES);
    close(client);
    close(server);
}

#else // without the kernel's headers there is no filter, which is said

static void without_network_there_are_unix_sockets_only(void)
{
    const char *refused = "";
    CHECK(forkcore_limit(&(struct forkcore_limits){.no_network = true}, &refused) == ENOSYS);
    CHECK(strcmp(refused, "seccomp") == 0);
}

static void without_network_a_connection_stays_what_it_is(void) {}
static void without_network_unix_sockets_work_where_landlock_is(void) {}

#endif

static void without_dispatch_it_has_no_threads(void)
{
    CHECK(!forkcore_dispatch_has_threads());
}

const struct test limit_tests[] = {
    {"none changes nothing", none_changes_nothing},
    {"time ends by its signal, and then by force", time_ends_by_its_signal_and_then_by_force},
    {"memory is what comes besides", memory_is_what_comes_besides},
    {"more memory than there are numbers is no limit", more_memory_than_there_are_numbers_is_no_limit},
    {"a limit is never raised", a_limit_is_never_raised},
    {"memory can be limited together with files", memory_can_be_limited_together_with_files},
    {"without a descriptor memory is refused", without_a_descriptor_memory_is_refused},
    {"privileges stay as they are", privileges_stay_as_they_are},
    {"without network there are Unix sockets only", without_network_there_are_unix_sockets_only},
    {"without network a connection stays what it is", without_network_a_connection_stays_what_it_is},
    {"without network Unix sockets work where Landlock is", without_network_unix_sockets_work_where_landlock_is},
    {"without Dispatch it has no threads", without_dispatch_it_has_no_threads},
    {0},
};
