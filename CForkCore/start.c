// SPDX-License-Identifier: Apache-2.0
//
// A process's arguments, and its standard descriptors. Any process.

#include "internal.h"

#include "forkcore_lines.h"

#include <fcntl.h>
#include <unistd.h>

static int argument_count;
static char *none[] = {NULL};
static char **arguments = none;

#ifdef __GLIBC__

__attribute__((constructor)) static void take_arguments(int count, char **vector)
{
    if (vector != NULL && count > 0) {
        argument_count = count;
        arguments = vector;
    }
}

#else

// Other C libraries call constructors without arguments. The kernel puts the arguments just below the environment:
// their number, the arguments, and NULL.
__attribute__((constructor)) static void take_arguments(void)
{
    enum { MOST = 1 << 20 };
    if (environ == NULL || environ[-1] != NULL)
        return;
    for (int count = 0; count < MOST; count++)
        if ((uintptr_t)environ[-2 - count] == (uintptr_t)count) {
            argument_count = count;
            arguments = environ - 1 - count;
            return;
        }
}

#endif

char **forkcore_arguments(int *count)
{
    *count = argument_count;
    return arguments;
}

void forkcore_occupy_standard_descriptors(void)
{
    for (int number = 0; number <= STDERR_FILENO; number++)
        if (fcntl(number, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            (void)open("/", O_PATH); // exists in every container
}
