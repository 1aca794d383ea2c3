// SPDX-License-Identifier: Apache-2.0
//
// Runs the tests, and what they share.

#include "test.h"

#include <poll.h>
#include <sys/time.h>

static volatile pid_t running;

void check(bool condition, const char *text, const char *file, int line)
{
    if (condition)
        return;
    fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", file, line, text, errno);
    _exit(1);
}

static void give_up(int number)
{
    (void)number;
    kill(running, SIGKILL); // its deadline has passed
}

static bool passes(const struct test *test)
{
    fflush(NULL);
    running = fork();
    if (running == 0) {
        setpgid(0, 0);
        signal(SIGALRM, SIG_DFL);
        setrlimit(RLIMIT_NOFILE, &(struct rlimit){64, 64});
        int before = open_descriptors();
        test->run();
        CHECK(open_descriptors() == before);
        CHECK(waitid(P_ALL, 0, &(siginfo_t){0}, WEXITED | WNOHANG | WNOWAIT) == -1 && errno == ECHILD);
        _exit(0);
    }
    setpgid(running, running);
    int status;
    alarm(60);
    while (waitid(P_PID, (id_t)running, &(siginfo_t){0}, WEXITED | WNOWAIT) < 0 && errno == EINTR) {}
    alarm(0);
    kill(-running, SIGKILL); // whatever it left running
    waitpid(running, &status, 0);
    if (WIFSIGNALED(status))
        fprintf(stderr, "killed by signal %d\n", WTERMSIG(status));
    return status == 0;
}

int main(int count, char **arguments)
{
    const struct test *const all[] = {process_tests,  child_tests, event_tests,  socket_tests,
                                      transfer_tests, mark_tests,  program_tests, held_tests, channel_tests,
                                      queue_tests,    message_tests, limit_tests,   line_tests,
                                      worker_tests,   rights_tests, identity_tests, stack_tests, jobs_tests,
                                      memory_tests};
    int passed = 0, failed = 0;

    sigaction(SIGALRM, &(struct sigaction){.sa_handler = give_up}, NULL);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        for (const struct test *test = all[i]; test->name; test++) {
            if (count > 1 && strstr(test->name, arguments[1]) == NULL)
                continue;
            bool ok = passes(test);
            ok ? passed++ : failed++;
            if (!ok)
                printf("FAILED: %s\n", test->name);
        }
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0 || passed == 0;
}

int try_to_start(const struct forkcore_child_plan *plan, int (*body)(void *), void *context, pid_t *pid)
{
    int error = forkcore_fork(plan, pid);
    if (error == 0 && *pid == 0)
        forkcore_exit(body(context));
    return error;
}

pid_t start(const struct forkcore_child_plan *plan, int (*body)(void *), void *context)
{
    pid_t pid;
    CHECK(try_to_start(plan ? plan : &(struct forkcore_child_plan){0}, body, context, &pid) == 0);
    return pid;
}

void await_zombie(pid_t pid)
{
    while (waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED | WNOWAIT) < 0)
        CHECK(errno == EINTR);
}

struct forkcore_ending await_end(pid_t pid)
{
    struct forkcore_ending ending;
    await_zombie(pid);
    CHECK(forkcore_reap(pid, false, &ending) == 0);
    CHECK(ending.state != FORKCORE_RUNNING);
    return ending;
}

int wait_for_gate(void *context)
{
    struct gate *gate = context;
    char byte;
    close(gate->ends[1]);
    while (read(gate->ends[0], &byte, 1) < 0 && errno == EINTR) {}
    return 0;
}

struct gate make_gate(void)
{
    struct gate gate;
    CHECK(pipe2(gate.ends, O_CLOEXEC) == 0);
    return gate;
}

void close_gate(struct gate gate)
{
    close(gate.ends[0]);
    close(gate.ends[1]);
}

static volatile sig_atomic_t storms;

static void count_storm(int number)
{
    (void)number;
    storms++;
}

void start_storm(void)
{
    struct timeval often = {.tv_usec = 200};
    storms = 0;
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = count_storm}, NULL);
    setitimer(ITIMER_REAL, &(struct itimerval){often, often}, NULL);
}

int storm_count(void) { return storms; }

void stop_storm(void)
{
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
}

bool is_blocked(int number)
{
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    return sigismember(&mask, number) == 1;
}

int use_up(int taken[FEW])
{
    int count = 0;
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){FEW, 64});
    while (count < FEW && (taken[count] = dup(2)) >= 0)
        count++;
    CHECK(errno == EMFILE);
    return count;
}

int open_descriptors(void)
{
    int count = 0;
    for (int descriptor = 0; descriptor < 256; descriptor++)
        count += fcntl(descriptor, F_GETFD) >= 0;
    return count;
}

void *shared_memory(void)
{
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

bool is_readable(int descriptor, int timeout_ms)
{
    struct pollfd polled = {.fd = descriptor, .events = POLLIN};
    int count;
    while ((count = poll(&polled, 1, timeout_ms)) < 0)
        CHECK(errno == EINTR);
    return count == 1;
}
