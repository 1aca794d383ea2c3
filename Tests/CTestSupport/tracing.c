// SPDX-License-Identifier: Apache-2.0

#define _GNU_SOURCE

#include "ctestsupport.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

int test_be_traced(void)
{
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 ? 0 : errno;
}

int test_trace(int pid)
{
    return ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0 ? 0 : errno;
}

void test_let_others_trace(void)
{
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
}

int test_make_parents_child(int status)
{
    long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        _exit(status);
    return (int)pid;
}

int test_hold_execve(int *descriptor)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return errno;
    *descriptor = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    return *descriptor < 0 ? errno : 0;
}

int test_let_execve_go(int descriptor)
{
    struct pollfd polled = {.fd = descriptor, .events = POLLIN};
    int count = 0;
    while (poll(&polled, 1, 0) == 1 && (polled.revents & POLLIN)) {
        struct seccomp_notif held = {0};
        if (ioctl(descriptor, SECCOMP_IOCTL_NOTIF_RECV, &held) != 0)
            break;
        struct seccomp_notif_resp answer = {.id = held.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        if (ioctl(descriptor, SECCOMP_IOCTL_NOTIF_SEND, &answer) == 0)
            count++;
    }
    return count;
}

static sem_t is_traced;

static void *be_traced_and_wait(void *context)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    sem_post(&is_traced);
    pause();
    return context;
}

int test_start_traced_thread(void)
{
    pthread_t thread;
    sem_init(&is_traced, 0, 0);
    int error = pthread_create(&thread, NULL, be_traced_and_wait, NULL);
    while (error == 0 && sem_wait(&is_traced) != 0) {}
    return error;
}

int test_close_from(int first, posix_spawn_file_actions_t *actions)
{
    return posix_spawn_file_actions_addclosefrom_np(actions, first);
}
