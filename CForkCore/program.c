// SPDX-License-Identifier: Apache-2.0
//
// Children that execute a program.
//
// Such a child needs no copy of its parent's memory. It runs in that memory, on a stack of its own, until execve gives
// it another (clone(2) with CLONE_VM, as in vfork and posix_spawn). vfork is slow because the parent stands still
// meanwhile, for a quarter of a millisecond. Here the parent goes on: everything that the child reads is in a slot that
// belongs to it until it has left the parent's memory. The child makes raw system calls, which do not even store an
// errno. The parent reuses the slot only when the kernel has cleared `in_use` (CLONE_CHILD_CLEARTID), which it does
// when a process leaves a memory.

#include "internal.h"
#include "forkcore_containment.h"
#include "raw.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

// The state of one child between clone and execve.
struct spawn_slot {
    pid_t in_use;   // not 0: a child may use this slot
    int descriptor; // closed when the child has left; -1: none
    int target;
    pid_t parent, *watched;
    uint64_t defaults;
    bool own_group, own_session, dies_with_parent, closes_aside, takes_errors;
    struct forkcore_confinement confinement;
    struct forkcore_credentials credentials; // its groups are also in `strings`
    int *exec_error, ignored;
    const char *path;
    char **argv, **envp; // their strings are in `strings`
    char *strings;
    size_t size;
    _Alignas(64) char stack[4096];
};

enum {
    FIRST_SIZE = 1 << 16,
    FUTEX_WAIT = 0, // linux/futex.h, which not every libc comes with
};

struct forkcore_spawner {
    const char *call; // the last call that could fail
    struct spawn_slot slots[FORKCORE_SPAWN_SLOTS];
};

// ------------------------------------------------------------------------------------------------------------ the child

static long duplicate(int descriptor, int target)
{
    long result;
    while ((result = forkcore_raw(SYS_dup3, descriptor, target, 0, 0)) == -EINTR || result == -EBUSY) {}
    return result;
}

// The child shares the parent's descriptor table. It gets a table of its own, with copies of the descriptors up to its
// connection only. In a server these are a dozen, because a connection gets the lowest free number.
static long take_descriptors(int descriptor, int where, bool takes_errors)
{
    const long unshare_first = 1 << 1, cloexec = 1 << 2;
    long result = forkcore_raw(SYS_close_range, descriptor + 1, (long)~0U, unshare_first, 0);
    if (result < 0)
        result = forkcore_raw(SYS_unshare, CLONE_FILES, 0, 0, 0); // a kernel before 5.9
    if (result >= 0)
        result = duplicate(descriptor, where);
    if (result >= 0 && where == STDIN_FILENO)
        result = duplicate(descriptor, STDOUT_FILENO);
    if (result >= 0 && takes_errors)
        result = duplicate(descriptor, STDERR_FILENO);
    // Kernels before 5.11 refuse, but all descriptors that the server itself opened are close-on-exec anyway.
    const int first = STDERR_FILENO + 1;
    forkcore_raw(SYS_close_range, where < first ? first : where + 1, (long)~0U, cloexec, 0);
    if (where > first)
        forkcore_raw(SYS_close_range, first, where - 1, cloexec, 0);
    return result;
}

// A handler of the parent that ran in this child would run in the parent's memory. Signals are still blocked here.
static void reset_signals(const struct spawn_slot *slot)
{
    for (int number = 1; number <= FORKCORE_SIGNALS; number++) {
        uint64_t action[4] = {0}; // the kernel's layout: the handler, or SIG_DFL or SIG_IGN, comes first
        forkcore_raw(SYS_rt_sigaction, number, 0, (long)action, sizeof(uint64_t));
        if (action[0] > (uintptr_t)SIG_IGN || (action[0] != 0 && (slot->defaults & forkcore_bit(number))))
            forkcore_raw(SYS_rt_sigaction, number, (long)(uint64_t[4]){0}, 0, sizeof(uint64_t));
    }
    forkcore_raw(SYS_rt_sigprocmask, SIG_SETMASK, (long)&(uint64_t){0}, 0, sizeof(uint64_t));
}

// When this returns, clone(2) ends the child, by a raw system call.
static int become_program(void *context)
{
    const struct spawn_slot *slot = context;
    if (slot->own_session)
        forkcore_raw(SYS_setsid, 0, 0, 0, 0);
    else if (slot->own_group)
        forkcore_raw(SYS_setpgid, 0, 0, 0, 0);
    const char *call;
    long result = take_descriptors(slot->descriptor, slot->target, slot->takes_errors);
    if (result >= 0)
        result = -forkcore_confine(&slot->confinement, &call);
    if (slot->dies_with_parent) {
        if (slot->watched)
            __atomic_store_n(slot->watched, (pid_t)forkcore_raw(SYS_getpid, 0, 0, 0, 0), __ATOMIC_SEQ_CST);
        else
            forkcore_raw(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
        if (forkcore_raw(SYS_getppid, 0, 0, 0, 0) != slot->parent) // the parent died before the prctl
            return 0;
    }
    if (result >= 0) {
        reset_signals(slot);
        result = forkcore_raw(SYS_execve, (long)slot->path, (long)slot->argv, (long)slot->envp, 0);
    }
    *__atomic_load_n(&slot->exec_error, __ATOMIC_ACQUIRE) = (int)-result;
    return 127;
}

// ----------------------------------------------------------------------------------------------------------- the parent

int forkcore_spawner_open(struct forkcore_spawner **spawner)
{
    void *memory;
    int error = forkcore_parent_memory_open(sizeof **spawner, &memory);
    if (error != 0)
        return error;
    *spawner = memory;
    for (int i = 0; i < FORKCORE_SPAWN_SLOTS; i++)
        (*spawner)->slots[i].descriptor = -1;
    return 0;
}

static bool is_in_use(const struct spawn_slot *slot)
{
    return __atomic_load_n(&slot->in_use, __ATOMIC_ACQUIRE) != 0;
}

// Whether the child has left the slot; if so, closes the descriptor of the slot.
static bool clear(struct spawn_slot *slot)
{
    if (is_in_use(slot))
        return false;
    if (slot->descriptor >= 0 && slot->closes_aside)
        forkcore_close_aside(slot->descriptor); // the program may have ended, and this may be the last copy
    else if (slot->descriptor >= 0)
        forkcore_close(slot->descriptor);
    slot->descriptor = -1;
    return true;
}

const char *forkcore_spawner_failed_call(const struct forkcore_spawner *spawner)
{
    return spawner->call;
}

bool forkcore_spawner_close_descriptors(struct forkcore_spawner *spawner)
{
    bool all = true;
    for (int i = 0; i < FORKCORE_SPAWN_SLOTS; i++)
        all &= clear(&spawner->slots[i]);
    return all;
}

// Waits until the child has left the slot; returns whether it did before `end`.
static bool await(struct spawn_slot *slot, int64_t end)
{
    while (!clear(slot)) {
        int64_t rest = end - forkcore_now();
        if (rest <= 0)
            return false;
        struct timespec timeout = {.tv_sec = rest / 1000000000, .tv_nsec = rest % 1000000000};
        pid_t in_use = __atomic_load_n(&slot->in_use, __ATOMIC_ACQUIRE);
        if (in_use != 0)
            forkcore_raw(SYS_futex, (long)&slot->in_use, FUTEX_WAIT, in_use, (long)&timeout);
    }
    return true;
}

bool forkcore_spawner_await(struct forkcore_spawner *spawner, int64_t timeout_ns)
{
    int64_t end = forkcore_now() + timeout_ns;
    bool all = true;
    for (int i = 0; i < FORKCORE_SPAWN_SLOTS; i++)
        all &= await(&spawner->slots[i], end);
    return all;
}

// Gives up a slot whose child has not left it. The child has its own descriptor table by now, but still uses the slot's
// strings and stack, so that they stay.
static void leave(struct spawn_slot *slot)
{
    if (slot->descriptor >= 0)
        forkcore_close(slot->descriptor);
    __atomic_store_n(&slot->exec_error, &slot->ignored, __ATOMIC_RELEASE);
}

void forkcore_spawner_close(struct forkcore_spawner *spawner, int64_t timeout_ns)
{
    bool all = forkcore_spawner_await(spawner, timeout_ns);
    for (int i = 0; i < FORKCORE_SPAWN_SLOTS; i++) {
        struct spawn_slot *slot = &spawner->slots[i];
        if (!clear(slot))
            leave(slot);
        else if (slot->size > 0)
            forkcore_parent_memory_close(slot->strings, slot->size);
    }
    if (all)
        forkcore_parent_memory_close(spawner, sizeof *spawner);
}

static struct spawn_slot *free_slot(struct forkcore_spawner *spawner)
{
    for (int i = 0; i < FORKCORE_SPAWN_SLOTS; i++)
        if (clear(&spawner->slots[i]))
            return &spawner->slots[i];
    return NULL;
}

struct extent {
    size_t count, bytes;
};

static struct extent extent_of(char *const vector[])
{
    struct extent extent = {0};
    for (; vector[extent.count]; extent.count++)
        extent.bytes += strlen(vector[extent.count]) + 1;
    return extent;
}

static size_t size_of_groups(const struct forkcore_confinement *confinement)
{
    return confinement->credentials ? confinement->credentials->group_count * sizeof *confinement->credentials->groups : 0;
}

static char *copy_string(const char *string, char **end)
{
    size_t size = strlen(string) + 1;
    char *copy = memcpy(*end, string, size);
    *end += size;
    return copy;
}

static void copy_vector(char *const from[], char *to[], char **end)
{
    while (*from)
        *to++ = copy_string(*from++, end);
    *to = NULL;
}

static void copy_confinement(struct spawn_slot *slot, const struct forkcore_confinement *confinement, char **end)
{
    slot->confinement = *confinement;
    if (!confinement->credentials)
        return;
    slot->credentials = *confinement->credentials;
    slot->credentials.groups = (uint32_t *)(void *)*end;
    if (slot->credentials.group_count > 0)
        memcpy(*end, confinement->credentials->groups, size_of_groups(confinement));
    *end += size_of_groups(confinement);
    slot->confinement.credentials = &slot->credentials;
}

// Copies the strings, because the caller may free them before the program has been executed.
static int copy_strings(struct spawn_slot *slot, const struct forkcore_confinement *confinement, const char *path, char *const argv[],
                        char *const envp[])
{
    struct extent arguments = extent_of(argv), variables = extent_of(envp);
    size_t pointers = (arguments.count + 1 + variables.count + 1) * sizeof(char *);
    size_t size = pointers + size_of_groups(confinement) + arguments.bytes + variables.bytes + strlen(path) + 1;
    if (size > slot->size) {
        void *memory;
        size = size < FIRST_SIZE ? FIRST_SIZE : size;
        int error = forkcore_parent_memory_open(size, &memory);
        if (error != 0)
            return error;
        if (slot->size > 0)
            forkcore_parent_memory_close(slot->strings, slot->size);
        slot->strings = memory;
        slot->size = size;
    }
    slot->argv = (char **)(void *)slot->strings;
    slot->envp = slot->argv + arguments.count + 1;
    char *end = slot->strings + pointers;
    copy_confinement(slot, confinement, &end);
    slot->path = copy_string(path, &end);
    copy_vector(argv, slot->argv, &end);
    copy_vector(envp, slot->envp, &end);
    return 0;
}

static int fill(struct spawn_slot *slot, const struct forkcore_child_plan *plan, int descriptor, int *exec_error)
{
    // A duplicate, because the caller may close its descriptor, and reuse the number, before the child has its own
    // table. Its number is above those that the program gets.
    slot->target = plan->target_descriptor;
    slot->descriptor = fcntl(descriptor, F_DUPFD_CLOEXEC, (plan->target_descriptor > STDERR_FILENO ? plan->target_descriptor : STDERR_FILENO) + 1);
    if (slot->descriptor < 0)
        return errno;
    slot->parent = forkcore_process();
    slot->defaults = plan->defaults | forkcore_bit(SIGPIPE);
    slot->own_group = plan->own_group;
    slot->own_session = plan->own_session;
    slot->dies_with_parent = plan->dies_with_parent;
    slot->watched = plan->watcher ? &forkcore_watcher_roster(plan->watcher)[plan->watched_as] : NULL;
    slot->closes_aside = plan->closes_aside;
    slot->takes_errors = plan->takes_errors;
    slot->exec_error = exec_error;
    *exec_error = 0;
    return 0;
}

// Moves a pidfd to a high number. A child copies the descriptors up to its connection's, so the low numbers must stay
// free for connections. If no high number is free, the pidfd keeps its number, and children copy more.
static void raise_descriptor(int *descriptor)
{
    int higher = fcntl(*descriptor, F_DUPFD_CLOEXEC, 256);
    if (higher < 0)
        return;
    forkcore_close(*descriptor);
    *descriptor = higher;
}

int forkcore_spawn(struct forkcore_spawner *spawner, const struct forkcore_child_plan *plan, int descriptor,
                   const char *path, char *const argv[], char *const envp[], int *exec_error, pid_t *child, int *pidfd)
{
    struct spawn_slot *slot = free_slot(spawner);
    // The program would get a copy of each descriptor that is still to be closed aside, maybe the last copy, and would
    // have to close it.
    if (!slot || forkcore_is_closing_aside())
        return EBUSY;
    spawner->call = "mmap";
    int error = copy_strings(slot, &plan->confinement, path, argv, envp);
    if (error != 0)
        return error;
    spawner->call = "fcntl";
    error = fill(slot, plan, descriptor, exec_error);
    if (error != 0)
        return error;
    spawner->call = "clone";

    sigset_t all, mask;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    slot->in_use = 1;
    // If a process that shares its parent's memory sets its OOM score, the kernel sets the parent's too, unless the
    // parent waits in vfork.
    const int stand_still = FORKCORE_HAS_RAW && !plan->confinement.sets_oom_score ? 0 : CLONE_VFORK;
    const int flags = CLONE_VM | CLONE_FILES | CLONE_PIDFD | CLONE_CHILD_CLEARTID | SIGCHLD | stand_still;
    *child = clone(become_program, slot->stack + sizeof slot->stack, flags, slot, pidfd, NULL, &slot->in_use);
    error = *child < 0 ? errno : 0;
    if (error == 0) {
        raise_descriptor(pidfd);
    } else {
        slot->in_use = 0;
        clear(slot);
    }
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    return error;
}
