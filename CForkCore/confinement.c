// SPDX-License-Identifier: Apache-2.0
//
// Applies a child's OOM score, user and groups, and then its limits. Child.

#include "internal.h"
#include "raw.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

// Writes the number's text backwards from the end of `digits`; returns its beginning.
static char *text_of(int number, char digits[12])
{
    char *next = digits + 12;
    unsigned rest = number < 0 ? 0U - (unsigned)number : (unsigned)number;
    do
        *--next = (char)('0' + rest % 10);
    while ((rest /= 10) != 0);
    if (number < 0)
        *--next = '-';
    return next;
}

static long set_oom_score(int score)
{
    char digits[12], *text = text_of(score, digits);
    long file = forkcore_raw(SYS_openat, AT_FDCWD, (long)"/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC, 0);
    if (file < 0)
        return file;
    long written = forkcore_raw(SYS_write, file, (long)text, digits + sizeof digits - text, 0);
    forkcore_raw(SYS_close, file, 0, 0, 0);
    return written < 0 ? written : 0;
}

static long take_credentials(const struct forkcore_credentials *whose, const char **call)
{
    // Groups first: setting them needs root's privileges, which the last step gives up.
    *call = "setgroups";
    long result = forkcore_raw(SYS_setgroups, (long)whose->group_count, (long)whose->groups, 0, 0);
    if (result < 0)
        return result;
    *call = "setresgid";
    result = forkcore_raw(SYS_setresgid, whose->group, whose->group, whose->group, 0);
    if (result < 0)
        return result;
    *call = "setresuid";
    return forkcore_raw(SYS_setresuid, whose->user, whose->user, whose->user, 0);
}

int forkcore_confine(const struct forkcore_confinement *confinement, const char **call)
{
    long result = 0;
    *call = "write oom_score_adj";
    if (confinement->sets_oom_score)
        result = set_oom_score(confinement->oom_score);
    if (result >= 0 && confinement->credentials)
        result = take_credentials(confinement->credentials, call);
    return result >= 0 ? forkcore_limit(&confinement->limits, call) : (int)-result;
}

struct trial {
    const struct forkcore_confinement *confinement;
    const char *call;
    int error;
};

static int take_and_end(void *context)
{
    struct trial *trial = context;
    trial->error = forkcore_confine(trial->confinement, &trial->call);
    return 0;
}

int forkcore_try_confinement(const struct forkcore_confinement *confinement, const char **call)
{
    struct trial trial = {.confinement = confinement, .call = "clone"};
    _Alignas(64) char stack[4096];
    sigset_t all, mask;
    sigfillset(&all);
    // A handler of the parent that ran in the child would run in the parent's memory.
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pid_t pid = clone(take_and_end, stack + sizeof stack, CLONE_VM | CLONE_VFORK, &trial);
    int error = pid < 0 ? errno : 0;
    if (error == 0)
        while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR) {}
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    *call = trial.call;
    return error != 0 ? error : trial.error;
}
