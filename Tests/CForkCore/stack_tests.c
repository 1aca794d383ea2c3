// SPDX-License-Identifier: Apache-2.0
//
// A stack that a parent's loop has for itself.

#include "test.h"

#include "forkcore_stack.h"

#include <pthread.h>

#ifdef __GLIBC__
#include <execinfo.h>
#endif

static const struct forkcore_child_plan nothing = {0};
static const char *callers_frame;

static struct forkcore_stack *open_stack(void)
{
    struct forkcore_stack *stack = NULL;
    int error = forkcore_stack_open(&stack);
    CHECK(error == 0);
    return stack;
}

static void run(void (*body)(void *))
{
    struct forkcore_stack *stack = open_stack();
    callers_frame = __builtin_frame_address(0);
    forkcore_stack_run(stack, body, stack);
    forkcore_stack_close(stack);
}

static bool is_near_the_caller(const void *address)
{
    return labs((const char *)address - callers_frame) < 1 << 16;
}

// Whether there is memory at `address`, asked without touching it.
static bool is_mapped(const void *address)
{
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    ssize_t count = write(ends[1], address, 1);
    CHECK(count == 1 || errno == EFAULT);
    close(ends[0]);
    close(ends[1]);
    return count == 1;
}

static int mappings(void)
{
    int count = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        count += strchr(line, '\n') != NULL;
    fclose(maps);
    return count;
}

struct start {
    int number;
    const void *of_parent;
    char text[100];
};

static int see_what_there_is(const void *context)
{
    const struct start *start = context;
    int here;
    CHECK(is_near_the_caller(&here));
    CHECK(!is_mapped(start->of_parent));
    CHECK(strcmp(start->text, "what a child is told") == 0);
    return start->number;
}

static int fork_one(struct forkcore_stack *stack, int number)
{
    pid_t pid = 0;
    struct start start = {number, &start, "what a child is told"};
    CHECK(forkcore_stack_fork(stack, &nothing, &start, sizeof start, see_what_there_is, &pid) == 0 && pid > 0);
    return await_end(pid).code;
}

static void fork_many(void *stack)
{
    CHECK(!is_near_the_caller(&stack));
    for (int i = 0; i < 20; i++)
        CHECK(fork_one(stack, i) == i);
    int before = mappings();
    for (int i = 0; i < 100; i++)
        CHECK(fork_one(stack, i) == i);
    CHECK(mappings() == before);
}

static void children_have_nothing_of_it(void)
{
    int before = mappings();
    for (int i = 0; i < 3; i++)
        run(fork_many);
    CHECK(mappings() <= before + 2); // what stdio has made
    start_storm();
    run(fork_many);
    stop_storm();
}

enum { FIRST = 40, OPEN = 5, CLOSED = 3, MOST_CLOSED = 20000 };

static int count_open(const void *context)
{
    (void)context;
    int count = 0;
    for (int i = 0; i < OPEN; i++)
        count += fcntl(FIRST + i, F_GETFD) >= 0;
    return count;
}

// The list lies on the stack that the child does not have. What else is in it is not open.
static void fork_without_descriptors(void *stack)
{
    int closing[MOST_CLOSED];
    for (int i = 0; i < OPEN; i++)
        CHECK(dup2(STDERR_FILENO, FIRST + i) == FIRST + i);
    for (int i = 0; i < MOST_CLOSED; i++)
        closing[i] = i < CLOSED ? FIRST + i : 2 * FIRST + i;
    for (size_t count = CLOSED; count <= MOST_CLOSED; count += MOST_CLOSED - CLOSED) {
        struct forkcore_child_plan plan = {.closing = closing, .closing_count = count};
        pid_t pid;
        CHECK(forkcore_stack_fork(stack, &plan, "", 1, count_open, &pid) == 0);
        CHECK(await_end(pid).code == OPEN - CLOSED);
    }
    for (int i = 0; i < OPEN; i++)
        close(FIRST + i);
}

static void however_many_descriptors_are_closed(void)
{
    run(fork_without_descriptors);
}

static void fork_plainly(void *stack)
{
    for (int i = 1; i < 3; i++) {
        volatile int local = i;
        pid_t pid = fork();
        if (pid == 0)
            _exit(is_mapped((const void *)&local) ? local : 99);
        CHECK(await_end(pid).code == i);
        CHECK(fork_one(stack, i) == i); // and that one has not got it
    }
}

static void who_forks_there_plainly_has_a_copy(void)
{
    run(fork_plainly);
}

static void count_down(void *context)
{
    int *left = context;
    if (--*left > 0)
        CHECK(!is_near_the_caller(&left));
}

static void call_again(void *stack)
{
    int left = 2;
    forkcore_stack_run(stack, count_down, &left);
    CHECK(left == 1);
}

static void it_can_be_run_from_within_itself(void)
{
    run(call_again);
}

static int answer(const void *context)
{
    return *(const int *)context;
}

static void fork_from_inner(void *inner)
{
    for (int i = 0; i < 10; i++) {
        pid_t pid;
        CHECK(forkcore_stack_fork(inner, &nothing, &i, sizeof i, answer, &pid) == 0);
        CHECK(await_end(pid).code == i);
        if ((pid = fork()) == 0)
            _exit(answer(&i));
        CHECK(await_end(pid).code == i);
    }
}

static void run_another(void *outer)
{
    struct forkcore_stack *inner = open_stack();
    for (int i = 0; i < 2; i++) {
        forkcore_stack_run(inner, fork_from_inner, inner);
        CHECK(fork_one(outer, i) == i);
    }
    forkcore_stack_close(inner);
}

static void one_can_be_run_from_another(void)
{
    run(run_another);
}

static volatile int told;

static void fork_on_another_stack(int number)
{
    int local = number;
    pid_t pid = fork();
    if (pid > 0)
        told = await_end(pid).code;
    else
        told = local;
}

static void take_a_signal(void *stack)
{
    volatile int local = 17;
    pid_t parent = getpid();
    raise(SIGUSR1);
    if (getpid() != parent) // the child returns from the handler to this stack
        _exit(local);
    CHECK(told == 17 && fork_one(stack, 5) == 5);
}

static void a_handler_on_another_stack_may_fork(void)
{
    stack_t other = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    CHECK(sigaltstack(&other, NULL) == 0);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = fork_on_another_stack, .sa_flags = SA_ONSTACK}, NULL);
    run(take_a_signal);
}

static char deep(int depth)
{
    volatile char frame[1 << 16];
    memset((char *)frame, depth, sizeof frame);
    return depth > 0 ? (char)(deep(depth - 1) + frame[depth]) : frame[0];
}

static void need_much(void *stack)
{
    (void)stack;
    told = deep(30 * 16); // 30 MiB
}

static void it_is_as_large_as_the_main_threads(void)
{
    setrlimit(RLIMIT_STACK, &(struct rlimit){64 << 20, RLIM_INFINITY});
    run(need_much);
    setrlimit(RLIMIT_STACK, &(struct rlimit){0, RLIM_INFINITY});
    run(fork_many);
}

static int be_a_parent(const void *context)
{
    (void)context;
    run(fork_many); // a stack of its own; the one of its parent is not there
    pid_t pid = fork();
    if (pid == 0)
        _exit(7);
    return await_end(pid).code;
}

static void fork_a_parent(void *stack)
{
    pid_t pid;
    CHECK(forkcore_stack_fork(stack, &nothing, "", 1, be_a_parent, &pid) == 0);
    CHECK(await_end(pid).code == 7);
    CHECK(forkcore_stack_fork(stack, &nothing, callers_frame, 2049, be_a_parent, &pid) == EINVAL);
}

static void a_child_can_have_one_too(void)
{
    run(fork_a_parent);
}

static void without_one_a_child_begins_as_any(void)
{
    pid_t pid;
    int number = 9;
    forkcore_stack_run(NULL, fork_from_inner, NULL);
    CHECK(forkcore_stack_fork(NULL, &nothing, &number, sizeof number, answer, &pid) == 0);
    CHECK(await_end(pid).code == 9);
}

enum { SMALL = 1 << 16 };

static void *fork_on_a_small_stack(void *below)
{
    memset(below, 7, SMALL);
    run(fork_many);
    return below;
}

static void nothing_below_a_small_stack_is_touched(void)
{
    pthread_t thread;
    pthread_attr_t small;
    char *memory = mmap(NULL, 2 * SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED && pthread_attr_init(&small) == 0);
    CHECK(pthread_attr_setstack(&small, memory + SMALL, SMALL) == 0);
    CHECK(pthread_create(&thread, &small, fork_on_a_small_stack, memory) == 0 && pthread_join(thread, NULL) == 0);
    for (int i = 0; i < SMALL; i++)
        CHECK(memory[i] == 7);
    munmap(memory, 2 * SMALL);
}

#ifdef __GLIBC__

static int trace(const void *context)
{
    void *frames[64];
    (void)context;
    int count = backtrace(frames, 64);
    return count > 0 && count < 64 ? 3 : 4;
}

static void fork_a_tracer(void *stack)
{
    void *frames[64];
    pid_t pid;
    CHECK(backtrace(frames, 64) > 3); // its library is loaded here
    CHECK(forkcore_stack_fork(stack, &nothing, "", 1, trace, &pid) == 0);
    struct forkcore_ending ending = await_end(pid);
    CHECK(ending.state == FORKCORE_EXITED && ending.code == 3);
}

static void a_childs_frames_end_where_it_began(void)
{
    run(fork_a_tracer);
}

#endif

const struct test stack_tests[] = {
    {"children have nothing of the stack that their parent is on", children_have_nothing_of_it},
    {"however many descriptors a child is to close, it closes them", however_many_descriptors_are_closed},
    {"who forks there plainly has a copy of it", who_forks_there_plainly_has_a_copy},
    {"it can be run from within itself", it_can_be_run_from_within_itself},
    {"one can be run from another", one_can_be_run_from_another},
    {"a handler on another stack may fork", a_handler_on_another_stack_may_fork},
    {"it is as large as the main thread's", it_is_as_large_as_the_main_threads},
    {"a child can have one, too", a_child_can_have_one_too},
    {"without one a child begins as any", without_one_a_child_begins_as_any},
    {"nothing below a small stack is touched", nothing_below_a_small_stack_is_touched},
#ifdef __GLIBC__
    {"a child's frames end where it began", a_childs_frames_end_where_it_began},
#endif
    {0},
};
