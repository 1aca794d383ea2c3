// SPDX-License-Identifier: Apache-2.0
//
// System calls that change only registers, and not errno: a process that shares its parent's memory would change the
// parent's.

#ifndef FORKCORE_RAW_H
#define FORKCORE_RAW_H

#include <sys/syscall.h>

#if defined(__x86_64__) && !defined(__ILP32__)

#define FORKCORE_HAS_RAW 1

static inline long forkcore_raw(long number, long a, long b, long c, long d)
{
    register long fourth __asm__("r10") = d, fifth __asm__("r8") = 0; // prctl(2) reads it
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
                     : "rcx", "r11", "memory");
    return result;
}

#elif defined(__aarch64__)

#define FORKCORE_HAS_RAW 1

static inline long forkcore_raw(long number, long a, long b, long c, long d)
{
    register long which __asm__("x8") = number, first __asm__("x0") = a, second __asm__("x1") = b;
    register long third __asm__("x2") = c, fourth __asm__("x3") = d, fifth __asm__("x4") = 0; // prctl(2) reads it
    __asm__ volatile("svc 0"
                     : "+r"(first)
                     : "r"(which), "r"(second), "r"(third), "r"(fourth), "r"(fifth)
                     : "memory");
    return first;
}

#else

#include <errno.h>
#include <unistd.h>

#define FORKCORE_HAS_RAW 0

static inline long forkcore_raw(long number, long a, long b, long c, long d)
{
    long result = syscall(number, a, b, c, d, 0L);
    return result == -1 ? -errno : result;
}

#endif

#endif
