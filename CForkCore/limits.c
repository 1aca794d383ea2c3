// SPDX-License-Identifier: Apache-2.0
//
// Applies a child's limits, by raw system calls only, because a child that will call execve runs in its parent's
// memory. Child.

#include "internal.h"
#include "forkcore_zygote.h"
#include "raw.h"

#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if __has_include(<linux/seccomp.h>) // a kernel header, which not every libc comes with
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#if defined(__x86_64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_AARCH64
#endif
#endif

// Defined if libdispatch is linked in.
__attribute__((weak)) bool _dispatch_is_multithreaded(void);

bool forkcore_dispatch_has_threads(void)
{
    return _dispatch_is_multithreaded && _dispatch_is_multithreaded();
}

struct limit {
    uint64_t soft, hard;
};

static long limit_of(int which, const struct limit *new, struct limit *old)
{
    return forkcore_raw(SYS_prlimit64, 0, which, (long)new, (long)old);
}

// Never raises a limit: only root may raise a hard limit, and must not do so by accident.
static long lower(int which, uint64_t soft, uint64_t hard)
{
    struct limit limit;
    long result = limit_of(which, NULL, &limit);
    if (result < 0)
        return result;
    limit.hard = hard < limit.hard ? hard : limit.hard;
    limit.soft = soft < limit.hard ? soft : limit.hard;
    return limit_of(which, &limit, NULL);
}

// The number of bytes that are mapped now: the first number of /proc/self/statm, in pages. 0 is an error.
static long mapped(uint64_t *bytes)
{
    char text[32];
    long file = forkcore_raw(SYS_openat, AT_FDCWD, (long)"/proc/self/statm", O_RDONLY | O_CLOEXEC, 0);
    if (file < 0)
        return file;
    long got = forkcore_raw(SYS_read, file, (long)text, sizeof text, 0);
    forkcore_raw(SYS_close, file, 0, 0, 0);
    *bytes = 0;
    for (long i = 0; i < got && text[i] >= '0' && text[i] <= '9'; i++)
        *bytes = *bytes * 10 + (uint64_t)(text[i] - '0');
    *bytes *= (uint64_t)sysconf(_SC_PAGESIZE);
    return *bytes == 0 ? -EIO : 0;
}

void forkcore_share_one_arena(void)
{
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 1);
#endif
}

static long limit_memory(const struct forkcore_limits *limits)
{
    uint64_t bytes = 0;
    long result = limits->memory_is_all ? 0 : mapped(&bytes);
    uint64_t all = bytes + limits->memory < bytes ? UINT64_MAX : bytes + limits->memory;
    return result < 0 ? result : lower(RLIMIT_AS, all, all);
}

#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425 // the same on all architectures
#endif

// Landlock, which has rules for TCP since Linux 6.7. Defined here, because headers can be older than the kernel.
#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444 // the same on all architectures
#define __NR_landlock_restrict_self 446
#endif

// Forbids to connect a TCP socket that was made before, and to bind it to a port: the ruleset names these rights, and
// grants none of them. ENOSYS, EOPNOTSUPP: the kernel has no Landlock; E2BIG, EINVAL: an older Landlock.
static long forbid_tcp(void)
{
    enum { BIND_TCP = 1 << 0, CONNECT_TCP = 1 << 1 };
    const struct {
        uint64_t files, network;
    } handled = {.network = BIND_TCP | CONNECT_TCP};
    long rules = forkcore_raw(__NR_landlock_create_ruleset, (long)&handled, sizeof handled, 0, 0);
    if (rules < 0)
        return rules;
    long result = forkcore_raw(__NR_landlock_restrict_self, rules, 0, 0, 0);
    forkcore_raw(SYS_close, rules, 0, 0, 0);
    return result;
}

#ifdef OWN_ARCHITECTURE

// Allows socket(2) for Unix sockets only, and forbids io_uring(7), which could make sockets without socket(2). An
// inherited TCP socket that is no longer connected could listen, or connect to another peer as it sends (MSG_FASTOPEN),
// which Landlock does not check: forbids both. Forbids all system calls of other architectures and of x32, because they
// have other numbers. If Landlock does not check connect(2), forbids it completely, because a filter cannot see the
// address.
static long forbid_network(bool can_connect)
{
    enum { X32 = 0x40000000, FLAGS_2 = 13, FLAGS_3 = 15, REFUSE = 17, ALLOW = 18 };
#define TO(place, here) ((place) - (here) - 1)
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCHITECTURE, 0, TO(REFUSE, 1)),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32, TO(REFUSE, 3), 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, TO(REFUSE, 4), 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_listen, TO(REFUSE, 5), 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, can_connect ? __NR_listen : __NR_connect, TO(REFUSE, 6), 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_sendto, TO(FLAGS_3, 7), 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_sendmmsg, TO(FLAGS_3, 8), 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_sendmsg, TO(FLAGS_2, 9), 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_socket, 0, TO(ALLOW, 10)),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, TO(ALLOW, 12), TO(REFUSE, 12)),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])), // FLAGS_2
        BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[3])), // FLAGS_3
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MSG_FASTOPEN, TO(REFUSE, 16), TO(ALLOW, 16)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES), // REFUSE
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW), // ALLOW
    };
#undef TO
    struct sock_fprog program = {.len = sizeof rules / sizeof rules[0], .filter = rules};
    return forkcore_raw(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&program, 0);
}

#else

static long forbid_network(bool can_connect)
{
    (void)can_connect;
    return -ENOSYS;
}

#endif

int forkcore_limit(const struct forkcore_limits *limits, const char **call)
{
    long result = 0;
    if (limits->cpu_seconds > 0) {
        *call = "setrlimit RLIMIT_CPU";
        result = lower(RLIMIT_CPU, limits->cpu_seconds, limits->cpu_seconds + 1);
    }
    if (result >= 0 && limits->memory > 0) { // before RLIMIT_NOFILE, because it needs a descriptor
        *call = "setrlimit RLIMIT_AS";
        result = limit_memory(limits);
    }
    if (result >= 0 && (limits->no_new_privileges || limits->no_network)) {
        *call = "prctl PR_SET_NO_NEW_PRIVS";
        result = forkcore_raw(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0);
    }
    bool can_connect = result >= 0 && limits->no_network && forbid_tcp() >= 0; // also before RLIMIT_NOFILE
    if (result >= 0 && limits->open_files > 0) {
        *call = "setrlimit RLIMIT_NOFILE";
        result = lower(RLIMIT_NOFILE, limits->open_files, limits->open_files);
    }
    if (result >= 0 && limits->no_network) {
        *call = "seccomp";
        result = forbid_network(can_connect);
    }
    return (int)-result;
}
